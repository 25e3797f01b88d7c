"""What POP3 and SMTP share on the wire: a receive buffer of lines and dot-terminated blocks, and checked arguments.

POP3 multi-line responses (RFC 1939 3) and SMTP mail data (RFC 5321 4.5.2) use the same transparency: lines end in CRLF,
a leading dot is doubled, CRLF.CRLF ends the block. So a block received from POP3 may be sent to SMTP as it is.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator

import msgspec

from poprep_cli.errors import LocalProtocolError, RemoteProtocolError

CRLF = b"\r\n"
TERMINATOR = b"\r\n.\r\n"
MAX_LINE = 8192  # RFC 2449 4 and RFC 5321 4.5.3.1.5 allow 512; servers are more talkative than that
LONGEST_LINE = 998  # octets without CRLF: RFC 5321 4.5.3.1.6, RFC 5322 2.1.1
PART_OCTETS = 1 << 20  # a block up to this size is handed out whole, of a larger one the first part has about this size
NEXT_PART_OCTETS = 1 << 18  # of the parts after it: what stays in the processor's cache is copied and looked at faster

_DOTS_APART = 1 << 9  # octets from dot to dot, on an average, above which it pays to go from one to the next
_DOTS_ALLOWED = 4  # more than that

_CANONICAL = (None, "\r\n")
_LINE_END = rb"\r+\n?|\n"


class Part(msgspec.Struct, frozen=True, gc=False):
    """A piece of a block, still dot-stuffed. The last one ends with the terminator, a dot on a line of its own."""

    data: bytes
    last: bool


class ReceiveBuffer:
    """Octets received and not yet consumed; hands out lines and blocks. Memory is bounded by the limits it is given."""

    __slots__ = ("_at_start", "_buffer", "_searched")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched = 0
        self._at_start = True  # at the start of a block, where ".CRLF" alone is the terminator

    def __len__(self) -> int:
        return len(self._buffer)

    def append(self, data: bytes | memoryview) -> None:
        """Add octets from the peer, which are copied."""
        self._buffer += data

    def clear(self) -> bytes:
        """Forget everything and return what was forgotten."""
        data = bytes(self._buffer)
        self._buffer.clear()
        self._searched = 0
        self._at_start = True
        return data

    def line(self, limit: int = MAX_LINE) -> bytes | None:
        """Return the next line without its CRLF (or bare LF, which some servers send), or None if it is not all here.

        Raises RemoteProtocolError if the line has more than `limit` octets.
        """
        buffer = self._buffer
        end = buffer.find(b"\n", self._searched)
        if end < 0:
            if len(buffer) > limit:
                raise RemoteProtocolError(f"the server sent a line of more than {limit} octets")
            self._searched = len(buffer)
            return None
        self._searched = 0
        if end > limit:
            raise RemoteProtocolError(f"the server sent a line of more than {limit} octets")
        line = bytes(buffer[: end - 1 if end and buffer[end - 1] == 13 else end])
        del buffer[: end + 1]
        return line

    def part(self, part_octets: int = PART_OCTETS) -> Part | None:
        """Return the next part of a block, or None if more octets are needed.

        A block of at most `part_octets` comes as one part. Of a larger one come parts that never end inside a CRLF,
        nor inside what may turn out to be the terminator. Only CRLF.CRLF ends a block; a bare LF never does.
        """
        buffer = self._buffer
        if self._at_start and buffer.startswith(b".\r\n"):
            return self._take(3, last=True)
        end = _find_terminator(buffer, self._searched)
        if end >= 0:
            return self._take(end + 5, last=True)
        if len(buffer) > (part_octets if self._at_start else min(part_octets, NEXT_PART_OCTETS)):
            cut = len(buffer) - 4  # these may be the start of the terminator
            if buffer[cut - 1] == 13:
                cut -= 1
            return self._take(cut, last=False)
        self._searched = max(0, len(buffer) - 4)
        return None

    def _take(self, octets: int, *, last: bool) -> Part:
        data = bytes(memoryview(self._buffer)[:octets])
        del self._buffer[:octets]
        self._searched = 0
        self._at_start = last
        return Part(data, last)


def argument(value: str | bytes, what: str) -> bytes:
    """Return `value` as octets (UTF-8) that may stand in a command; `what` names it in the error.

    Raises LocalProtocolError if it contains CR, LF or NUL, which would end the command and begin another one.
    """
    octets = value.encode() if isinstance(value, str) else value
    if b"\r" in octets or b"\n" in octets or b"\0" in octets:
        raise LocalProtocolError(f"the {what} contains a line break or NUL, so it can't be sent")
    return octets


def printable(octets: bytes | str, limit: int = 500) -> str:
    """Return server text made safe for a terminal, a log line and JSON: at most `limit` characters, on one line.

    Control characters (C0, DEL, C1), bidirectional controls and line separators become visible escapes.
    """
    text = octets.decode("utf-8", "backslashreplace") if isinstance(octets, bytes) else octets
    safe = text[: limit + 1]
    if not (safe.isascii() and safe.isprintable()):
        safe = "".join(map(_visible, safe))
    return safe if len(safe) <= limit else safe[: limit - 1] + "…"


def _visible(character: str) -> str:
    if character.isprintable():  # a space is; every other kind of space is not
        return character
    return character.encode("unicode_escape").decode()


class CanonicalCheck:
    """Tells, part by part, whether a block has stray CRs or LFs, NULs, octets over 127, and lines over 998 octets.

    A line ends where it will once `mend_parts` has been at it. A doubled dot counts as one (RFC 5321 4.5.3.1.6).
    """

    __slots__ = ("_doubled", "_fresh", "_line_ends", "_open", "ascii", "canonical", "long_lines", "nul")

    def __init__(self) -> None:
        self.canonical = True
        self.ascii = True
        self.nul = False
        self.long_lines = False
        self._line_ends = io.IncrementalNewlineDecoder(None, translate=False)  # which notes the kinds that it meets
        self._open = 0  # octets of the line that the last part has left open
        self._fresh = True  # whether a dot that comes next is a doubled one
        self._doubled = False  # whether the line that is open began with one

    def add(self, data: bytes) -> None:
        """Look at the next part. Parts must not end between a CR and its LF, as those of `ReceiveBuffer.part` don't."""
        text = data.decode("latin-1")  # a character for each octet
        if self.canonical:
            # One pass: four times as fast as to count CRLF, CR and LF.
            self._line_ends.decode(text, final=True)
            self.canonical = self._line_ends.newlines in _CANONICAL
        if self.ascii and not text.isascii():
            self.ascii = False
        if not self.nul and b"\0" in data:
            self.nul = True
        if not self.long_lines:
            self._measure(data)

    def _measure(self, data: bytes) -> None:
        """Look for a long line in strides: from the start of a line to the last line end that is near enough."""
        size, begin = len(data), -self._open
        while begin < size:
            if begin >= 0:
                begin = self._skim(data, begin)
                if begin == size:
                    break
                self._doubled = self._fresh and data.startswith(b".", begin)
            start = max(begin, 0)
            limit = begin + LONGEST_LINE + self._doubled
            end = data.rfind(CRLF, start, limit + 2)
            self._fresh = end >= 0
            if not self._fresh:  # perhaps a stray one ends it
                end = max(data.rfind(b"\n", start, limit + 1), data.rfind(b"\r", start, limit + 1))
            if end < 0:
                self.long_lines = limit < size
                break
            begin = end + 1 + self._fresh
        self._open = size - begin

    def _skim(self, data: bytes, begin: int) -> int:
        """Return how far lines reach that are short enough by any reckoning: one octet is quicker to look for than two."""
        first, find = begin, data.rfind
        while (end := find(b"\n", begin, begin + LONGEST_LINE)) >= 0:
            begin = end + 1
        if begin > first:
            self._fresh = data.endswith(CRLF, 0, begin)
        return begin


