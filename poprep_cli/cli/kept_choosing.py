"""Which kept messages a command line is about, and whether the configuration still knows their connectors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from poprep_cli.cli.settings import Settings
from poprep_cli.engine.kept import NOUNS, Kept, Kind, connectors_with_mail, find, survey
from poprep_cli.errors import ConfigError

if TYPE_CHECKING:
    from poprep_cli.config.model import Config


def chosen(
    settings: Settings, kind: Kind, ids: tuple[str, ...], connectors: tuple[str, ...], *, every: bool
) -> list[Kept]:
    """Return the messages that the command line names. Raises click.UsageError for unknown ones, and if it names none."""
    if bool(ids) == every:
        raise click.UsageError("name messages by their ids, or use --all" + (", not both" if every else ""))
    items = mail_of(settings, kind, connectors, config_if_right(settings) if connectors else None)
    if every:
        return items
    try:
        return find(items, ids)
    except LookupError as error:
        other: Kind = "held" if kind == "badmail" else "badmail"
        try:
            find(survey(settings.state_path, other, connectors), ids)
        except LookupError:
            raise click.UsageError(f"{error} (`poprep {kind} list` shows them)" if items else str(error)) from None
        raise click.UsageError(f"this is {NOUNS[other]} now: use `poprep {other}`") from None


def mail_of(settings: Settings, kind: Kind, names: tuple[str, ...], config: Config | None) -> list[Kept]:
    """Return the mail of the connectors that are named, or all. Raises click.UsageError for a name that nothing has."""
    known = set(connectors_with_mail(settings.state_path, kind))
    known |= {one.name for one in config.connectors} if config is not None else set(names)
    for name in names:
        if name.lower() not in {one.lower() for one in known}:
            there = ", ".join(sorted(known)) or "none"
            raise click.UsageError(f"there is no connector {name!r}, nor mail of one; there are: {there}")
    return survey(settings.state_path, kind, names)


def config_if_right(settings: Settings) -> Config | None:
    """Return the configuration, or None where it can't be used: mail can be looked at and saved all the same."""
    from poprep_cli.config.load import load

    try:
        return load(settings.config_path)
    except ConfigError:
        return None


def by_connector(items: Sequence[Kept]) -> dict[str, list[Kept]]:
    """Return the messages by the names of their connectors."""
    found = defaultdict(list)
    for item in items:
        found[item.connector].append(item)
    return dict(found)
