"""`poprep config`: check, show and change the configuration, without touching the network."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from poprep_cli.cli.settings import CONTEXT, Settings
from poprep_cli.errors import ConfigError

if TYPE_CHECKING:
    import msgspec

    from poprep_cli.config.model import Config, Connector, Secret

MASK = "********"

_CHECK_EPILOG = """\b
Examples:
  poprep config check                     the configuration in use
  poprep --config test.toml config check  another one
  poprep config check --secrets           ask commands and keyrings, too
"""

_SHOW_EPILOG = """\b
Examples:
  poprep config show           everything
  poprep config show office    one connector
"""

_SET_EPILOG = """\b
Examples:
  poprep config set smtp.host mail.example.com
  poprep config set connector.office.pop3.host pop.example.net
  poprep config set connector.office.pop3.user office@example.net
  poprep config set connector.office.pop3.password -
  poprep config set connector.office.pop3.password '{ command = "pass show office" }'
  poprep config set connector.office.routing.send_to a@corp.example,b@corp.example
  poprep config set connector.office.server_copy.leave_copy false
"""


@click.group(context_settings=CONTEXT)
def config() -> None:
    """Check, show and change the configuration.

    The configuration is one TOML file, poprep.toml. Nothing here touches the network.
    """


@config.command(epilog=_CHECK_EPILOG, context_settings=CONTEXT)
@click.option("--secrets", "ask", is_flag=True, help="Also run the commands and ask the keyrings that hold secrets.")
@click.pass_obj
def check(settings: Settings, ask: bool) -> None:
    """Tell whether the configuration is right.

    Every fault is told with its line and what is allowed, and the exit code is 78. What makes
    mail or passwords easier to intercept is a warning. Secrets in the environment and in files
    are looked at; commands are run and keyrings asked with --secrets only.
    """
    from poprep_cli.config.load import load
    from poprep_cli.config.weaknesses import weaknesses

    path = settings.config_path
    loaded = load(path)
    for connector in loaded.connectors:
        for weakness in weaknesses(connector):
            click.echo(f"poprep: warning: connector {connector.name}: {weakness}", err=True)
    _check_secrets(loaded, ask=ask)
    number = len(loaded.connectors)
    disabled = sum(not connector.enabled for connector in loaded.connectors)
    click.echo(f"{path}: ok, {number} connector{'' if number == 1 else 's'} ({disabled} disabled)")


@config.command(epilog=_SHOW_EPILOG, context_settings=CONTEXT)
@click.argument("connector", required=False)
@click.pass_obj
def show(settings: Settings, connector: str | None) -> None:
    """Show the configuration as poprep understands it.

    Defaults are filled in, [smtp] is merged into each connector, and secrets are masked. What
    has neither a value nor a default is shown as a comment.
    """
    from poprep_cli.config.load import load

    loaded = load(settings.config_path)
    chosen = loaded.connectors if connector is None else (_named(loaded, connector),)
    blocks = list(_general_blocks(loaded)) if connector is None else []
    blocks += [block for each in chosen for block in _connector_blocks(each)]
    click.echo("\n\n".join(blocks))


@config.command("set", epilog=_SET_EPILOG, context_settings=CONTEXT)
@click.argument("key")
@click.argument("value")
@click.pass_obj
def set_key(settings: Settings, key: str, value: str) -> None:
    """Set KEY to VALUE in the configuration file; comments in it stay.

    VALUE is a TOML value, a text without quotes, or a list such as a,b. With - it is asked for,
    or read from standard input: so a password shows up in no list of processes and in no shell
    history. The file is made if it is missing. If VALUE is wrong, nothing is changed.
    """
    from poprep_cli.config.edit import holds_secret, set_value

    asked = value == "-"
    if asked:
        value = _asked_for(key, hidden=holds_secret(key))
    for missing in set_value(settings.config_path, key, value, literal=asked):
        click.echo(f"poprep: warning: not complete yet: {missing}", err=True)


@config.command(context_settings=CONTEXT)
@click.pass_obj
def path(settings: Settings) -> None:
    """Print where the configuration is looked for.

    That is --config, else $POPREP_CONFIG, else poprep.toml in the user's configuration folder.
    Whether the file is there is told on stderr.
    """
    import os

    place = settings.config_path
    click.echo(place)
    there = os.path.exists(place)  # noqa: PTH110 - Path's raises where it can't look
    click.echo("the file exists" if there else "there is no such file yet", err=True)


def _asked_for(key: str, *, hidden: bool) -> str:
    if sys.stdin.isatty():
        return str(click.prompt(key, hide_input=hidden, err=True))
    try:
        return sys.stdin.readline().removesuffix("\n")
    except UnicodeDecodeError:
        pass
    raise ConfigError(f"{key}: what came on standard input is not UTF-8 text")


def _named(loaded: Config, name: str) -> Connector:
    for connector in loaded.connectors:
        if connector.name.lower() == name.lower():
            return connector
    names = ", ".join(connector.name for connector in loaded.connectors)
    raise click.UsageError(f"there is no connector {name!r}; there are: {names}")


def _check_secrets(loaded: Config, *, ask: bool) -> None:
    """Raise ConfigError with every secret of an enabled connector that can't be had."""
    from poprep_cli.config.model import secrets_of
    from poprep_cli.config.secrets import command_line, resolve

    folder = Path(loaded.path).parent
    failures: list[ConfigError] = []
    for connector in loaded.connectors:
        for what, secret, user in secrets_of(connector) if connector.enabled else ():
            try:
                if secret.command is not None:
                    command_line(secret.command, what)
                if ask or (secret.command is None and secret.keyring is None):
                    resolve(secret, what=what, user=user, folder=folder)
            except ConfigError as error:
                failures.append(error)
    if failures:
        hints = dict.fromkeys(failure.hint for failure in failures if failure.hint)
        raise ConfigError("\n".join(map(str, failures)), hint="\n  ".join(hints) or None)


def _general_blocks(loaded: Config) -> Iterator[str]:
    from poprep_cli.config.model import Config, tables

    for name, kind in tables(Config).items():
        yield _block((name,), kind, getattr(loaded, name))


def _connector_blocks(connector: Connector) -> Iterator[str]:
    from poprep_cli.config.model import Connector, tables

    yield _block(("connector", connector.name), Connector, connector)
    for name, kind in tables(Connector).items():
        yield _block(("connector", connector.name, name), kind, getattr(connector, name))


def _block(where: tuple[str, ...], kind: type[msgspec.Struct], table: msgspec.Struct) -> str:
    from poprep_cli.config.model import NO_SECRET, dotted, keys

    lines = [f"[{dotted(where)}]"]
    for name, key in keys(kind).items():
        value = key.value_in(table)
        lines.append(f"# {name} is not set" if value in (None, NO_SECRET) else f"{name} = {_toml(value)}")
    return "\n".join(lines)


def _toml(value: object) -> str:
    from poprep_cli.config.model import Secret, quoted

    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(int(value)) if int(value) == value else str(value)
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, Secret):
        return _source(value)
    return quoted(str(value))  # a text or an Address


def _source(secret: Secret) -> str:
    """Return where a secret comes from; a command is masked whole, since it may hold one itself."""
    from poprep_cli.config.model import quoted

    for name in ("env", "file", "keyring"):
        place = getattr(secret, name)
        if place is not None:
            return f"{{ {name} = {quoted(place)} }}"
    return quoted(MASK) if secret.value is not None else f"{{ command = {quoted(MASK)} }}"
