"""The journal of one connector: what is known of each message, as JSON lines that are appended and replayed.

The last line of a UIDL wins. A torn or garbage line is skipped and counted; unknown keys are kept. The format is
documented in docs/state.md.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from copy import copy
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from poprep_cli.engine import files
from poprep_cli.engine.journal_line import (
    DIGEST,
    FORGOTTEN,
    FORMAT,
    LATE,
    STATUSES,
    VERSION,
    Entry,
    Line,
    as_dict,
    decode,
    encode,
    encode_first,
    first_line,
    is_late,
    key_of,
    message_key,
    named,
    packed,
    plain_uidl,
    read_line,
    uidl_from,
    uidl_keys,
    understand,
)
from poprep_cli.errors import StateError

# The journal's own, and what its lines and keys are made of, for all who work with it.
__all__ = [
    "DIGEST",
    "FORGOTTEN",
    "LATE",
    "STATUSES",
    "SYNC_INTERVAL",
    "Entry",
    "Journal",
    "as_dict",
    "first_line",
    "is_late",
    "message_key",
    "named",
    "packed",
    "plain_uidl",
    "read_line",
    "uidl_from",
    "uidl_keys",
]

_READ = 1 << 18
_LONGEST = 1 << 20  # octets of a line; more, such as the zeros that a power cut can leave, is garbage
_WRITE = 1000  # lines written at a time
SYNC_INTERVAL = 0.1  # seconds between fsyncs while mail flows: what a power cut may cost


class Journal:
    """An open journal. One thread writes. `skipped` counts lines that could not be read; `header` is the first line.

    `new_since` is when new messages count as first seen (RFC 3339), should the clock be behind it. The keys of `entries` are those of `message_key`.
    """

    def __init__(self, path: Path, mailbox: str) -> None:
        """Replay the journal at `path`, which need not exist; it is made when first written to."""
        self.path = path
        self.header: dict[str, Any] = {"format": FORMAT, "version": VERSION, "mailbox": mailbox}
        self.entries: dict[bytes, Entry] = {}
        self.skipped = 0
        self.new_since = ""
        self._understood = False  # whether there was a line about a message
        self.lines = 0
        self._descriptor: int | None = None
        self._size = 0  # of the file, while it is open: nobody else writes to it
        self._pending: list[bytes] = []
        self._unsynced = False
        self._synced_at = 0.0
        self._torn = False
        self._strings: dict[str, str] = {}  # equal times, statuses and sizes are one object: memory is per message
        self._sizes: dict[int, int] = {}
        with files.reading(path) as file:
            if file is not None:
                self._replay(file)
        self._strings.clear()
        self._sizes.clear()

    def _replay(self, file: BinaryIO) -> None:
        rest = b""
        while part := file.read(_READ):
            lines, ended, rest = (rest + part).rpartition(b"\n")
            rest = rest[:_LONGEST]
            if not ended:
                continue
            if self.lines == 0:
                first, _, others = lines.partition(b"\n")
                if self._replay_first(first):
                    self.lines = 1
                    if first == lines:
                        continue
                    lines = others
            self._replay_lines(lines)
        if not self._understood and (self.skipped or not _is_start_of_line(rest)):
            # Taken for empty, it would have the whole mailbox sent again.
            raise StateError(
                f"{self.path} holds nothing that this poprep can read ({self.skipped + bool(rest)} lines)",
                hint=f"move it away, and bring back a backup or an export: poprep state import {self.path.stem} FILE; "
                "without one all mail in the mailbox is sent again",
            )
        self._torn = bool(rest)  # without its LF the last line was not written whole
        self.skipped += self._torn

    def _replay_first(self, line: bytes) -> int:
        """Take the first line; return 1 if it was a header, 0 if it is a message's."""
        first = first_line(line)
        if first is None:
            return 0
        version = first.get("version")
        if version != VERSION:
            raise StateError(
                f"{self.path}:1: this is state of version {version!r}, and this poprep knows version {VERSION}",
                hint="use the poprep that wrote it, or a newer one",
            )
        self.header |= first
        return 1

    @property
    def mailbox(self) -> str:
        """Whose state it is, as user@host:port."""
        return str(self.header["mailbox"])

    def _replay_lines(self, lines: bytes) -> None:
        self.lines += lines.count(b"\n") + 1
        whole = decode(lines)
        if whole is not None:
            self._replay_whole(whole)
            return
        for line in lines.split(b"\n"):  # one of them at least is not as it should be
            understood = understand(line)
            if understood is None:
                self.skipped += 1
            else:
                self._replay_line(*understood)

    def _replay_whole(self, whole: list[Line]) -> None:
        """Do for each line what `_replay_line` does, without a call for most: there may be hundreds of thousands."""
        share, share_size, entries = self._strings.setdefault, self._sizes.setdefault, self.entries
        for found in whole:
            uidl, status, fingerprint = found.uidl, found.status, found.fingerprint
            if uidl is None or found.digest or status == FORGOTTEN or not uidl.isascii():
                self._replay_line(key_of(found), found)
                continue
            entries[uidl.encode()] = Entry(
                share(found.first_seen, found.first_seen),
                status,  # the decoder's own object
                share(found.at, found.at),
                share_size(found.octets, found.octets),
                packed(fingerprint) if fingerprint else "",
                found.short,
                share(found.gone, found.gone),
            )
            self._understood = True

    def _replay_line(self, uidl: bytes | None, found: Line, extra: dict[str, Any] | None = None) -> None:
        if uidl is None:
            self.skipped += 1
            return
        self._understood = True
        if found.status == FORGOTTEN:
            self.entries.pop(uidl, None)
            return
        share = self._strings.setdefault
        self.entries[uidl] = Entry(
            share(found.first_seen, found.first_seen),
            share(found.status, found.status),
            share(found.at, found.at),
            self._sizes.setdefault(found.octets, found.octets),
            packed(found.fingerprint),
            found.short,
            share(found.gone, found.gone),
            extra,
        )

    def record(self, uidl: bytes, status: str, at: str, **changes: str | int) -> Entry:
        """Note a new status of a message; it reaches the file with the next `flush`. Return the entry."""
        old = self.entries.get(uidl)
        if old is None:
            entry = Entry(max(at, self.new_since), status, at)
        else:
            entry = copy(old)
            entry.status, entry.at = status, at
        for name, value in changes.items():
            setattr(entry, name, value)
        self.entries[uidl] = entry
        self._pending.append(encode(uidl, entry))
        return entry

    def update(self, uidl: bytes, **changes: str | int) -> None:
        """Note something about a message whose status stays."""
        entry = self.entries[uidl]
        self.record(uidl, entry.status, entry.at, **changes)

    def forget_deleted(self, listed: Iterable[bytes]) -> None:
        """Forget what was deleted and is listed no more: its UIDL may be used again for other mail.

        What is listed all the same waits for its content to tell: a server that ignores DELE shows the same mail.
        """
        deleted = {uidl for uidl, entry in self.entries.items() if entry.status == "deleted"}
        if not deleted:
            return
        late = False
        for uidl in listed:
            late = late or is_late(uidl)
            deleted.discard(uidl)
        for uidl in deleted:
            if not (late and DIGEST in uidl):
                del self.entries[uidl]

    def forget(self, uidl: bytes, at: str) -> None:
        """Note that a message is unknown from now on."""
        self.record(uidl, FORGOTTEN, at)
        del self.entries[uidl]

    @property
    def pending(self) -> int:
        """How many lines were recorded and not flushed."""
        return len(self._pending)

    def flush(self) -> None:
        """Hand what was recorded to the operating system, where a kill can't undo it; fsync every 100 ms.

        Raises StateError (disk full), and then the file ends where it ended before.
        """
        if self._pending:
            data = b"".join(self._pending)
            try:
                self._append(data)
            except OSError:
                with files.translated(f"write {self.path}"):
                    raise
            self.lines += len(self._pending)
            self._pending.clear()
            self._unsynced = True
        if self._unsynced and time.monotonic() - self._synced_at >= SYNC_INTERVAL:
            self.sync()

    def sync(self) -> None:
        """Write what was recorded and make it survive a power cut."""
        if self._pending:
            self._synced_at = time.monotonic()
            self.flush()
        if self._unsynced and self._descriptor is not None:
            with files.translated(f"sync {self.path}"):
                os.fsync(self._descriptor)
            self._unsynced = False
            self._synced_at = time.monotonic()

    def _append(self, data: bytes) -> None:
        if self._descriptor is None:
            self._descriptor = files.open_private(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
            self._size = os.fstat(self._descriptor).st_size
        if self._size == 0:
            data = encode_first(self.header) + data
        elif self._torn:
            data = b"\n" + data
        try:
            files.write_all(self._descriptor, data)
        except OSError:
            os.ftruncate(self._descriptor, self._size)
            raise
        self._size += len(data)
        self._torn = False

    def compact(self, *, force: bool = False) -> None:
        """Rewrite the file with one line a message, by rename, if most of its lines are superseded."""
        superseded = self.lines - len(self.entries)
        if not force and superseded < max(1000, len(self.entries)):
            return
        self.sync()
        self.close()
        files.replace(self.path, self._in_parts())
        self.lines, self._torn = 1 + len(self.entries), False

    def whole(self) -> Iterator[bytes]:
        """Yield the lines of a journal that says what is known now: the first line, and one a message."""
        yield encode_first(self.header)
        for uidl, entry in self.entries.items():
            yield encode(uidl, entry)

    def _in_parts(self) -> Iterator[bytes]:
        lines = self.whole()
        while part := b"".join(islice(lines, _WRITE)):
            yield part

    def close(self) -> None:
        """Close the file; what was recorded and not flushed is dropped."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _is_start_of_line(rest: bytes) -> bool:
    """Whether this may be what a cut left of a line: of a file that was never whole there is nothing to be brought back."""
    return not rest or (rest.startswith(b"{") and b"\0" not in rest)
