"""A POP3 session in the TRANSACTION state: the listing, retrieval in a window, deletions, and the QUIT that commits."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

import msgspec

from poprep_cli.config.model import Pop3
from poprep_cli.errors import RemoteProtocolError, ReplyError
from poprep_cli.net.detect import NO_MEMORY, Memory
from poprep_cli.net.link import Link
from poprep_cli.net.login import log_in
from poprep_cli.net.stop import Stop
from poprep_cli.protocol import pop3 as commands
from poprep_cli.protocol.pop3 import Reply
from poprep_cli.protocol.wire import CRLF, MAX_LINE, printable

MAX_MESSAGES = 1_000_000
MAX_UIDL = 4096  # RFC 1939 7 says 70 characters; servers have been seen with far more
WINDOW_MESSAGES = 64
WINDOW_OCTETS = 4 << 20
GROUP = 200  # DELEs in one write: their replies must fit into the peer's and our socket buffers


class Listed(msgspec.Struct, frozen=True, gc=False):
    """One message of the listing: its number in this session, UIDL (b"" if the server gave none) and size in octets."""

    number: int
    uidl: bytes
    size: int


class Maildrop:
    """An open maildrop. Lives for one session; message numbers mean nothing outside it."""

    def __init__(
        self, pop3: Pop3, password: str, stop: Stop, memory: Memory = NO_MEMORY, *, pipelining: bool = True
    ) -> None:
        """Connect and log in, see `log_in` for what may be raised. With `pipelining` false one command at a time."""
        session = log_in(pop3, password, stop, memory)
        self._link: Link = session.link
        self.server = session.link.stream.server
        self.peer = session.link.stream.peer
        self.tls = session.link.stream.tls
        self.method = session.method
        self.failures = session.failures
        self.memory = session.memory
        self.warnings = session.warnings
        self.listed: list[Listed] = []
        self.reading: Listed | None = None  # the message that is being received
        self.capabilities = session.capabilities or {}
        self.pipelining = pipelining and pop3.pipelining == "auto" and "PIPELINING" in self.capabilities

    def listing(self) -> list[Listed]:
        """Return what the server lists, in its order. Raises ReplyError, RemoteProtocolError, ConnectionFailed.

        Messages that only UIDL or only LIST names (mail that arrived in between) are left out.
        """
        if self.pipelining:
            self._link.send(commands.UIDL, commands.LIST)
            uidls = self._uidls(self._link.reply())
            sizes = self._sizes(self._link.reply())
        else:
            uidls = self._uidls(self._link.ask(commands.UIDL))
            sizes = self._sizes(self._link.ask(commands.LIST))
        self.listed = [Listed(number, uidls.pop(number), size) for number, size in sizes.items() if number in uidls]
        return self.listed

    def retrieve(
        self, wanted: Iterable[Listed], admit: Callable[[Listed, bool], bool]
    ) -> Iterator[tuple[Listed, Reply]]:
        """Yield each wanted message with the reply to its RETR, whose block `parts` yields and must be read to its end.

        With pipelining up to 64 RETRs or 4 MiB are on their way. `admit(message, wait)` is asked before each RETR; it may
        wait only if `wait` is true, and false then ends the retrieval. Raises ConnectionFailed, RemoteProtocolError.
        """
        waiting = deque(wanted)
        window: deque[Listed] = deque()
        octets = 0
        while True:
            group = []
            while waiting and self._has_room(len(window), octets) and admit(waiting[0], not window):
                message = waiting.popleft()
                window.append(message)
                octets += message.size
                group.append(commands.retr(message.number))
            if group:
                self._link.send(*group)
            if not window:
                return
            self.reading = message = window.popleft()
            octets -= message.size
            yield message, self._link.reply()
            self.reading = None

    def parts(self, reply: Reply) -> Iterator[bytes]:
        """Yield the block of a reply in parts, terminator included."""
        return self._link.parts(reply)

    def confirm(self, listed: Listed) -> None:
        """Make sure that the next answer is the server's, after a message came shorter than LIST said.

        Some servers don't double every leading dot, so that a line of the message can end its block, and what follows
        can look like an answer. The UIDL is what a sender can't know. Raises RemoteProtocolError if the session is, or may
        be, out of step: nothing more that it says can be trusted.
        """
        if self._link.awaited:
            raise RemoteProtocolError(
                f"{self.server}: message {listed.number} came shorter than LIST said, amid other answers"
            )
        reply = self._link.ask(commands.uidl(listed.number))
        if not reply.ok or reply.text.split(b" ", 1) != [b"%d" % listed.number, listed.uidl]:
            raise RemoteProtocolError(
                f"{self.server}: message {listed.number} was cut by a dot that the server did not double; it is left there"
            )

    def delete(self, numbers: Iterable[int]) -> dict[int, Reply]:
        """Mark messages as deleted; QUIT commits it. Return the replies by number."""
        waiting = list(numbers)
        replies: dict[int, Reply] = {}
        size = GROUP if self.pipelining else 1
        for start in range(0, len(waiting), size):
            group = waiting[start : start + size]
            self._link.send(*map(commands.dele, group))
            for number in group:
                replies[number] = self._link.reply()
        return replies

    def quit(self) -> Reply:
        """End the session and return the answer to QUIT: only +OK says that deletions were committed (RFC 1939 6)."""
        try:
            return self._link.ask(commands.QUIT)
        finally:
            self.close()

    def close(self) -> None:
        """Drop the line; nothing is committed."""
        self._link.close()

    def _has_room(self, messages: int, octets: int) -> bool:
        return not messages or (self.pipelining and messages < WINDOW_MESSAGES and octets < WINDOW_OCTETS)

    def _uidls(self, reply: Reply) -> dict[int, bytes]:
        if not reply.ok:
            raise ReplyError(
                f"{self.server} refused UIDL: {reply}", reply=reply, hint="without UIDL mail can't be told apart"
            )
        found: dict[int, bytes] = {}
        for number, uidl in self._numbered(reply):
            if len(uidl) > MAX_UIDL:
                raise RemoteProtocolError(f"{self.server} sent a UIDL of {len(uidl)} octets for message {number}")
            found[number] = uidl
        return found

    def _sizes(self, reply: Reply) -> dict[int, int]:
        if not reply.ok:
            raise ReplyError(f"{self.server} refused LIST: {reply}", reply=reply)
        found: dict[int, int] = {}
        for number, words in self._numbered(reply):
            size = words.split(b" ", 1)[0]
            # A size that is no number is a hint lost, not a message lost.
            found[number] = int(size) if size.isdigit() and len(size) < 16 else 0
        return found

    def _numbered(self, reply: Reply) -> Iterator[tuple[int, bytes]]:
        rest = b""
        count = 0
        for part in self._link.parts(reply):
            lines = (rest + part).split(CRLF)
            rest = lines.pop()
            if len(rest) > MAX_LINE:
                raise RemoteProtocolError(f"{self.server} sent a line of more than {MAX_LINE} octets in its listing")
            for line in lines:
                number, _, words = line.partition(b" ")
                if line == b".":
                    return
                if not number.isdigit() or len(number) > 9:
                    raise RemoteProtocolError(
                        f"{self.server}: a line of the answer to {reply.command.shown} has no message number: {printable(line, 80)}",
                    )
                count += 1
                if count > MAX_MESSAGES:
                    raise RemoteProtocolError(f"{self.server} lists more than {MAX_MESSAGES:,} messages")
                yield int(number), words
