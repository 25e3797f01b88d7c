"""`poprep state`: what is known of each message, shown and changed. Only `adopt` contacts a server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from poprep_cli.cli import state_view
from poprep_cli.cli.choosing import choose
from poprep_cli.cli.settings import CONTEXT, Settings
from poprep_cli.config.load import load
from poprep_cli.engine.record import held_keys, locked_journal
from poprep_cli.errors import ExitCode, PoprepError, StateError, most_severe

if TYPE_CHECKING:
    from poprep_cli.config.model import Connector
    from poprep_cli.engine.state import Journal
    from poprep_cli.engine.state_import import Imported

_SHOW_EPILOG = """\b
Examples:
  poprep state show                  every connector, enabled or not
  poprep state show office | less    one of them
  poprep state show --json office    for scripts
"""

_ADOPT_EPILOG = """\b
Examples:
  poprep state adopt office     the server was migrated, and poll stops with "uidl-storm"
"""

_FORGET_EPILOG = """\b
Examples:
  poprep state forget office 1.807a3a7b      have this message delivered again
  poprep state forget office --all           all that is in the mailbox is new mail
"""

_IMPORT_EPILOG = """\b
Examples:
  poprep state import office office-export.jsonl
  poprep state import office ~/.fetchids                       from fetchmail
  poprep state import --account joe@pop.old.example office ~/.fetchids
  poprep state import office ~/.mpop_uidls                     from mpop
"""

_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@click.group(context_settings=CONTEXT)
def state() -> None:
    """Show and change what is known of each message.

    Each command takes the connector's lock: while a pass runs the exit code is 75. Connectors
    that are switched off can be named, too.
    """


@state.command(epilog=_SHOW_EPILOG, context_settings=CONTEXT)
@click.argument("connector", nargs=-1)
@_json_option
@click.pass_obj
def show(settings: Settings, connector: tuple[str, ...], as_json: bool) -> ExitCode:
    """Show what is known of each message, oldest first, and how many there are of each status."""
    documents: list[dict[str, Any]] = []
    for one in choose(load(settings.config_path), connector, enabled=False):
        with _told(one, documents) as document, locked_journal(one, settings.state_path) as journal:
            document.update(state_view.described(journal))
    state_view.show(documents, as_json=as_json)
    return _exit_code(documents)


@state.command(epilog=_ADOPT_EPILOG, context_settings=CONTEXT)
@click.argument("connector")
@_json_option
@click.pass_obj
def adopt(settings: Settings, connector: str, as_json: bool) -> ExitCode:
    """Take all that is in the mailbox for known mail.

    Logs in and lists. Messages that were delivered under other UIDLs are recognised by Message-ID,
    Date and From, and keep their status. All others that are unknown are recorded as ignored: they
    are never forwarded, and never deleted. Use it after a migration of the server, when a poll
    stops because it can't tell known mail from new mail.
    """
    from poprep_cli.cli.state_adopt import carry_out

    config = load(settings.config_path)
    (one,) = choose(config, (connector,), enabled=False)
    document = carry_out(config, one, settings)
    state_view.tell(
        document,
        "{connector}: {adopted} recognised under new UIDLs, {ignored} recorded as ignored, {listed} in the mailbox",
        as_json=as_json,
    )
    return ExitCode(document["exit_code"])


@state.command(epilog=_FORGET_EPILOG, context_settings=CONTEXT)
@click.argument("connector")
@click.argument("uidl", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Forget all messages.")
@_json_option
@click.pass_obj
def forget(settings: Settings, connector: str, uidl: tuple[str, ...], everything: bool, as_json: bool) -> ExitCode:
    """Forget messages: what is still in the mailbox is new mail then, and is delivered again.

    UIDL is as `state show` prints it. If one of them is unknown, nothing is forgotten. Files in
    held/ and badmail/ stay, and nothing is deleted from the mailbox by this.
    """
    if bool(uidl) == everything:
        raise click.UsageError("name UIDLs, or give --all")
    (one,) = choose(load(settings.config_path), (connector,), enabled=False)
    with locked_journal(one, settings.state_path) as journal:
        keys = list(journal.entries) if everything else _keys(journal, uidl)
        for key in keys:
            del journal.entries[key]
        if everything:
            journal.header["mailbox"] = f"{one.pop3.user}@{one.pop3.address}"
        if keys:
            journal.compact(force=True)
    state_view.tell(
        {"connector": one.name, "exit_code": 0, "forgotten": len(keys)},
        "{connector}: {forgotten} forgotten; what of it is still in the mailbox is new mail at the next poll, "
        "and is delivered again",
        as_json=as_json,
    )
    return ExitCode.OK


@state.command(context_settings=CONTEXT)
@click.argument("connector")
@click.argument("file", type=click.Path(path_type=Path), default="-")
@click.pass_obj
def export(settings: Settings, connector: str, file: Path) -> None:
    """Write the journal to FILE, or to standard output: one JSON line a message.

    FILE is for its owner alone, and is replaced if it exists. `state import` reads it.
    """
    from poprep_cli.engine import files

    (one,) = choose(load(settings.config_path), (connector,), enabled=False)
    with locked_journal(one, settings.state_path) as journal:
        data = b"".join(journal.whole())
    if str(file) == "-":
        with click.open_file("-", "wb") as out:
            out.write(data)
    else:
        files.replace(file, data)


@state.command("import", epilog=_IMPORT_EPILOG, context_settings=CONTEXT)
@click.argument("connector")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--account", metavar="USER@HOST", help="Whose lines to take from the file of fetchmail or mpop.")
@_json_option
@click.pass_obj
def import_(settings: Settings, connector: str, file: Path, account: str | None, as_json: bool) -> ExitCode:
    """Add what FILE knows: an export, the .fetchids of fetchmail, or the UIDLs file of mpop. - is standard input.

    What is known here stays, unless FILE has a more final status of it. Messages that fetchmail or
    mpop have fetched are recorded as ignored: never forwarded, never deleted. If a line can't be
    understood, nothing is changed.
    """
    from poprep_cli.engine import files
    from poprep_cli.engine.state_import import merge

    (one,) = choose(load(settings.config_path), (connector,), enabled=False)
    found = _read(one, file, account)
    files.make_folder(settings.state_path)
    with locked_journal(one, settings.state_path) as journal:
        taken, known = merge(journal, found, held_keys(one, settings.state_path))
        if taken:
            journal.compact(force=True)
    state_view.tell(
        {"connector": one.name, "exit_code": 0, "imported": taken, "known": known},
        "{connector}: {imported} imported, {known} were known",
        as_json=as_json,
    )
    return ExitCode.OK


@state.command(context_settings=CONTEXT)
@click.argument("connector", nargs=-1)
@_json_option
@click.pass_obj
def compact(settings: Settings, connector: tuple[str, ...], as_json: bool) -> ExitCode:
    """Write the journal anew, with one line a message. Polls do so by themselves when it is worthwhile."""
    documents: list[dict[str, Any]] = []
    for one in choose(load(settings.config_path), connector, enabled=False):
        with _told(one, documents) as document, locked_journal(one, settings.state_path) as journal:
            document["lines_before"] = journal.lines
            if journal.lines:
                journal.compact(force=True)
            document["lines"] = journal.lines
    state_view.tell_all(documents, "{connector}: {lines_before} lines before, {lines} now", as_json=as_json)
    return _exit_code(documents)


@contextmanager
def _told(connector: Connector, documents: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Give the connector's part of the document. An error is told, and stops only this connector."""
    document: dict[str, Any] = {"connector": connector.name, "exit_code": 0, "errors": []}
    documents.append(document)
    try:
        yield document
    except PoprepError as error:
        state_view.tell_error(connector.name, error)
        document["exit_code"] = int(error.exit_code)
        document["errors"].append({"message": str(error), "hint": error.hint})


