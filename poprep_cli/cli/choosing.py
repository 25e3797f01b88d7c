"""Which connectors a command is about: those that are named, or all that are enabled."""

from __future__ import annotations

from poprep_cli.config.model import Config, Connector
from poprep_cli.errors import ConfigError


def choose(config: Config, names: tuple[str, ...], *, enabled: bool = True) -> list[Connector]:
    """Return the connectors that are named, or all that are enabled; with `enabled` false those that are not, too.

    Raises click.UsageError for an unknown name, ConfigError for one that is switched off.
    """
    if not names:
        return [one for one in config.connectors if one.enabled or not enabled]
    known = {one.name.lower(): one for one in config.connectors}
    chosen = []
    for name in {name.lower(): name for name in names}.values():
        one = known.get(name.lower())
        if one is None:
            import click

            raise click.UsageError(
                f"there is no connector {name!r} in {config.path}; there are: {', '.join(sorted(known))}"
            )
        if enabled and not one.enabled:
            raise ConfigError(
                f"{config.path}: connector.{one.name} is switched off", hint="set its enabled = true to use it"
            )
        chosen.append(one)
    return chosen
