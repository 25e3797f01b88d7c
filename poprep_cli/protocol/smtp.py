"""The client's side of SMTP (RFC 5321) and LMTP (RFC 2033) without I/O: commands to octets, octets to replies.

Each command that is sent stays outstanding until its reply is taken, so pipelining (RFC 2920) needs nothing more, and a
reply that nobody asked for is an error.
"""

from __future__ import annotations

import re
from binascii import b2a_base64
from collections import deque
from functools import lru_cache
from typing import NoReturn

import msgspec

from poprep_cli.errors import LocalProtocolError, RemoteProtocolError
from poprep_cli.protocol.wire import ReceiveBuffer, argument, printable

MAX_COMMAND = 512  # octets with CRLF, RFC 5321 4.5.3.1.4; MAIL's parameters may add to it
MAX_AUTH = 12_288  # octets with CRLF, RFC 4954 4
MAX_PATH = 254  # octets without < and >, RFC 5321 4.5.3.1.3
MAX_REPLY_LINES = 128  # real servers announce some twenty extensions
MAX_BUFFERED = 1 << 20  # octets received and not yet taken as replies
MAX_PARAMETERS = 1024  # characters kept of an extension's parameters

_REPLY_LINE = re.compile(rb"([2-5][0-9][0-9])(?:([ -])(.*))?", re.DOTALL)  # RFC 5321 4.2; a code alone is in use too
_ENHANCED = re.compile(rb"([245]\.[0-9]{1,3}\.[0-9]{1,3})(?: |\Z)")  # RFC 3463 2
_KEYWORD = re.compile(
    rb"([A-Za-z0-9][A-Za-z0-9-]{0,63})(?:[ =](.*))?", re.DOTALL
)  # RFC 5321 4.1.1.1; "AUTH=LOGIN" of old
_NAME = re.compile(rb"[A-Za-z0-9_.:\[\]-]{1,255}")
_MECHANISM = re.compile(rb"[A-Z0-9_-]{1,20}")  # RFC 4422 3.1
_NOT_IN_PATH = re.compile(rb"[\x00-\x20\x7f<>]")


class Command(msgspec.Struct, frozen=True, gc=False):
    """A command: its verb, for messages and tests, and its line with CRLF, which may hold a secret and is not shown."""

    verb: str
    line: bytes

    def __repr__(self) -> str:
        return f"<{self.verb}>"

    @property
    def secret(self) -> bytes:
        """What the transcript masks, b"" if it masks nothing."""
        if not self.verb.startswith("AUTH"):
            return b""
        words = self.line.split()
        if self.verb == "AUTH response":
            return words[0] if words and words != [b"*"] else b""
        return words[2] if len(words) > 2 and words[2] != b"=" else b""

    @property
    def shown(self) -> str:
        """The line as the transcript shows it, with *** for its secret."""
        return printable(self.line.strip().removesuffix(self.secret)) + ("***" if self.secret else "")


GREETING = Command("greeting", b"")  # outstanding from the first moment on
END_OF_DATA = Command("end of data", b"")  # the caller writes the mail data itself
NOT_SENT = Command("not sent", b"")  # what a refusal answers that was made here

_STARTTLS = Command("STARTTLS", b"STARTTLS\r\n")
_DATA = Command("DATA", b"DATA\r\n")
_RSET = Command("RSET", b"RSET\r\n")
_NOOP = Command("NOOP", b"NOOP\r\n")
_QUIT = Command("QUIT", b"QUIT\r\n")


class Reply(msgspec.Struct, frozen=True):
    """A reply: its code, the enhanced status code or "" (RFC 2034), its lines without the code, and what it answers."""

    code: int
    enhanced: str
    lines: tuple[bytes, ...]
    command: Command

    @property
    def positive(self) -> bool:
        """Whether the server has done what it was told: 2yz and nothing else."""
        return 200 <= self.code <= 299

    @property
    def intermediate(self) -> bool:
        """Whether the server waits for the rest: 354 for mail data, 334 for a response (RFC 4954)."""
        return self.code in (354, 334)

    @property
    def transient(self) -> bool:
        """Whether the server refuses for now: 4yz."""
        return 400 <= self.code <= 499

    @property
    def permanent(self) -> bool:
        """Whether the server refuses for good: 5yz."""
        return 500 <= self.code <= 599

    @property
    def text(self) -> str:
        """What the server said, without the code, printable on one line, at most 500 characters."""
        return printable(b" ".join(self.lines)).strip()

    def __str__(self) -> str:
        return f"{self.code} {self.text}".strip()


