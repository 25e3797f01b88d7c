"""What `poprep state` prints: tables and sentences for people, one document for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

from poprep_cli.engine.state import Journal, as_dict, named
from poprep_cli.errors import PoprepError
from poprep_cli.protocol.wire import printable

_HEADINGS = ("UIDL", "STATUS", "FIRST SEEN", "SINCE", "OCTETS")


def described(journal: Journal) -> dict[str, Any]:
    """Return what is known, for the document; `shown` is the name of a message for people."""
    return {
        "mailbox": journal.mailbox,
        "counts": dict(sorted(Counter(entry.status for entry in journal.entries.values()).items())),
        "unreadable_lines": journal.skipped,
        "messages": [as_dict(key, entry) | {"shown": named(key)} for key, entry in journal.entries.items()],
    }


def show(documents: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """Print all that is known."""
    if as_json:
        tell_all(documents, "", as_json=True)
        return
    for document in documents:
        if "messages" in document:
            click.echo(f"{document['connector']}: {printable(document['mailbox'])}")
            _table([_HEADINGS, *(_row(message) for message in document["messages"])])
            _sum(document)


def _row(message: Mapping[str, Any]) -> tuple[str, str, str, str, str]:
    status = message["status"] + (", gone" if message.get("gone") else "")
    octets = f"{message['octets']:,}" if message.get("octets") else ""
    times = (printable(message["first_seen"], 30), printable(message["at"], 30))
    return (message["shown"], status, *times, octets)


def _table(rows: Sequence[Sequence[str]]) -> None:
    if len(rows) == 1:
        return
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    octets = max(len(row[4]) for row in rows)
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:4], widths, strict=True)]
        click.echo("  " + "  ".join([*cells, row[4].rjust(octets)]).rstrip())


def _sum(document: Mapping[str, Any]) -> None:
    counts = ", ".join(f"{count} {status}" for status, count in document["counts"].items())
    total = len(document["messages"])
    click.echo(f"  {total} message{'' if total == 1 else 's'}{': ' + counts if counts else ''}")
    if document["unreadable_lines"]:
        click.echo(f"  {document['unreadable_lines']} lines of the journal can't be read")


def tell(document: Mapping[str, Any], sentence: str, *, as_json: bool) -> None:
    """Print what was done: the sentence with the document's values, or the document."""
    if as_json:
        _json(document)
    elif not document["exit_code"]:
        click.echo(sentence.format(**document))


def tell_all(documents: Iterable[Mapping[str, Any]], sentence: str, *, as_json: bool) -> None:
    """Print what was done with each connector."""
    found = list(documents)
    if as_json:
        from poprep_cli.errors import most_severe

        code = most_severe(document["exit_code"] for document in found)
        _json({"exit_code": int(code), "connectors": found})
        return
    for document in found:
        tell(document, sentence, as_json=False)


def tell_error(connector: str, error: PoprepError) -> None:
    """Say on stderr what is not well."""
    click.echo(f"poprep: {connector}: {error}", err=True)
    if error.hint:
        click.echo(f"  {error.hint}", err=True)


def _json(document: Mapping[str, Any]) -> None:
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())
