"""A POP3 client core (RFC 1939, 2449, 2595, 5034): commands to octets, octets to replies, paired in order.

Any number of commands may be outstanding, so pipelining (RFC 2449 6.6) is nothing special. A reply that nobody asked for
is an error, which is what closes response injection around STLS.
"""

from __future__ import annotations

import re
from collections import deque

import msgspec

from poprep_cli.errors import RemoteProtocolError
from poprep_cli.protocol.wire import CRLF, PART_OCTETS, Part, ReceiveBuffer, argument, printable

MAX_COMMAND = 4096  # RFC 2449 4 says 255; servers take more, and passwords and tokens are long

_RESPONSE_CODE = rb"\[([!-Z\\^-~]+)\]"  # RFC 2449 8
_TIMESTAMP = rb"<[!-;=?-~]{1,512}@[!-;=?-~]{1,512}>"  # RFC 1939 7, the msg-id of RFC 822: CVE-2007-1558


class Command(msgspec.Struct, frozen=True, gc=False):
    """One command: what is sent, what the transcript shows (secrets masked), and the form of its reply."""

    line: bytes
    shown: str
    multi_line: bool = False
    sasl: bool = False

    def __repr__(self) -> str:
        return f"<{self.shown}>"

    @property
    def secret(self) -> bytes:
        """What the transcript masks, b"" if it masks nothing."""
        secret = self.line.rpartition(b" ")[2] if self.shown.endswith("***") else b""
        return b"" if secret == b"=" else secret  # the empty initial response

    @property
    def verb(self) -> str:
        """The command's name."""
        return self.line.partition(b" ")[0].decode("ascii", "replace")

    @property
    def is_mail(self) -> bool:
        """Whether the reply's block is the content of a message."""
        return self.line.startswith((b"RETR ", b"TOP "))


class Reply(msgspec.Struct, frozen=True):
    """One reply. `ok` is +OK; `text` what follows the status; `code` the response code, such as IN-USE, or "".

    A multi-line reply has its `block`, dot-stuffed and with the terminator; if `more` is true it is only the first
    part and `next_part` has the rest. `challenge` is what a SASL continuation carries (base64), else None.
    """

    ok: bool
    text: bytes
    command: Command
    block: bytes = b""
    more: bool = False
    challenge: bytes | None = None

    @property
    def code(self) -> str:
        """The response code (RFC 2449 8) in upper case, or ""."""
        found = re.match(_RESPONSE_CODE, self.text)
        return found[1].decode("ascii").upper() if found else ""

    def __str__(self) -> str:
        return printable((b"+OK " if self.ok else b"-ERR ") + self.text).strip()


GREETING = Command(b"", "greeting")
CAPA = Command(b"CAPA", "CAPA", multi_line=True)
STLS = Command(b"STLS", "STLS")
STAT = Command(b"STAT", "STAT")
LIST = Command(b"LIST", "LIST", multi_line=True)
UIDL = Command(b"UIDL", "UIDL", multi_line=True)
NOOP = Command(b"NOOP", "NOOP")
RSET = Command(b"RSET", "RSET")
QUIT = Command(b"QUIT", "QUIT")
AUTH_LIST = Command(b"AUTH", "AUTH", multi_line=True, sasl=True)


def user(name: str) -> Command:
    """Return USER (RFC 1939 7)."""
    octets = argument(name, "POP3 user name")
    return Command(b"USER " + octets, "USER " + printable(octets))


def password(secret: str) -> Command:
    """Return PASS (RFC 1939 7); its transcript form hides the secret."""
    return Command(b"PASS " + argument(secret, "POP3 password"), "PASS ***")


def apop(name: str, secret: str, timestamp: bytes) -> Command:
    """Return APOP (RFC 1939 7) for the greeting's `timestamp`. Raises ValueError where there is no MD5 (FIPS)."""
    octets = argument(name, "POP3 user name")
    import hashlib

    digest = hashlib.md5(timestamp + argument(secret, "POP3 password"), usedforsecurity=False).hexdigest()
    return Command(b"APOP " + octets + b" " + digest.encode(), f"APOP {printable(octets)} ***")


def auth(mechanism: str, initial_response: bytes | None = None) -> Command:
    """Return AUTH (RFC 5034) with an optional initial response, base64-encoded by the caller (b"=" if empty)."""
    line = b"AUTH " + argument(mechanism, "SASL mechanism")
    if initial_response is None:
        return Command(line, line.decode(), sasl=True)
    return Command(line + b" " + argument(initial_response, "initial response"), line.decode() + " ***", sasl=True)


def auth_response(response: bytes) -> Command:
    """Return a SASL response, base64-encoded by the caller; b"*" cancels (RFC 5034 4)."""
    return Command(argument(response, "SASL response"), "*" if response == b"*" else "***", sasl=True)