class SmtpClient:
    """One session as seen by the client. After a RemoteProtocolError it is out of step for good, and says so again."""

    __slots__ = ("_broken", "_buffer", "_code", "_lines", "_outstanding")

    def __init__(self) -> None:
        self._buffer = ReceiveBuffer()
        self._outstanding: deque[Command] = deque((GREETING,))
        self._code = b""
        self._lines: list[bytes] = []  # of a reply that is not complete
        self._broken = ""

    @property
    def outstanding(self) -> int:
        """How many replies are still to come."""
        return len(self._outstanding)

    @property
    def buffered(self) -> bool:
        """Whether octets are here that were not taken as a reply yet."""
        return bool(self._buffer)

    def send(self, *commands: Command) -> bytes:
        """Return the octets of `commands`, to be written now, and expect a reply to each.

        Raises RemoteProtocolError if the server has said something that nobody asked for. A 421 it may say at any time
        (RFC 5321 3.8): it becomes the reply to the first of `commands`.
        """
        if not self._outstanding and self._buffer:
            self._refuse_unasked()
        self._outstanding.extend(commands)
        if len(commands) == 1:
            return commands[0].line
        return b"".join([command.line for command in commands])

    def expect_end_of_data(self, replies: int = 1) -> None:
        """Expect the reply to the end of the mail data; with LMTP one for each accepted recipient (RFC 2033 4.2)."""
        self._outstanding.extend([END_OF_DATA] * replies)

    def receive(self, data: bytes | memoryview) -> None:
        """Add octets from the server. Raises RemoteProtocolError if it sends more than anybody can have asked for."""
        self._buffer.append(data)
        if len(self._buffer) > MAX_BUFFERED:
            self._buffer.clear()
            self._fail(f"the server sent more than {MAX_BUFFERED} octets of replies at once")

    def next_reply(self) -> Reply | None:
        """Return the next reply, or None if more octets are needed.

        Raises RemoteProtocolError if what came is no reply (RFC 5321 4.2), is too long, or answers no command.
        """
        if self._broken:
            raise RemoteProtocolError(self._broken)
        if not self._outstanding:
            if self._buffer:
                self._fail("the server sent a reply that nobody asked for")
            return None
        while (line := self._buffer.line()) is not None:
            found = _REPLY_LINE.fullmatch(line)
            if found is None:
                self._fail(f"the server sent what is no SMTP reply: {printable(line, 100) or 'an empty line'}")
            code, separator, text = found.groups()
            if self._lines and code != self._code:
                self._fail(f"the server sent a reply with two codes, {self._code.decode()} and {code.decode()}")
            self._code = code
            self._lines.append(text or b"")
            if separator != b"-":
                return self._complete()
            if len(self._lines) >= MAX_REPLY_LINES:
                self._fail(f"the server sent a reply of more than {MAX_REPLY_LINES} lines")
        return None

    def forget(self) -> bytes:
        """Return what was received and not taken as a reply, and forget it.

        Before TLS begins this must be empty: somebody else may have put it there (CVE-2011-0411).
        """
        pending = b"".join(self._code + b"-" + line + b"\r\n" for line in self._lines)
        self._lines.clear()
        return pending + self._buffer.clear()

    def _complete(self) -> Reply:
        lines = tuple(self._lines)
        self._lines.clear()
        enhanced = _ENHANCED.match(lines[0])
        # The class of an enhanced code is that of the code, or it is none (RFC 2034 4).
        status = enhanced[1].decode() if enhanced and lines[0][0] == self._code[0] else ""
        return Reply(int(self._code), status, lines, self._outstanding.popleft())

    def _refuse_unasked(self) -> None:
        pending = self._buffer.clear()
        if not pending.startswith(b"421"):
            self._fail("the server sent a reply that nobody asked for")
        self._buffer.append(pending)

    def _fail(self, message: str) -> NoReturn:
        self._broken = message
        raise RemoteProtocolError(message)


def ehlo(name: str | bytes, *, lmtp: bool = False) -> Command:
    """Return EHLO, or LMTP's LHLO, with this host's name or address literal. Raises LocalProtocolError."""
    verb = "LHLO" if lmtp else "EHLO"
    return _command(verb, verb.encode() + b" " + _host(name))


def helo(name: str | bytes) -> Command:
    """Return HELO, for servers without extensions. Raises LocalProtocolError."""
    return _command("HELO", b"HELO " + _host(name))


def is_host(name: str | bytes) -> bool:
    """Return whether EHLO may give `name`: a host name or an address literal, in ASCII."""
    octets = name.encode() if isinstance(name, str) else name
    return _NAME.fullmatch(octets) is not None


def starttls() -> Command:
    """Return STARTTLS (RFC 3207). Nothing may be sent after it before its reply was read and TLS stands."""
    return _STARTTLS


