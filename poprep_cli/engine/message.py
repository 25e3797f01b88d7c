"""A message on its way: held whole in memory, or above 1 MiB in a file, and given out as content or as mail data."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from poprep_cli.engine import files
from poprep_cli.errors import RemoteProtocolError
from poprep_cli.protocol.wire import (
    CRLF,
    PART_OCTETS,
    CanonicalCheck,
    mend_parts,
    stuff,
    stuff_parts,
    unstuff,
    unstuff_parts,
)

HEADER_OCTETS = 1 << 18  # of a longer header only this much is looked at
_DOT_LINE = 3  # octets of the line that ends a block

_IDENTITY = (b"message-id", b"date", b"from")
# What servers write into a header, or take out of it, once a message was read or filed; and what one gets as it moves.
_VOLATILE = frozenset(
    b"status x-status x-uidl x-uid x-keywords x-imap x-imapbase x-evolution content-length lines".split()
)
_MOVED = frozenset((b"return-path", b"delivered-to"))
_FIELD = re.compile(rb"^([!-9;-~]+)[ \t]*:[ \t]*([^\r\n]*(?:\r?\n[ \t][^\r\n]*)*)", re.MULTILINE)
_BLANK = re.compile(rb"\r*\n")
_END = re.compile(rb"\n\r*\n")


@dataclass(slots=True)
class Message:
    """One message as it was received: `block` is the dot-stuffed POP3 block, or `file` has the exact octets.

    `octets` counts the content as the sender made it, without dot-stuffing. `head` is its start, at least the header up
    to 256 KiB. `in_doubt` says that an earlier pass may have delivered it already, `late` that it had to be read to see
    what it is known by: it may be delivered already. `long_lines` tells of lines over 998 octets. With `without_nul` its
    NULs are not sent.
    """

    uidl: bytes
    octets: int
    canonical: bool
    eight_bit: bool
    head: bytes
    block: bytes | None = None
    file: Path | None = None
    listed_octets: int = 0
    in_doubt: bool = False
    late: bool = False
    nul: bool = False
    long_lines: bool = False
    without_nul: bool = False
    _fields: list[tuple[bytes, bytes]] | None = None
    _fingerprint: str | None = None

    def content(self) -> Iterator[bytes]:
        """Yield the exact octets as received, in parts."""
        if self.block is not None:
            yield unstuff(self.block)
            return
        yield from _read(self.file)

    def wire(self, front: bytes) -> Iterator[bytes]:
        """Yield the mail data for SMTP: `front` (whole header fields), the content with its line ends mended, the terminator."""
        if self.block is None:
            yield from stuff_parts(chain((front,), self._mended()))
        elif self.canonical and not self.without_nul:
            yield front + self.block
        else:
            yield front + stuff(b"".join(self._mended()))

    def plain(self, front: bytes) -> Iterator[bytes]:
        """Yield `front` and the content with its line ends mended, ended by CRLF, in parts of at least 1 MiB but the last.

        What is below 1 MiB comes as one part, so that its octets are known before it is sent (RFC 3030).
        """
        held = front
        for part in self._mended():
            if len(held) < PART_OCTETS:
                held += part
            else:
                yield held
                held = part
        yield held if not held or held.endswith(CRLF) else held + CRLF

    def _mended(self) -> Iterable[bytes]:
        """Return the content as it may be sent. NULs go first: without them a CR may meet its LF."""
        parts: Iterable[bytes] = self.content()
        if self.without_nul:
            parts = (part.replace(b"\0", b"") for part in parts)
        return parts if self.canonical and not self.without_nul else mend_parts(parts)

    @property
    def is_short(self) -> bool:
        """Whether it came shorter than LIST said."""
        return self.octets < self.listed_octets

    @property
    def fingerprint(self) -> str:
        """What the message is known by under another UIDL; "" if it has no header."""
        if self._fingerprint is None:  # asked for several times on the way
            self._fingerprint = _digest(self.fields)
        return self._fingerprint

    @property
    def fields(self) -> list[tuple[bytes, bytes]]:
        """The header fields as `header_fields` has them; not to be changed."""
        if self._fields is None:
            self._fields = header_fields(self.head)
        return self._fields

    def discard(self) -> None:
        """Remove the file, if there is one."""
        if self.file is not None:
            self.file.unlink(missing_ok=True)


def receive(uidl: bytes, parts: Iterator[bytes], spool: Path, max_octets: int = 0) -> Message:
    """Return the message whose block comes in `parts`; if there are several it goes to the file `spool`.

    Raises StateError if the file can't be written, RemoteProtocolError if the message has more than `max_octets` (0: any
    size), whatever LIST said, and what `parts` raises; then no file is left.
    """
    check = CanonicalCheck()
    first = next(parts)
    check.add(first)
    second = next(parts, None)
    if second is None:
        # A message that begins in the middle of the block, such as a lone dot line, has its octets counted unstuffed.
        stuffed = first.count(b"\r\n..") + first.startswith(b"..")
        octets = len(first) - 3 - stuffed
        head = header_of(first)
        return Message(
            uidl, octets, check.canonical, not check.ascii, head, first, nul=check.nul, long_lines=check.long_lines
        )
    octets = 0
    descriptor = files.open_private(spool, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            for content in unstuff_parts(_checked(chain((second,), parts), check, first)):
                with files.translated(f"write {spool}"):
                    rest = memoryview(content)
                    while rest:  # a disk that is nearly full takes a part, without an error
                        rest = rest[file.write(rest) :]
                octets += len(content)
                _check_size(octets - _DOT_LINE, max_octets)
            octets -= _DOT_LINE
            with files.translated(f"write {spool}"):
                file.truncate(octets)
    except BaseException:
        spool.unlink(missing_ok=True)
        raise
    head = header_of(first)
    return Message(
        uidl, octets, check.canonical, not check.ascii, head, file=spool, nul=check.nul, long_lines=check.long_lines
    )


def _check_size(octets: int, limit: int) -> None:
    if 0 < limit < octets:
        raise RemoteProtocolError(
            f"the server sends more than the {limit:,} octets of limits.max_message_size, where LIST said less"
        )


def fingerprint(head: bytes) -> str:
    """Return a digest of Message-ID, Date and From, by which a message is known again under another UIDL.

    Where they say too little (no Message-ID, and Date or From missing) it is one of the whole header but for the fields
    that servers change. "" if there is no header.
    """
    return _digest(header_fields(head))


def _digest(fields: list[tuple[bytes, bytes]]) -> str:
    names = {name for name, _ in fields}
    if b"message-id" in names or {b"date", b"from"} <= names:
        found = sorted([_unfolded(value) for name, value in fields if name in _IDENTITY])
    else:
        found = [name + b":" + _unfolded(value) for name, value in fields if not (is_volatile(name) or name in _MOVED)]
    return hashlib.sha256(b"\n".join(found)).hexdigest()[:32] if found else ""


def is_volatile(name: bytes) -> bool:
    """Return whether a server may change a header field of this name (lower case) in a message that stays where it is."""
    return name in _VOLATILE or name.startswith(b"x-mozilla-")


def block_fingerprint(block: bytes) -> str:
    """Return the fingerprint of a message whose dot-stuffed block, or its start, is `block`."""
    return fingerprint(header_of(block))


def _unfolded(value: bytes) -> bytes:
    return b" ".join(value.split())


def header_fields(head: bytes) -> list[tuple[bytes, bytes]]:
    """Return the header fields at the start of `head`: names in lower case, values still folded (RFC 5322 2.2)."""
    if _BLANK.match(head):
        return []
    end = _END.search(head)
    header = head[: end.start() + 1] if end else head
    return [(name.lower(), value) for name, value in _FIELD.findall(header)]


def field(head: bytes, name: bytes) -> bytes | None:
    """Return the value of the first field called `name` (lower case), or None."""
    if name not in head.lower():  # far quicker than to take the header apart
        return None
    return next((value for found, value in header_fields(head) if found == name), None)


def _checked(parts: Iterable[bytes], check: CanonicalCheck, first: bytes) -> Iterator[bytes]:
    yield first
    for part in parts:
        check.add(part)
        yield part


def header_of(first: bytes) -> bytes:
    """Return the header at the start of a dot-stuffed block, the blank line included: 256 KiB of it at most."""
    end = first.find(b"\r\n\r\n", 0, HEADER_OCTETS)
    head = first[: end + 4 if end >= 0 else HEADER_OCTETS]
    return unstuff(head + b".\r\n") if b"\n." in head or head.startswith(b".") else head


def _read(path: Path | None) -> Iterator[bytes]:
    if path is None:
        raise RuntimeError("the message has neither a block nor a file")
    with os.fdopen(files.open_private(path, os.O_RDONLY), "rb", buffering=0) as file:
        while part := file.read(PART_OCTETS):
            yield part
