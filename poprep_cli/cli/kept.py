"""The commands that `poprep badmail` and `poprep held` share: list, show, retry, drop, export."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from inspect import cleandoc
from pathlib import Path

import click

from poprep_cli.cli import console
from poprep_cli.cli.kept_choosing import by_connector, chosen, config_if_right, mail_of
from poprep_cli.cli.settings import CONTEXT, Settings
from poprep_cli.engine import kept as engine
from poprep_cli.engine.kept import NOUNS, Kept, Kind
from poprep_cli.errors import PoprepError, most_severe

_ids = click.argument("ids", nargs=-1, metavar="[ID]...")
_connectors = click.option(
    "--connector",
    "connectors",
    multiple=True,
    metavar="NAME",
    help="Only of this connector. May be given several times.",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")

_RETRY: dict[Kind, tuple[str, str]] = {
    "badmail": (
        "Send refused mail once more, now.",
        """It becomes held mail again, with a new age and with the recipients of --to if there are any, and is offered to
        the SMTP server at once; the mailbox is not contacted. If the server can't be reached it stays held, and each
        pass goes on trying. Once it is delivered, its copy in the mailbox follows the rules for delivered mail.""",
    ),
    "held": (
        "Send held mail now.",
        """It is offered to the SMTP server at once, as the next pass would do; the mailbox is not contacted. With --to
        it goes to these recipients instead of those that are left.""",
    ),
}
_DROP: dict[Kind, tuple[str, str]] = {
    "badmail": (
        "Remove refused mail from this machine for good.",
        "Its copy in the mailbox stays there and is not fetched again; `poprep purge --rejected` deletes it.",
    ),
    "held": (
        "Give up held mail for good.",
        """It counts as discarded then: it is not fetched again, and its copy in the mailbox is deleted as your
        server_copy rules have it for delivered mail, with leave_copy = false by the next pass.""",
    ),
}
_ASIDE: dict[Kind, str] = {
    "badmail": "The copies in the mailbox stay; `poprep purge --rejected` deletes them.",
    "held": "They are not fetched again, and their copies in the mailbox are deleted as the rules for delivered mail say.",
}


def group(kind: Kind, about: str) -> click.Group:
    """Return the group of commands for one kind of kept mail."""
    made = click.Group(kind, help=about, epilog=_examples(kind), context_settings=CONTEXT)
    commands = (
        _list_command(kind),
        _show_command(kind),
        _retry_command(kind),
        _drop_command(kind),
        _export_command(kind),
    )
    for command in commands:
        made.add_command(command)
    return made


def _examples(kind: Kind) -> str:
    return f"""\b
Examples:
  poprep {kind} list                        what is there, and why
  poprep {kind} show 3f9a                   all about one; the beginning of its id will do
  poprep {kind} retry 3f9a --to a@corp.example
  poprep {kind} export 3f9a mail.eml        the exact octets as received
  poprep {kind} drop 3f9a