def auth(mechanism: str | bytes, initial: bytes | None = None) -> Command:
    """Return AUTH (RFC 4954) with the initial response, which is not yet base64, if there is one.

    Raises LocalProtocolError if the mechanism's name or the length is not allowed.
    """
    name = argument(mechanism, "mechanism")
    if not _MECHANISM.fullmatch(name):
        raise LocalProtocolError(f"{printable(name, 40)} is no name of a SASL mechanism")
    line = b"AUTH " + name
    if initial is not None:
        line += b" " + (b2a_base64(initial, newline=False) or b"=")
    return _command("AUTH", line, MAX_AUTH)


def auth_response(response: bytes | None) -> Command:
    """Return the response to a challenge, which is not yet base64; None gives the exchange up (RFC 4954 4)."""
    return _command("AUTH response", b"*" if response is None else b2a_base64(response, newline=False), MAX_AUTH)


def mail(reverse_path: bytes, *, size: int | None = None, body_8bit: bool = False, smtputf8: bool = False) -> Command:
    """Return MAIL for a reverse path without < and >, b"" being the null one, with the parameters that are wanted.

    `size` is in octets (RFC 1870), `body_8bit` is BODY=8BITMIME (RFC 6152), `smtputf8` that of RFC 6531. Raises
    LocalProtocolError if the path can't be sent.
    """
    line = b"MAIL FROM:<" + _path(reverse_path, "reverse path") + b">"
    if size is not None:
        line += b" SIZE=%d" % size
    if body_8bit:
        line += b" BODY=8BITMIME"
    if smtputf8:
        line += b" SMTPUTF8"
    return _command("MAIL", line, MAX_COMMAND)


@lru_cache(maxsize=256)  # most mail goes to the same few
def rcpt(forward_path: bytes) -> Command:
    """Return RCPT for a forward path without < and >. Raises LocalProtocolError if it is empty or can't be sent."""
    if not forward_path:
        raise LocalProtocolError("the forward path is empty")
    return _command("RCPT", b"RCPT TO:<" + _path(forward_path, "forward path") + b">")


def data() -> Command:
    """Return DATA. After its 354 the caller writes the mail data and calls `SmtpClient.expect_end_of_data`."""
    return _DATA


def bdat(octets: int, *, last: bool) -> Command:
    """Return BDAT (RFC 3030) for a chunk of so many octets, which the caller writes right after it."""
    return _command("BDAT", b"BDAT %d%s" % (octets, b" LAST" if last else b""))


def rset() -> Command:
    """Return RSET, which ends the mail transaction if there is one."""
    return _RSET


def noop() -> Command:
    """Return NOOP."""
    return _NOOP


def quit() -> Command:  # noqa: A001 - the command's name
    """Return QUIT."""
    return _QUIT


def parse_extensions(reply: Reply) -> dict[str, str]:
    """Return what the reply to EHLO announces: keywords in capitals, each with its parameters or "" (RFC 5321 4.1.1.1).

    Lines that are no extension are left out; of a keyword that comes twice the first counts, but all that AUTH lines name
    does: some servers have "AUTH=LOGIN", the form of a draft, beside the one of RFC 4954. What it returns is as bounded as
    a reply is, parameters are cut at `MAX_PARAMETERS`.
    """
    extensions: dict[str, str] = {}
    for line in reply.lines[1:]:
        found = _KEYWORD.fullmatch(line.strip())
        if found:
            parameters = (found[2] or b"").decode("ascii", "replace").strip()
            keyword = found[1].decode().upper()
            if keyword == "AUTH" and keyword in extensions:
                names = (*extensions[keyword].split(), *parameters.split())
                extensions[keyword] = " ".join(dict.fromkeys(name.upper() for name in names))[:MAX_PARAMETERS]
            extensions.setdefault(keyword, parameters[:MAX_PARAMETERS])
    return extensions


def _command(verb: str, line: bytes, limit: int = MAX_COMMAND) -> Command:
    if len(line) + 2 > limit:
        raise LocalProtocolError(f"the {verb} command would have more than {limit} octets")
    return Command(verb, line + b"\r\n")


def _host(name: str | bytes) -> bytes:
    octets = argument(name, "name for EHLO")
    if not is_host(octets):
        raise LocalProtocolError(f"{printable(octets, 100)} is neither a host name nor an address literal")
    return octets


def _path(path: bytes, what: str) -> bytes:
    if _NOT_IN_PATH.search(path):
        argument(path, what)
        raise LocalProtocolError(f"the {what} {printable(path, 100)} contains a space, < or >, or a control character")
    if len(path) > MAX_PATH:
        raise LocalProtocolError(f"the {what} {printable(path, 100)} has more than {MAX_PATH} octets")
    return path
