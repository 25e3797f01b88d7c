"""The forms of POP3 replies: lines, dot-stuffed blocks, and the top of a message (RFC 1939 3, 5 and 7)."""

from __future__ import annotations

from collections.abc import Iterable

CRLF = b"\r\n"
BLANK_LINE = b"\r\n\r\n"


def lines(items: Iterable[bytes]) -> bytes:
    """Return short lines and the terminator. No item may start with a dot."""
    return b"".join(item + CRLF for item in items) + b".\r\n"


def block(content: bytes) -> bytes:
    """Return content dot-stuffed, with its terminator. Stray CRs and LFs go as they are; only CRLF starts a line."""
    if content.startswith(b"."):
        content = b"." + content
    if b"\r\n." in content:
        content = content.replace(b"\r\n.", b"\r\n..")
    if content and not content.endswith(CRLF):
        return content + b"\r\n.\r\n"
    return content + b".\r\n"


def top(content: bytes, count: int) -> bytes:
    """Return the header, the blank line after it, and the first `count` lines of the body."""
    blank = content.find(BLANK_LINE)
    if blank < 0:
        return content
    end = blank + len(BLANK_LINE)
    for _ in range(count):
        found = content.find(CRLF, end)
        if found < 0:
            return content
        end = found + len(CRLF)
    return content[:end]


def scan_number(argument: bytes) -> int | None:
    """Return the number in an argument, or None if it is none."""
    text = argument.strip()
    return int(text) if text.isdigit() and len(text) < 10 else None
