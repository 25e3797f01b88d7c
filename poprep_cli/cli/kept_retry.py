"""A retry of kept mail: a run over its connectors without any POP3 session, and what is told of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import click

from poprep_cli.cli import console, kept_view
from poprep_cli.cli.choosing import choose
from poprep_cli.cli.kept_choosing import by_connector
from poprep_cli.cli.running import run_over
from poprep_cli.cli.settings import Settings
from poprep_cli.config.load import accepts
from poprep_cli.config.model import Config, MailAddress
from poprep_cli.engine.kept import Kept, Kind, Retry
from poprep_cli.engine.visit import Surroundings
from poprep_cli.errors import ConfigError, most_severe
from poprep_cli.protocol.wire import printable


def check_addresses(addresses: Sequence[str]) -> None:
    """Raise click.BadParameter for what is no address."""
    for address in addresses:
        if not accepts(MailAddress, address):
            raise click.BadParameter(
                f"{printable(address)!r} is not an address such as office@corp.example, without < and >",
                param_hint="--to",
            )


def retry(
    settings: Settings,
    config: Config,
    kind: Kind,
    items: Sequence[Kept],
    to: tuple[str, ...],
    *,
    force: bool,
    as_json: bool,
) -> int:
    """Send the messages, tell what became of them, and return the exit code. Raises ConfigError."""
    chosen = by_connector(items)
    _refuse_unconfigured(config, kind, chosen)
    connectors = choose(config, tuple(chosen)) if chosen else []
    work = Retry(kind, {name: [item.path.name for item in found] for name, found in chosen.items()}, to)
    surroundings = Surroundings(settings.state_path, settings.config_path.absolute(), force=force)
    run, signal_code = run_over(config, connectors, settings, surroundings, work)
    if as_json:
        console.show_json(run, signal_code, plans=False)
    elif console.on_terminal() and not settings.quiet:
        click.echo("\n".join(kept_view.summary(kind, run.reports)))
    console.tell_problems(run.reports, stopped=signal_code is not None)
    return signal_code or most_severe(report.exit_code for report in run.reports)


def _refuse_unconfigured(config: Config, kind: Kind, names: Collection[str]) -> None:
    """Raise ConfigError for connectors that the configuration does not have: nobody knows to which server their mail goes."""
    known = {one.name for one in config.connectors}
    for name in names:
        if name not in known:
            raise ConfigError(
                f"{config.path} has no connector {name} any more, so there is no SMTP server for its mail",
                hint=f"put connector.{name} back, or save the mail by `poprep {kind} export` and then `drop` it; "
                f"--all with --connector leaves it out",
            )