def _find_terminator(data: bytearray, start: int) -> int:
    """Return `data.find(TERMINATOR, start)`: from dot to dot, as one octet is found far faster than several are.

    Where there are too many dots for that it falls back on the plain search; so does `_replaced`.
    """
    dot = start + 1
    for bound in range(start - _DOTS_ALLOWED * _DOTS_APART, len(data), _DOTS_APART):
        if dot < bound:
            break
        dot = data.find(b".", dot + 1)
        if dot < 0:
            return -1
        if data.startswith(TERMINATOR, dot - 2):
            return dot - 2
    return data.find(TERMINATOR, dot - 1)


def _replaced(data: bytes, old: bytes, new: bytes) -> bytes:
    """Return `data.replace(old, new)`, where `old` is CRLF and one or two dots."""
    view = memoryview(data)
    pieces: list[bytes | memoryview] = []
    begin, dot = 0, 1
    for bound in range(-_DOTS_ALLOWED * _DOTS_APART, len(data), _DOTS_APART):
        if dot < bound:
            break
        dot = data.find(b".", dot + 1)
        if dot < 0:
            return b"".join((*pieces, view[begin:])) if pieces else data
        if data.startswith(old, dot - 2):
            pieces += (view[begin : dot - 2], new)
            begin = dot - 2 + len(old)
            dot = begin - 1
    return b"".join((*pieces, data[begin:].replace(old, new)))


