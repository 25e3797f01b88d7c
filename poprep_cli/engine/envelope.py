"""The letter: a message with its envelope and the lines that poprep puts in front of it."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path

import msgspec

from poprep_cli import __version__
from poprep_cli.engine import files
from poprep_cli.engine.message import Message

POSSIBLE_DUPLICATE = b"X-Poprep-Possible-Duplicate: yes\r\n"

_LINE = 78  # RFC 5322 2.1.1
_HOST = 255  # octets of a name, RFC 5321 4.5.3.1.2
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_RETURN_PATH = re.compile(rb"\s*<([^<>\s\x00-\x1f\x7f]{1,256}@[^<>\s\x00-\x1f\x7f@]{1,255})>\s*$")
_LITERAL = re.compile(
    r"\[?(?:IPv6:)?(\d{1,3}(?:\.\d{1,3}){3}|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)(?:%[^\]]*)?\]?", re.ASCII | re.IGNORECASE
)


class Letter(msgspec.Struct, frozen=True, eq=False):
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

    def plain(self) -> Iterator[bytes]:
        """Yield the content as BDAT takes it: not dot-stuffed, ended by CRLF."""
        return self.message.plain(self.front)


@dataclass(frozen=True, slots=True)
class Trace:
    """Makes our `Received:` field (RFC 5321 4.4). `token` marks this installation and connector, and can't be forged."""

    server: str
    peer: str
    tls: bool
    by: str
    token: str

    def front(self, message: Message, forward_paths: tuple[bytes, ...], now: datetime) -> bytes:
        """Return the lines in front of a message. The recipient is named when there is a single one: nobody else sees it.

        POP3 is no registered protocol of `with`; POP3S is to it as ESMTPS is to ESMTP (RFC 3848).
        """
        path = forward_paths[0] if len(forward_paths) == 1 and forward_paths[0].isascii() else b""
        front = _received(self, path) + _date_line(now)
        return front + POSSIBLE_DUPLICATE if message.in_doubt else front

    def is_loop(self, message: Message) -> bool:
        """Whether the message has passed through this connector before."""
        mark = b" id " + self.token.encode()
        if mark not in message.head:
            return False
        return any(name == b"received" and mark in value for name, value in message.fields)


@lru_cache(maxsize=256)
def _received(trace: Trace, path: bytes) -> bytes:
    """Return the field up to its date, which is the same for most messages of a pass; without a `path` for several."""
    origin = f"Received: from {_extended_domain(trace.server.rsplit(':', 1)[0], trace.peer)}"
    by = f"by {_extended_domain(trace.by)}"
    lines = [f"{origin} {by}"]
    if len(lines[0]) > _LINE:
        lines = [origin if len(origin) <= _LINE else origin.replace(" (", "\r\n\t("), f"\t{by}"]
    lines.append(f"\twith POP3{'S' if trace.tls else ''} (poprep {__version__}) id {trace.token}")
    if path:
        lines.append(f"\tfor <{path.decode()}>")
    return ("\r\n".join(lines) + ";\r\n\t").encode()


@lru_cache(maxsize=4)
def _date_line(now: datetime) -> bytes:
    return f"{date_time(now)}\r\n".encode()


def date_time(now: datetime) -> str:
    """Return a moment in UTC as header fields have it (RFC 5322 3.3)."""
    return f"{_DAYS[now.weekday()]}, {now.day} {_MONTHS[now.month - 1]} {now:%Y %H:%M:%S} +0000"


def _extended_domain(name: str, peer: str = "") -> str:
    """Return a host as RFC 5321 4.4 has it in `from` and `by`: its name, or its address, and the address that it had."""
    own, address = _literal(name), _literal(peer)
    if own:
        return f"{own} ({address or own})"
    if not name.isascii():
        try:
            name = name.encode("idna").decode()
        except UnicodeError:
            name = name.encode("ascii", "replace").decode()
    labels = (label.strip("-") for label in re.sub(r"[^A-Za-z0-9.-]", "-", name[:_HOST]).split("."))
    domain = ".".join(filter(None, labels)) or "unknown"
    return f"{domain} ({address})" if address else domain


def _literal(address: str) -> str:
    """Return an IP address as an address literal (RFC 5321 4.1.3), "" if it is none."""
    found = _LITERAL.fullmatch(address)
    if found is None:
        return ""
    return f"[IPv6:{found[1]}]" if ":" in found[1] else f"[{found[1]}]"


def token(state_dir: Path, connector: str) -> str:
    """Return the mark of this installation and connector: an HMAC with a random key that is made at the first use."""
    path = state_dir / "installation.key"
    key = files.read_private(path)
    if not key:
        make = files.create if key is None else files.replace
        make(path, secrets.token_hex(32).encode())
        key = files.read_private(path) or b""
    return hmac.new(key, connector.lower().encode(), hashlib.sha256).hexdigest()[:24]


def reverse_path(sender: str, message: Message) -> bytes:
    """Return the envelope sender: "keep" is the Return-Path of the message or else null, "null" is null, else an address."""
    if sender == "null":
        return b""
    if sender != "keep":
        return sender.encode()
    value = next((value for name, value in message.fields if name == b"return-path"), b"")
    found = _RETURN_PATH.match(value)
    return found[1] if found and found[1].isascii() else b""
