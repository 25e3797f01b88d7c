"""How `badmail` and `held` show mail: a table on a terminal, aligned columns in a pipe, all of one message, or JSON."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from datetime import timedelta
from typing import Any

import click

from poprep_cli.cli.console import size
from poprep_cli.engine import clock, files
from poprep_cli.engine.kept import NOUNS, Kept, Kind, content
from poprep_cli.engine.message import field
from poprep_cli.engine.report import ConnectorReport
from poprep_cli.engine.state import named
from poprep_cli.errors import StateError
from poprep_cli.protocol.wire import printable

HEAD_OCTETS = 1 << 16  # what is read of a header to show it
HEADER_LINES = 60
LINE = 998  # characters, RFC 5322 2.1.1
_TEXT = 2000  # characters of a field that are decoded
_COLUMNS = ("id", "connector", "age", "from", "subject", "to", "size", "why")


def show_json(document: dict[str, Any]) -> None:
    """Print a --json document."""
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())


def as_dict(kept: Kept, known: Collection[str] | None, *, whole: bool = False, body: bool = False) -> dict[str, object]:
    """Return a message as --json has it; `whole` adds what only `show` has. `known` are the connectors there are."""
    head = _head(kept)
    slip = kept.slip
    found: dict[str, object] = {
        "id": kept.id,
        "connector": kept.connector,
        "configured": None if known is None else kept.connector in known,
        "file": str(kept.path),
        "flaw": printable(kept.flaw),
        "from": _said(head, b"from"),
        "subject": _said(head, b"subject"),
        "date": _said(head, b"date"),
        "octets": _octets(kept),
        "uidl": named(slip.message_uidl) if slip is not None else None,
        "first_seen": slip.first_seen if slip is not None else None,
        "since": slip.since if slip is not None else None,
        "reverse_path": printable(slip.reverse_path) if slip is not None else None,
        "forward_paths": [printable(path) for path in slip.forward_paths] if slip is not None else [],
        "attempts": slip.attempts if slip is not None else 0,
        "in_doubt": slip is not None and slip.in_doubt,
        "why": printable(slip.why) if slip is not None else "",
    }
    if whole:
        found["refusals"] = [
            {name: printable(getattr(one, name)) for name in ("at", "recipient", "stage", "reply")}
            for one in (slip.refusals if slip is not None else ())
        ]
        found["header"] = [printable(line, LINE) for line in head.splitlines()]
    if body:
        found["body"] = list(_body(kept))
    return found


def lines(items: Sequence[Kept], known: Collection[str] | None) -> Iterator[str]:
    """Yield a line per message below a line of headings, in columns."""
    rows = [_COLUMNS, *(_cells(kept, known) for kept in items)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    for row in rows:
        yield "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def show_lines(items: Sequence[Kept], known: Collection[str] | None) -> None:
    """Print the messages as plain lines; nothing if there are none."""
    if items:
        click.echo("\n".join(lines(items, known)))


def render(kind: Kind, items: Sequence[Kept], known: Collection[str] | None) -> None:
    """Print the messages as a table on the terminal. Nothing in them is taken for markup."""
    if not items:
        click.echo(f"no {NOUNS[kind]}")
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for name in _COLUMNS:
        fixed = name in ("id", "age", "size")
        table.add_column(name, no_wrap=fixed, overflow="fold", justify="right" if name in ("age", "size") else "left")
    for kept in items:
        cells = _cells(kept, known)
        style = "red" if kept.slip is None else ""
        table.add_row(Text(cells[0], style="bold"), *(Text(cell, style=style) for cell in cells[1:]))
    Console().print(table)


def details(kept: Kept, known: Collection[str] | None, *, body: bool) -> Iterator[str]:
    """Yield all that is known of a message, line by line: the slip, the header, and the body if wanted."""
    yield f"{kept.id}: {_octets(kept):,} octets of connector {_connector(kept, known)}"
    yield f"  file          {kept.path}"
    yield from _slip_lines(kept)
    yield ""
    header = _head(kept).splitlines()
    yield from (f"  {printable(line, LINE)}" for line in header[:HEADER_LINES])
    if len(header) > HEADER_LINES:
        yield f"  ... and {len(header) - HEADER_LINES} more lines: `poprep {kept.kind} export {kept.id}` has them"
    if body:
        yield ""
        yield from (f"  {line}" for line in _body(kept))


def summary(kind: Kind, reports: Sequence[ConnectorReport]) -> Iterator[str]:
    """Yield what became of a retry, a line per connector."""
    for report in reports:
        parts = [f"{report.delivered} delivered" + (f" ({size(report.octets)})" if report.octets else "")]
        parts += [f"{report.deferred} not delivered"] * bool(report.deferred)
        parts += [f"{report.rejected} in badmail" + (" again" if kind == "badmail" else "")] * bool(report.rejected)
        yield f"{report.connector}: {', '.join(parts)}, {report.seconds:.1f} s"
    if not reports:
        yield f"no {NOUNS[kind]}"


def decoded(value: bytes) -> str:
    """Return the value of a header field for people: unfolded, encoded words decoded (RFC 2047), safe to print."""
    from email.errors import MessageError
    from email.header import decode_header

    text = " ".join(value.decode("utf-8", "backslashreplace").split())[:_TEXT]
    if "=?" not in text:
        return printable(text)
    try:
        return printable("".join(_word(part, charset) for part, charset in decode_header(text)))
    except (MessageError, LookupError, ValueError):
        return printable(text)


def _word(part: bytes | str, charset: str | None) -> str:
    if isinstance(part, str):
        return part
    if charset is None:  # what stands beside encoded words
        return part.decode("raw-unicode-escape")
    return part.decode(charset, "replace")


def _cells(kept: Kept, known: Collection[str] | None) -> tuple[str, ...]:
    head, slip = _head(kept), kept.slip
    return (
        kept.id,
        _connector(kept, known),
        _age(slip.since) if slip is not None else "?",
        printable(_said(head, b"from"), 32),
        printable(_said(head, b"subject"), 40),
        printable(", ".join(slip.forward_paths), 48) if slip is not None else "?",
        size(_octets(kept)),
        printable(kept.flaw + f"; `poprep {kept.kind} show {kept.id}` says more" if slip is None else slip.why),
    )


def _slip_lines(kept: Kept) -> Iterator[str]:
    slip = kept.slip
    if slip is None:
        yield f"  {printable(kept.flaw)}"
        yield f"  mend it; or save the mail by `poprep {kept.kind} export {kept.id} FILE`, and then drop it"
        return
    yield f"  here since    {printable(slip.since)} ({_age(slip.since)}), first seen {printable(slip.first_seen)}"
    yield f"  UIDL          {named(slip.message_uidl)}"
    yield f"  from          <{printable(slip.reverse_path)}>"
    yield f"  to            {', '.join(printable(path) for path in slip.forward_paths) or 'nobody is left'}"
    yield f"  why           {printable(slip.why)}"
    if slip.in_doubt:
        yield "  in doubt      the SMTP server may have it already"
    yield f"  attempts      {slip.attempts}" + (f", the session broke at {slip.breaks}" if slip.breaks else "")
    for one in slip.refusals:
        yield f"    {printable(one.at)}  {printable(one.recipient)} at {printable(one.stage)}: {printable(one.reply)}"


def _connector(kept: Kept, known: Collection[str] | None) -> str:
    name = printable(kept.connector)
    return name if known is None or kept.connector in known else f"{name} (not in the configuration)"


def _head(kept: Kept) -> bytes:
    """Return the header, as much of it as is shown; b"" if it can't be read."""
    try:
        with os.fdopen(files.open_private(kept.path, os.O_RDONLY), "rb") as file:
            head = file.read(HEAD_OCTETS)
    except (StateError, OSError):
        return b""
    ends = [end for end in (head.find(b"\r\n\r\n"), head.find(b"\n\n")) if end >= 0]
    return head[: min(ends) + 1] if ends else head


def _body(kept: Kept) -> Iterator[str]:
    whole = b"".join(content(kept))
    header = _head(kept)
    yield from (printable(line, LINE) for line in whole[len(header) :].lstrip(b"\r\n").split(b"\n"))


def _said(head: bytes, name: bytes) -> str:
    return decoded(field(head, name) or b"")


def _octets(kept: Kept) -> int:
    try:
        return kept.path.stat().st_size
    except OSError:
        return 0


def _age(since: str) -> str:
    """Return how long ago that was, for people."""
    try:
        age = max(clock.now() - clock.parse(since), timedelta(0))
    except ValueError:
        return "?"
    if age >= timedelta(days=2):
        return f"{age.days} days"
    if age >= timedelta(hours=2):
        return f"{age.seconds // 3600 + 24 * age.days} h"
    return f"{int(age.total_seconds()) // 60} min"