def retr(number: int) -> Command:
    """Return RETR (RFC 1939 5)."""
    return Command(b"RETR %d" % number, f"RETR {number}", multi_line=True)


def top(number: int, lines: int) -> Command:
    """Return TOP (RFC 1939 7): the header and `lines` lines of the body."""
    return Command(b"TOP %d %d" % (number, lines), f"TOP {number} {lines}", multi_line=True)


def uidl(number: int) -> Command:
    """Return UIDL for one message (RFC 1939 7)."""
    return Command(b"UIDL %d" % number, f"UIDL {number}")


def dele(number: int) -> Command:
    """Return DELE (RFC 1939 5)."""
    return Command(b"DELE %d" % number, f"DELE {number}")


class Pop3Client:
    """The core. `greeting` is the first reply that `next_reply` returns; it is outstanding from the start."""

    __slots__ = ("_buffer", "_group", "_in_block", "_outstanding", "_status")

    def __init__(self) -> None:
        self._buffer = ReceiveBuffer()
        self._outstanding: deque[Command] = deque((GREETING,))
        self._group: tuple[Command, ...] = ()  # what was sent last
        self._status: Reply | None = None  # of a multi-line reply whose block is not all here
        self._in_block = False

    @property
    def outstanding(self) -> int:
        """How many replies are awaited."""
        return len(self._outstanding)

    def send(self, *commands: Command) -> bytes:
        """Return the octets of `commands`, all to be sent in one write, and await their replies.

        Raises RemoteProtocolError if the server has sent more than it was asked for: that must not become their reply.
        """
        if not self._outstanding and not self._in_block and self._status is None:
            self._refuse_unasked()
        self._outstanding.extend(commands)
        self._group = commands
        return CRLF.join([command.line for command in commands]) + CRLF

    def receive(self, data: bytes | memoryview) -> None:
        """Take octets from the server."""
        self._buffer.append(data)

    def forget_received(self) -> bytes:
        """Return and forget octets received but not consumed: there must be none when TLS begins."""
        return self._buffer.clear()

    def next_reply(self) -> Reply | None:
        """Return the next reply, or None if more octets are needed.

        Raises RemoteProtocolError for what is no reply, comes unasked, or exceeds the limits.
        """
        if self._in_block:
            raise RuntimeError("the block of the last reply was not read to its end")
        reply = self._status
        if reply is None:
            if not self._outstanding:
                self._refuse_unasked()
                return None
            line = self._buffer.line()
            if line is None:
                return None
            reply = _parse(line, self._outstanding.popleft(), self._group)
            if not (reply.ok and reply.command.multi_line):
                return reply
        part = self._buffer.part(PART_OCTETS)
        if part is None:
            self._status = reply
            return None
        self._status = None
        self._in_block = not part.last
        return Reply(True, reply.text, reply.command, part.data, more=not part.last)

    def next_part(self) -> Part | None:
        """Return the next part of the block of a reply with `more`, or None if more octets are needed."""
        part = self._buffer.part(PART_OCTETS)
        if part is not None and part.last:
            self._in_block = False
        return part

    def _refuse_unasked(self) -> None:
        if len(self._buffer):
            raise RemoteProtocolError("the server sent something that nobody asked for")


def timestamp(greeting: Reply) -> bytes | None:
    """Return the APOP timestamp of a greeting, or None if it has none, several, or one that is no msg-id."""
    if greeting.text.count(b"<") != 1 or not greeting.text.isascii():
        return None
    found = re.search(_TIMESTAMP, greeting.text)
    return found[0] if found else None


def parse_capabilities(block: bytes) -> dict[str, tuple[str, ...]]:
    """Return the capabilities of a CAPA block (RFC 2449 5): name in upper case -> its arguments."""
    found: dict[str, tuple[str, ...]] = {}
    for line in block[:-3].split(CRLF)[:256]:
        words = line.decode("ascii", "replace").split()
        if words:
            found[words[0].upper()] = tuple(words[1:])
    return found


def _parse(line: bytes, command: Command, group: tuple[Command, ...]) -> Reply:
    status, _, text = line.partition(b" ")
    upper = status.upper()
    if upper == b"+OK":
        return Reply(True, text, command, challenge=text if command.sasl else None)
    if upper == b"-ERR":
        return Reply(False, text, command)
    if command.sasl and status == b"+":
        return Reply(False, text, command, challenge=text)
    # What a server says to a secret, or to what came together with one, may be the secret.
    secret = line and any(sent.shown.endswith("***") for sent in (command, *group))
    what = "a line that is not shown" if secret else printable(line, 80) or "an empty line"
    raise RemoteProtocolError(f"the answer to {command.shown} is not POP3: {what}")
