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
    PART_OCTETS,
    CanonicalCheck,
    mend_parts,
    stuff,
    stuff_parts,
    unstuff,
    unstuff_parts,
)

HEADER_OCTETS = 1 << 18  # of a longer header only this much is looked at

_IDENTITY = (b"message-id", b"date", b"from")
_FIELD = re.compile(rb"^([!-9;-~]+)[ \t]*:[ \t]*([^\r\n]*(?:\r?\n[ \t][^\r\n]*)*)", re.MULTILINE)


@dataclass(slots=True)
class Message:
    """One message as it was received: `block` is the dot-stuffed POP3 block, or `file` has the exact octets.

    `octets` counts the content as the sender made it, without dot-stuffing. `head` is its start, at least the header up
    to 256 KiB. `in_doubt` says that an earlier pass may have delivered it already.
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

    def content(self) -> Iterator[bytes]:
        """Yield the exact octets as received, in parts."""
        if self.block is not None:
            yield unstuff(self.block)
            return
        yield from _read(self.file)

    def wire(self, front: bytes) -> Iterator[bytes]:
        """Yield the mail data for SMTP: `front` (whole header fields), the content with its line ends mended, the terminator."""
        if self.block is not None:
            if self.canonical:
                yield front + self.block
            else:
                yield front + stuff(b"".join(mend_parts((unstuff(self.block),))))
            return
        parts: Iterable[bytes] = _read(self.file)
        yield from stuff_parts(chain((front,), parts if self.canonical else mend_parts(parts)))

    @property
    def fingerprint(self) -> str:
        """A digest of Message-ID, Date and From, by which the message is known again under another UIDL; "" without them."""
        fields = header_fields(self.head)
        found = [value for name, value in fields if name in _IDENTITY]
        if not found:
            return ""
        return hashlib.sha256(b"\n".join(sorted(b" ".join(value.split()) for value in found))).hexdigest()[:32]

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
        return Message(uidl, octets, check.canonical, not check.ascii, _head(first), block=first)
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
                _check_size(octets, max_octets)
    except BaseException:
        spool.unlink(missing_ok=True)
        raise
    return Message(uidl, octets, check.canonical, not check.ascii, _head(first), file=spool)


def _check_size(octets: int, limit: int) -> None:
    if 0 < limit < octets:
        raise RemoteProtocolError(
            f"the server sends more than the {limit:,} octets of limits.max_message_size, where LIST said less"
        )


def header_fields(head: bytes) -> list[tuple[bytes, bytes]]:
    """Return the header fields at the start of `head`: names in lower case, values still folded (RFC 5322 2.2)."""
    end = re.search(rb"\r?\n\r?\n", head)
    header = head[: end.start() + 2] if end else head
    return [(found[1].lower(), found[2]) for found in _FIELD.finditer(header)]


def field(head: bytes, name: bytes) -> bytes | None:
    """Return the value of the first field called `name` (lower case), or None."""
    return next((value for found, value in header_fields(head) if found == name), None)


def _checked(parts: Iterable[bytes], check: CanonicalCheck, first: bytes) -> Iterator[bytes]:
    yield first
    for part in parts:
        check.add(part)
        yield part


def _head(first: bytes) -> bytes:
    end = first.find(b"\r\n\r\n", 0, HEADER_OCTETS)
    head = first[: end + 4 if end >= 0 else HEADER_OCTETS]
    return unstuff(head + b".\r\n") if b"\n." in head or head.startswith(b".") else head


def _read(path: Path | None) -> Iterator[bytes]:
    if path is None:
        raise RuntimeError("the message has neither a block nor a file")
    with os.fdopen(files.open_private(path, os.O_RDONLY), "rb", buffering=0) as file:
        while part := file.read(PART_OCTETS):
            yield part