def unstuff(block: bytes) -> bytes:
    """Return the exact octets that the dot-stuffed `block`, terminator included, stands for (RFC 1939 3).

    The CRLF in front of the terminating dot belongs to the last line of the content.
    """
    content = block[:-3]
    if content.startswith(b".."):
        content = content[1:]
    return content.replace(b"\r\n..", b"\r\n.")  # the same object where there is none


def unstuff_parts(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Do what `unstuff` does for a block in parts, cut anywhere, but let the terminator's dot and CRLF stand at the end."""
    tail = b"\0\r\n"  # the last octets received: a stuffed dot may be cut from its line start
    for part in parts:
        if b"\r\n.." in tail + part[:3]:
            yield (tail + part).replace(b"\r\n..", b"\r\n.")[3:]
        else:
            yield _replaced(part, b"\r\n..", b"\r\n.")
        tail = (tail + part[-3:])[-3:]


def stuff_parts(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Do what `stuff` does for content in parts, cut anywhere; the last part is the terminator, with what goes before it."""
    tail = CRLF
    for part in parts:
        if b"\r\n." in tail + part[:2]:
            yield (tail + part).replace(b"\r\n.", b"\r\n..")[2:]
        else:
            yield _replaced(part, b"\r\n.", b"\r\n..")
        tail = (tail + part[-2:])[-2:]
    yield b".\r\n" if tail == CRLF else TERMINATOR


def mend_parts(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Make every line end CRLF: a run of CRs before LF becomes one CRLF, every other CR or LF becomes one too.

    No other octet changes. Stray CRs and LFs must never reach an SMTP server (CVE-2023-51764).
    """
    pending = 0  # CRs at the end of the last part
    for part in parts:
        rest = part.lstrip(b"\r") if pending else part
        pending += len(part) - len(rest)
        if not rest:
            continue
        if pending and rest[0] == 10:
            yield CRLF
            rest, pending = rest[1:], 0
        while pending:
            yield CRLF * min(pending, PART_OCTETS)
            pending -= min(pending, PART_OCTETS)
        body = rest.rstrip(b"\r")
        pending = len(rest) - len(body)
        lines = body.replace(CRLF, b"\n")
        if b"\r" not in lines:  # as it mostly is, and then twelve times as fast
            yield lines.replace(b"\n", CRLF)
            continue
        yield re.sub(_LINE_END, lambda found: CRLF if found[0].endswith(b"\n") else CRLF * len(found[0]), body)
    while pending:
        yield CRLF * min(pending, PART_OCTETS)
        pending -= min(pending, PART_OCTETS)


def stuff(content: bytes) -> bytes:
    """Return the block, terminator included, that stands for `content`, whose line ends must all be CRLF.

    Content that does not end in CRLF gets one, as mail data can't be sent otherwise (RFC 5321 4.1.1.4).
    """
    if content.startswith(b"."):
        content = b"." + content
    if b"\r\n." in content:
        content = content.replace(b"\r\n.", b"\r\n..")
    if content and not content.endswith(CRLF):
        content += CRLF
    return content + b".\r\n"
