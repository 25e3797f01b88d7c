"""Reads what was known elsewhere: an exported journal, fetchmail's .fetchids, mpop's UIDLs file; and merges it. No I/O."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from poprep_cli.engine.clock import parse
from poprep_cli.engine.state import FORGOTTEN, Entry, Journal, first_line, read_line
from poprep_cli.protocol.wire import printable

# The higher one stays: nothing that was done here is undone by what was known elsewhere.
_FINALITY = {
    "seen": 0,
    "oversize": 0,
    "sending": 1,
    "held": 2,
    "ignored": 3,
    "badmail": 4,
    "discarded": 5,
    "delivered": 5,
    "deleted": 6,
}
_MPOP_LIST = re.compile(rb" (\d{1,9}) (\S+) (\S+)")
_FETCHMAIL_LINE = re.compile(rb"(\S+)@([^@\s]+) (\S.*)")


@dataclass(frozen=True, slots=True)
class Imported:
    """What a file knows: entries by key, and the mailbox that it names, "" if it names none."""

    entries: Mapping[bytes, Entry]
    mailbox: str = ""


def read(data: bytes, user: str, host: str, now: str) -> Imported:
    """Return what `data` knows of the mailbox of `user` at `host`; the form is recognised. `now` is for what has no time.

    Raises ValueError, with the number of the line, for what can't be understood.
    """
    lines = [line.removesuffix(b"\r") for line in data.split(b"\n")]
    if not lines[-1]:
        lines.pop()
    first = next((line for line in lines if line and not line.startswith(b"#")), b"")
    if first.startswith(b"{"):
        return _journal(lines)
    accounts = _mpop(lines) if first.startswith(b" ") else _fetchmail(lines)
    return Imported(_of_account(accounts, user, host, now))


def merge(journal: Journal, found: Imported, held: Collection[bytes]) -> tuple[int, int]:
    """Put what was read into the journal, in memory. Return how many entries are taken, and how many were known as well.

    What is known here gives way only to what is more final. "Held" is true only of `held`, what waits in this spool; else
    the message is fetched.
    """
    taken = 0
    for key, entry in found.entries.items():
        if entry.status == "held" and key not in held:
            entry.status = "seen"
        known = journal.entries.get(key)
        if known is None or _FINALITY[known.status] < _FINALITY[entry.status]:
            journal.entries[key] = entry
            taken += 1
    return taken, len(found.entries) - taken


def _journal(lines: Iterable[bytes]) -> Imported:
    entries: dict[bytes, Entry] = {}
    mailbox = ""
    for number, line in enumerate(lines, 1):
        header = first_line(line) if number == 1 else None
        if header is not None:
            if header.get("version") != 1:
                raise ValueError(
                    f"line {number}: state of version {header.get('version')!r}, and this poprep knows version 1"
                )
            mailbox = str(header.get("mailbox", ""))
            continue
        found = read_line(line)
        if found is None or not _has_times(found[1]):
            raise ValueError(f"line {number} is not about a message: {printable(line, 80)}")
        if found[1].status == FORGOTTEN:
            entries.pop(found[0], None)
        else:
            entries[found[0]] = found[1]
    return Imported(entries, mailbox)


def _has_times(entry: Entry) -> bool:
    try:
        parse(entry.first_seen)
        return not entry.gone or bool(parse(entry.gone))
    except ValueError:
        return False


def _fetchmail(lines: Iterable[bytes]) -> Iterator[tuple[str, str, bytes]]:
    """Yield user, host and UIDL from lines such as "joe@pop.example.net 1234"."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        found = _FETCHMAIL_LINE.fullmatch(line)
        if found is None:
            raise ValueError(f"line {number} is neither a journal's nor user@host UIDL: {printable(line, 80)}")
        yield found[1].decode("utf-8", "replace"), found[2].decode("utf-8", "replace"), found[3]


def _mpop(lines: Iterable[bytes]) -> Iterator[tuple[str, str, bytes]]:
    """Yield user, host and UIDL from lists that begin with " number host user"; comments come before the first."""
    left = 0
    user = host = ""
    begun = False
    number = 0
    for number, line in enumerate(lines, 1):
        if not begun and line.startswith(b"#"):
            continue
        begun = True
        if left:
            if line.startswith(b" ") or not line:
                raise ValueError(f"line {number} should be a UIDL: {printable(line, 80)}")
            left -= 1
            yield user, host, line
            continue
        found = _MPOP_LIST.fullmatch(line)
        if found is None:
            raise ValueError(f'line {number} should be " number host user": {printable(line, 80)}')
        left, host, user = int(found[1]), found[2].decode("utf-8", "replace"), found[3].decode("utf-8", "replace")
    if left:
        raise ValueError(f"line {number}: {left} UIDLs are missing at the end")


def _of_account(accounts: Iterable[tuple[str, str, bytes]], user: str, host: str, now: str) -> dict[bytes, Entry]:
    wanted = (user.casefold(), host.casefold())
    entries: dict[bytes, Entry] = {}
    others: set[str] = set()
    for their_user, their_host, uidl in accounts:
        if (their_user.casefold(), their_host.casefold()) == wanted:
            entries[uidl] = Entry(now, "ignored", now)
        else:
            others.add(f"{their_user}@{their_host}")
    if others and not entries:
        shown = ", ".join(printable(name, 80) for name in sorted(others)[:5])
        raise ValueError(f"there is nothing of {user}@{host} in it, only of {shown}: name one of them with --account")
    return entries
