"""The mail that is moved: messages of a given size, each with a body of its own, and what it is known by."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator

_LETTERS = "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789 "
_LINE = 72  # octets without its end
_DOTTED = 37  # every so many lines begins with a dot: it is doubled on the wire
_BLOCK_LINES = 2000  # of text of its own; larger messages repeat it


def message(number: int, octets: int) -> bytes:
    """Return message `number` with LF line ends and CRLF size of about `octets` (never less than its header and two lines).

    The same number and size give the same message.
    """
    source = random.Random(number)
    header = (
        f"Return-Path: <sender{number}@example.net>\n"
        "Received: from mail.example.net (mail.example.net [192.0.2.1])\n"
        f"\tby pop.example.com with ESMTPS id {source.getrandbits(64):016x};\n"
        "\tMon, 5 Jan 2026 08:00:00 +0000\n"
        f"Date: Mon, 5 Jan 2026 08:00:00 +0000\n"
        f"From: Sender {number} <sender{number}@example.net>\n"
        "To: all@corp.example\n"
        f"Subject: benchmark message {number}\n"
        f"Message-ID: <{number}.{source.getrandbits(64):016x}@example.net>\n"
        "MIME-Version: 1.0\n"
        "Content-Type: text/plain; charset=us-ascii\n"
        "\n"
    )
    first = f"This is message {number} of {octets} octets.\n"
    count = max(1, (octets - len(header) - header.count("\n") - len(first)) // (_LINE + 2))
    text = "".join(source.choices(_LETTERS, k=_LINE * min(count, _BLOCK_LINES)))
    lines = [_line(text[start : start + _LINE], index) for index, start in enumerate(range(0, len(text), _LINE))]
    block = "".join(lines)
    whole, rest = divmod(count, len(lines))
    return (header + first + block * whole + "".join(lines[:rest])).encode("ascii")


def _line(text: str, index: int) -> str:
    start = "." if index % _DOTTED == 0 else text[0]
    return f"{start}{text[1:-1]}x\n"  # no space at the end, which some programs take away


def digest(content: bytes) -> str:
    """Return what a message with CRLF line ends is known by: a digest of its body.

    Programs add fields to the header; none may change the body.
    """
    _, _, body = content.partition(b"\r\n\r\n")
    return hashlib.blake2b(body, digest_size=16).hexdigest()


def wire_form(stored: bytes) -> bytes:
    """Return a message with CRLF line ends, as a POP3 server sends it."""
    return stored.replace(b"\n", b"\r\n")


def batch(count: int, octets: int) -> Iterator[bytes]:
    """Yield `count` messages, numbered from 1."""
    for number in range(1, count + 1):
        yield message(number, octets)
