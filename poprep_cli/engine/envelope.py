"""The letter: a message with its envelope and the lines that poprep puts in front of it."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from poprep_cli import __version__
from poprep_cli.engine import files
from poprep_cli.engine.message import Message, field, header_fields

POSSIBLE_DUPLICATE = b"X-Poprep-Possible-Duplicate: yes\r\n"

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_RETURN_PATH = re.compile(rb"\s*<([^<>\s\x00-\x1f\x7f]{1,256}@[^<>\s\x00-\x1f\x7f@]{1,255})>\s*$")
_WORD = re.compile(r"[^A-Za-z0-9.:_-]")


@dataclass(frozen=True, slots=True, eq=False)
class Letter:
    """What `Submission.deliver` sends: envelope, mail data, and the message behind it."""

    message: Message
    reverse_path: bytes
    forward_paths: tuple[bytes, ...]
    front: bytes

    @property
    def octets(self) -> int:
        """The size for MAIL's SIZE parameter (RFC 1870), without dot-stuffing."""
        return len(self.front) + self.message.octets

    @property
    def eight_bit(self) -> bool:
        """Whether the data has octets over 127 (RFC 6152)."""
        return self.message.eight_bit

    def wire(self) -> Iterator[bytes]:
        """Yield the mail data, dot-stuffed, the last part with the terminator."""
        return self.message.wire(self.front)


@dataclass(frozen=True, slots=True)
class Trace:
    """Makes our `Received:` field (RFC 5321 4.4). `token` marks this installation and connector, and can't be forged."""

    server: str
    peer: str
    tls: bool
    by: str
    token: str

    def front(self, message: Message, forward_paths: tuple[bytes, ...], now: datetime) -> bytes:
        """Return the lines in front of a message. The recipient is named when there is a single one."""
        host = _WORD.sub("_", self.server.rsplit(":", 1)[0].strip("[]"))
        peer = f" ([{self.peer}])" if self.peer else ""
        lines = [
            f"Received: from {host}{peer} by {_WORD.sub('_', self.by)}",
            f"\twith POP3{'S' if self.tls else ''} (poprep {__version__}) id {self.token}",
        ]
        if len(forward_paths) == 1 and forward_paths[0].isascii():
            lines.append(f"\tfor <{forward_paths[0].decode()}>")
        lines[-1] += ";"
        lines.append(
            f"\t{_DAYS[now.weekday()]}, {now.day} {_MONTHS[now.month - 1]} {now:%Y %H:%M:%S} +0000",
        )
        front = "\r\n".join(lines).encode() + b"\r\n"
        return front + POSSIBLE_DUPLICATE if message.in_doubt else front

    def is_loop(self, message: Message) -> bool:
        """Whether the message has passed through this connector before."""
        mark = b" id " + self.token.encode()
        if mark not in message.head:
            return False
        return any(name == b"received" and mark in value for name, value in header_fields(message.head))


def token(state_dir: Path, connector: str) -> str:
    """Return the mark of this installation and connector: an HMAC with a random key that is made at the first use."""
    path = state_dir / "installation.key"
    key = files.read_private(path)
    if not key:
        files.replace(path, secrets.token_hex(32).encode())
        key = files.read_private(path) or b""
    return hmac.new(key, connector.lower().encode(), hashlib.sha256).hexdigest()[:24]


def reverse_path(sender: str, message: Message) -> bytes:
    """Return the envelope sender: "keep" is the Return-Path of the message or else null, "null" is null, else an address."""
    if sender == "null":
        return b""
    if sender != "keep":
        return sender.encode()
    found = _RETURN_PATH.match(field(message.head, b"return-path") or b"")
    return found[1] if found and found[1].isascii() else b""