"""


# ---------------------------------------------------------------------- list, show


def _list_command(kind: Kind) -> click.Command:
    @click.command("list", context_settings=CONTEXT, help=f"List {NOUNS[kind]}, oldest first: id, sender, reason.")
    @click.argument("connector", nargs=-1)
    @_json
    @click.pass_obj
    def list_kept(settings: Settings, connector: tuple[str, ...], as_json: bool) -> None:
        from poprep_cli.cli import kept_view

        config = config_if_right(settings)
        items = mail_of(settings, kind, connector, config)
        known = None if config is None else [one.name for one in config.connectors]
        if as_json:
            kept_view.show_json({kind: [kept_view.as_dict(item, known) for item in items]})
        elif console.is_terminal(sys.stdout):
            kept_view.render(kind, items, known)
        else:
            kept_view.show_lines(items, known)

    return list_kept


def _show_command(kind: Kind) -> click.Command:
    about = f"""Show all that is known of {NOUNS[kind]}.

    That is its envelope, what the server said and when, and its header. Text of others is shown with its control characters made visible. `export` has the exact octets.
    """

    @click.command("show", context_settings=CONTEXT, help=about)
    @click.argument("ids", nargs=-1, required=True, metavar="ID...")
    @click.option("--body", is_flag=True, help="Show the body, too, as it came.")
    @_json
    @click.pass_obj
    def show(settings: Settings, ids: tuple[str, ...], body: bool, as_json: bool) -> None:
        from poprep_cli.cli import kept_view

        config = config_if_right(settings)
        known = None if config is None else [one.name for one in config.connectors]
        items = chosen(settings, kind, ids, (), every=False)
        if as_json:
            kept_view.show_json({kind: [kept_view.as_dict(item, known, whole=True, body=body) for item in items]})
            return
        for position, item in enumerate(items):
            click.echo("\n" * bool(position) + "\n".join(kept_view.details(item, known, body=body)))

    return show


# ---------------------------------------------------------------------- retry


def _retry_command(kind: Kind) -> click.Command:
    @click.command("retry", context_settings=CONTEXT, help="\n\n".join(map(cleandoc, _RETRY[kind])))
    @_ids
    @click.option("--all", "every", is_flag=True, help="All that is there.")
    @_connectors
    @click.option("--to", multiple=True, metavar="ADDRESS", help="Send it to this recipient instead. May be repeated.")
    @click.option("--force", is_flag=True, help="Log in even while refused logins make it wait.")
    @_json
    @click.pass_obj
    def retry(
        settings: Settings,
        ids: tuple[str, ...],
        every: bool,
        connectors: tuple[str, ...],
        to: tuple[str, ...],
        force: bool,
        as_json: bool,
    ) -> int:
        from poprep_cli.cli import kept_retry
        from poprep_cli.config.load import load

        addresses = tuple(dict.fromkeys(to))
        kept_retry.check_addresses(addresses)
        config = load(settings.config_path)
        items = chosen(settings, kind, ids, connectors, every=every)
        return kept_retry.retry(settings, config, kind, items, addresses, force=force, as_json=as_json)

    return retry


# ---------------------------------------------------------------------- drop


def _drop_command(kind: Kind) -> click.Command:
    @click.command("drop", context_settings=CONTEXT, help="\n\n".join(map(cleandoc, _DROP[kind])))
    @_ids
    @click.option("--all", "every", is_flag=True, help="All that is there.")
    @_connectors
    @click.option("--yes", is_flag=True, help="Don't ask. Needed where there is no terminal to ask on.")
    @_json
    @click.pass_obj
    def drop(
        settings: Settings, ids: tuple[str, ...], every: bool, connectors: tuple[str, ...], yes: bool, as_json: bool
    ) -> int:
        items = chosen(settings, kind, ids, connectors, every=every)
        if items and not yes and not _confirmed(kind, items):
            click.echo("nothing was removed", err=True)
            return 0
        return _drop(settings, kind, items, as_json=as_json)

    return drop


def _confirmed(kind: Kind, items: Sequence[Kept]) -> bool:
    if not console.is_terminal(sys.stdin):
        raise click.UsageError("there is no terminal to ask on: say --yes if this mail is to be removed for good")
    from poprep_cli.cli.kept_view import lines

    click.echo("\n".join(lines(items, None)), err=True)
    click.echo(_ASIDE[kind], err=True)
    count = f"these {len(items)} messages" if len(items) > 1 else "this message"
    return click.confirm(f"Remove {count} from this machine for good?", err=True)


def _drop(settings: Settings, kind: Kind, items: Sequence[Kept], *, as_json: bool) -> int:
    from poprep_cli.cli import kept_view

    dropped: list[Kept] = []
    errors: list[tuple[str, PoprepError]] = []
    for connector, of_it in by_connector(items).items():
        try:
            gone = engine.drop(settings.state_path, connector, of_it)
        except PoprepError as error:
            errors.append((connector, error))
            continue
        dropped += gone
        _log_dropped(settings, kind, connector, gone)
    code = most_severe(one.exit_code for _, one in errors)
    if as_json:
        kept_view.show_json(
            {
                "exit_code": int(code),
                "dropped": [{"id": item.id, "connector": item.connector} for item in dropped],
                "errors": [{"connector": name, "message": str(one), "hint": one.hint} for name, one in errors],
            }
        )
    elif console.is_terminal(sys.stdout) and not settings.quiet:
        click.echo(f"{len(dropped)} removed")
    for name, one in errors:
        click.echo(f"poprep: {name}: {one}", err=True)
        if one.hint:
            click.echo(f"  {one.hint}", err=True)
    return code


def _log_dropped(settings: Settings, kind: Kind, connector: str, items: Sequence[Kept]) -> None:
    """Write into the log, if the configuration says where that is, what people gave up."""
    from poprep_cli.cli.running import open_log
    from poprep_cli.engine.state import named

    config = config_if_right(settings)
    if config is None or not items:
        return
    log = open_log(config, settings.state_path)
    say = log.sayer(connector)
    for item in items:
        uidl = named(item.slip.message_uidl) if item.slip is not None else "a message without a readable slip"
        say(1, f"dropped {uidl} from {kind} ({item.id}), by command")
    log.close()


# ---------------------------------------------------------------------- export


def _export_command(kind: Kind) -> click.Command:
    about = f"""Save {NOUNS[kind]}, octet by octet as received.

    It goes to FILE, or to standard output without one. FILE is for its owner alone and must not exist; a folder gets CONNECTOR-ID.eml. The message stays where it is.
    """

    @click.command("export", context_settings=CONTEXT, help=about)
    @click.argument("message", required=False, metavar="[ID]")
    @click.argument("file", required=False, type=click.Path(path_type=Path))
    @click.option(
        "--all",
        "folder",
        type=click.Path(path_type=Path, file_okay=False),
        metavar="DIR",
        help="Save all that is there into this folder, one file each.",
    )
    @_connectors
    @_json
    @click.pass_obj
    def export(
        settings: Settings,
        message: str | None,
        file: Path | None,
        folder: Path | None,
        connectors: tuple[str, ...],
        as_json: bool,
    ) -> None:
        if folder is not None and message is not None:
            raise click.UsageError("name one message or use --all DIR, not both")
        ids = () if message is None else (message,)
        items = chosen(settings, kind, ids, connectors, every=folder is not None)
        if folder is not None:
            _make_folder(folder)
            _export(items, folder, as_json=as_json)
        elif file is None or str(file) == "-":
            _print(items[0], as_json=as_json)
        else:
            _export(items, file, as_json=as_json)

    return export


def _make_folder(folder: Path) -> None:
    from poprep_cli.engine.files import translated

    with translated(f"make the folder {folder}"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def _print(item: Kept, *, as_json: bool) -> None:
    if as_json:
        raise click.UsageError("--json needs a FILE: without one the message itself goes to standard output")
    out = sys.stdout.buffer
    for part in engine.content(item):
        out.write(part)
    out.flush()


def _export(items: Sequence[Kept], target: Path, *, as_json: bool) -> None:
    saved = []
    for item in items:
        path = engine.export(item, target)
        saved.append({"id": item.id, "connector": item.connector, "file": str(path)})
        if not as_json:
            click.echo(path)
    if as_json:
        from poprep_cli.cli.kept_view import show_json

        show_json({"exported": saved})
