"""What `poprep probe` looks at: a connector of the configuration, or any host by the settings that are the default."""

from __future__ import annotations

from dataclasses import dataclass

import click

from poprep_cli.cli.settings import Settings
from poprep_cli.config.model import Address, Pop3, Secret, Smtp
from poprep_cli.errors import ConfigError

TIMEOUT = 10.0  # seconds for each answer of a host without a connector
POP3S = 995  # RFC 8314 3: TLS at connect
POP3 = 110


@dataclass(frozen=True, slots=True)
class Target:
    """A server to look at. `connector` is its name, "" for a host; `hint` what to say if nobody is there.

    `poll_every` is in minutes; `notes` say what was chosen and why, `warnings` what is wrong with the configuration.
    """

    pop3: Pop3
    connector: str = ""
    smtp: Smtp | None = None
    poll_every: float = 0.0
    hint: str = ""
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def choose(settings: Settings, word: str, *, at_connect: bool) -> Target:
    """Return the connector that `word` names, else the host.

    Raises click.UsageError for what is neither, or `at_connect` with a connector; ConfigError for a connector that is
    switched off, and for a plain word while the configuration can't be read.
    """
    from poprep_cli.cli.choosing import choose as choose_connectors
    from poprep_cli.config.load import load

    looks_like_host = any(mark in word for mark in ".:")
    hint = ""
    warnings: tuple[str, ...] = ()
    if settings.config_path.exists():
        try:
            config = load(settings.config_path)
        except ConfigError as error:
            if not looks_like_host:
                raise
            warnings = (f"the configuration is left aside: {str(error).splitlines()[0]}",)
        else:
            names = [one.name for one in config.connectors]
            if word.lower() in (name.lower() for name in names):
                (one,) = choose_connectors(config, (word,))
                if at_connect:
                    raise click.UsageError(f"--ssl is for hosts; for a connector it is connector.{one.name}.pop3.ssl")
                return Target(one.pop3, one.name, one.smtp, one.poll_every)
            if not looks_like_host:
                hint = f"there is no connector {word!r} in {config.path} either; there are: {', '.join(sorted(names))}"
    return _host(word, hint, warnings, at_connect=at_connect)


def _host(word: str, hint: str, warnings: tuple[str, ...], *, at_connect: bool) -> Target:
    from msgspec.structs import replace

    from poprep_cli.config.values import NotAllowedError, converted

    try:
        address: Address = converted(Address, word)
    except NotAllowedError as error:
        raise click.UsageError(f"neither a connector nor a host: {error}" + (f"; {hint}" if hint else "")) from None
    if address.path:
        raise click.UsageError("a POP3 server has a host and a port; a unix socket is not allowed")
    notes: tuple[str, ...] = ()
    if address.port == POP3S and not at_connect:
        at_connect = True
        notes = ("port 995 is for TLS at connect: probed as with --ssl",)
    pop3 = Pop3(
        address=replace(address, port=address.port or (POP3S if at_connect else POP3)),
        ssl=at_connect,
        # The default for this machine's own servers is "off"; but what TLS they have is to be seen.
        tls="wanted" if address.is_local else "required",
        user="nobody",  # never sent, as the password is not
        password=Secret(),
        timeout=TIMEOUT,
    )
    return Target(pop3, hint=hint, notes=notes, warnings=warnings)
