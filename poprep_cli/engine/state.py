"""The journal of one connector: what is known of each message, as JSON lines that are appended and replayed.

The last line of a UIDL wins. A torn or garbage line is skipped and counted; unknown keys are kept. The format is
documented in docs/state.md.
"""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from poprep_cli.engine import files
from poprep_cli.errors import StateError

VERSION = 1
_READ = 1 << 20
SYNC_INTERVAL = 0.1  # seconds between fsyncs while mail flows: what a power cut may cost

STATUSES = frozenset(
    ("seen", "sending", "delivered", "deleted", "held", "badmail", "discarded", "ignored", "oversize"),
)


class Entry(msgspec.Struct, gc=False):
    """What is known of one message. Times are RFC 3339 in UTC; `extra` are keys that this version does not know."""

    first_seen: str
    status: str
    at: str
    octets: int = 0
    fingerprint: str = ""
    short: bool = False
    extra: dict[str, Any] | None = None


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    status: str
    first_seen: str
    at: str = ""
    uidl: str | None = None
    uidl_b64: str | None = None
    octets: int = 0
    fingerprint: str = ""
    short: bool = False


_decoder = msgspec.json.Decoder(_Line)
_encoder = msgspec.json.Encoder()


class Journal:
    """An open journal. One thread writes. `skipped` counts lines that could not be read; `mailbox` is whose it is."""

    def __init__(self, path: Path, mailbox: str) -> None:
        """Replay the journal at `path`, which need not exist; it is made when first written to."""
        self.path = path
        self.mailbox = mailbox
        self.entries: dict[bytes, Entry] = {}
        self.skipped = 0
        self._understood = False  # whether there was a line about a message
        self.lines = 0
        self._descriptor: int | None = None
        self._pending: list[bytes] = []
        self._unsynced = False
        self._synced_at = 0.0
        self._torn = False
        self._strings: dict[str, str] = {}  # equal times and statuses share one object: memory is per message
        with files.reading(path) as file:
            if file is not None:
                self._replay(file)
        self._strings.clear()

    def _replay(self, file: BinaryIO) -> None:
        rest = b""
        while part := file.read(_READ):
            lines = (rest + part).split(b"\n")
            rest = lines.pop()
            start = 0
            if self.lines == 0 and lines:
                start = self._replay_first(lines[0])
            for line in lines[start:]:
                self._replay_line(line)
            self.lines += len(lines)
        if self.skipped and not self._understood:
            # Taken for empty, it would have the whole mailbox sent again.
            raise StateError(
                f"{self.path} holds nothing that this poprep can read ({self.skipped} lines)",
                hint="put a backup in its place; only if all mail in the mailbox may be sent again, move it away",
            )
        self._torn = bool(rest)  # without its LF the last line was not written whole
        self.skipped += self._torn

    def _replay_first(self, line: bytes) -> int:
        """Take the first line; return 1 if it was a header, 0 if it is a message's."""
        first = _header(line)
        if first is None:
            return 0
        version = first.get("version")
        if version != VERSION:
            raise StateError(
                f"{self.path}:1: this is state of version {version!r}, and this poprep knows version {VERSION}",
                hint="use the poprep that wrote it, or a newer one",
            )
        self.mailbox = str(first.get("mailbox", self.mailbox))
        return 1

    def _replay_line(self, line: bytes) -> None:
        extra = None
        try:
            found = _decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            try:
                known = msgspec.json.decode(line, type=dict[str, Any])
                extra = {key: known.pop(key) for key in set(known) - set(_Line.__struct_fields__)}
                found = msgspec.convert(known, _Line)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                self.skipped += 1
                return
        uidl = _uidl(found)
        if uidl is None or found.status not in STATUSES:
            self.skipped += 1
            return
        self._understood = True
        share = self._strings.setdefault
        self.entries[uidl] = Entry(
            share(found.first_seen, found.first_seen),
            share(found.status, found.status),
            share(found.at, found.at),
            found.octets,
            found.fingerprint,
            found.short,
            extra,
        )

    def record(self, uidl: bytes, status: str, at: str, **changes: str | int) -> Entry:
        """Note a new status of a message; it reaches the file with the next `flush`. Return the entry."""
        old = self.entries.get(uidl)
        entry = Entry(at, status, at) if old is None else msgspec.structs.replace(old, status=status, at=at)
        for name, value in changes.items():
            setattr(entry, name, value)
        self.entries[uidl] = entry
        self._pending.append(_encode(uidl, entry))
        return entry

    def forget_deleted(self, listed: Collection[bytes]) -> None:
        """Forget what was deleted and is listed no more: its UIDL may be used again for other mail.

        What is listed all the same waits for its content to tell: a server that ignores DELE shows the same mail.
        """
        gone = [uidl for uidl, entry in self.entries.items() if entry.status == "deleted" and uidl not in listed]
        for uidl in gone:
            del self.entries[uidl]

    def flush(self) -> None:
        """Hand what was recorded to the operating system, where a kill can't undo it; fsync every 100 ms.

        Raises StateError (disk full), and then the file ends where it ended before.
        """
        if self._pending:
            data = b"".join(self._pending)
            with files.translated(f"write {self.path}"):
                self._append(data)
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
        size = os.fstat(self._descriptor).st_size
        if size == 0:
            data = self._first_line() + data
        elif self._torn:
            data = b"\n" + data
        try:
            files.write_all(self._descriptor, data)
        except OSError:
            os.ftruncate(self._descriptor, size)
            raise
        self._torn = False

    def _first_line(self) -> bytes:
        return _encoder.encode({"format": "poprep-state", "version": VERSION, "mailbox": self.mailbox}) + b"\n"

    def compact(self, *, force: bool = False) -> None:
        """Rewrite the file with one line a message, by rename, if most of its lines are superseded."""
        superseded = self.lines - len(self.entries)
        if not force and superseded < max(1000, len(self.entries)):
            return
        self.sync()
        self.close()
        lines = [self._first_line(), *(_encode(uidl, entry) for uidl, entry in self.entries.items())]
        files.replace(self.path, b"".join(lines))
        self.lines, self._torn = len(lines), False

    def close(self) -> None:
        """Close the file; what was recorded and not flushed is dropped."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def uidl_keys(uidl: bytes) -> dict[str, str]:
    """Return the JSON key and value for a UIDL: `uidl`, or `uidl_b64` for octets that are not UTF-8."""
    try:
        return {"uidl": uidl.decode()}
    except UnicodeDecodeError:
        return {"uidl_b64": base64.b64encode(uidl).decode("ascii")}


def uidl_from(text: str | None, base64_text: str | None) -> bytes | None:
    """Return the UIDL that `uidl_keys` wrote, or None if there is none."""
    if text is not None:
        return text.encode("utf-8", "surrogatepass")
    if base64_text is None:
        return None
    try:
        return base64.b64decode(base64_text, validate=True)
    except ValueError:
        return None


def _uidl(line: _Line) -> bytes | None:
    return uidl_from(line.uidl, line.uidl_b64)


def _encode(uidl: bytes, entry: Entry) -> bytes:
    line: dict[str, Any] = {
        **uidl_keys(uidl),
        "first_seen": entry.first_seen,
        "status": entry.status,
        "at": entry.at,
    }
    if entry.octets:
        line["octets"] = entry.octets
    if entry.fingerprint:
        line["fingerprint"] = entry.fingerprint
    if entry.short:
        line["short"] = True
    if entry.extra:
        line.update(entry.extra)
    return _encoder.encode(line) + b"\n"


def _header(line: bytes) -> dict[str, Any] | None:
    try:
        first = msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return first if first.get("format") == "poprep-state" else None