def _exit_code(documents: list[dict[str, Any]]) -> ExitCode:
    return most_severe(document["exit_code"] for document in documents)


def _keys(journal: Journal, uidls: tuple[str, ...]) -> list[bytes]:
    from poprep_cli.engine.state import named, plain_uidl

    keys: dict[bytes, None] = {}
    for uidl in uidls:
        found = [key for key in journal.entries if uidl in (named(key), plain_uidl(key))]
        if not found:
            raise click.UsageError(f"no message {uidl!r} is known in {journal.path}; nothing was forgotten")
        keys.update(dict.fromkeys(found))
    return list(keys)


def _read(connector: Connector, file: Path, account: str | None) -> Imported:
    from poprep_cli.engine import clock
    from poprep_cli.engine.state_import import read

    user, host = connector.pop3.user, connector.pop3.address.host
    if account is not None:
        user, _, host = account.rpartition("@")
    try:
        with click.open_file(str(file), "rb") as source:
            data: bytes = source.read()
    except OSError as error:
        raise click.UsageError(f"can't read {file}: {(error.strerror or str(error)).lower()}") from error
    try:
        found = read(data, user, host, clock.stamp(clock.now()))
    except ValueError as error:
        raise StateError(f"{file}: {error}", hint="nothing was changed") from error
    mailbox = f"{connector.pop3.user}@{connector.pop3.address}"
    if found.mailbox not in ("", mailbox):
        raise StateError(
            f"{file} is the state of {found.mailbox}, and connector {connector.name} is {mailbox}; nothing was changed",
            hint="if it is the same mailbox under another name, change the first line of the file",
        )
    return found
