"""A POP3 session in the TRANSACTION state: the listing, retrieval in a window, deletions, and the QUIT that commits."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice

import msgspec

from poprep_cli.config.model import Pop3
from poprep_cli.errors import RemoteProtocolError, ReplyError
from poprep_cli.net.detect import NO_MEMORY, Memory
from poprep_cli.net.dialogue import SILENT, Dialogue
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
WHOLE = 99_999_999  # lines of a body: the most that every server takes for a number, and more than any message has
MAX_NUMBER = 999_999_999
HEADER_GROUP = 64  # TOPs in one write
HEADER_OCTETS = 1 << 18  # of one header
GROUP = 200  # DELEs in one write: their replies must fit into the peer's and our socket buffers


class Listed(msgspec.Struct, frozen=True, gc=False):
    """One message of the listing: its number in this session, UIDL (b"" if the server gave none) and size in octets."""

    number: int
    uidl: bytes
    size: int


class Maildrop:
    """An open maildrop. Lives for one session; message numbers mean nothing outside it."""

    def __init__(
        self,
        pop3: Pop3,
        password: str,
        stop: Stop,
        memory: Memory = NO_MEMORY,
        *,
        pipelining: bool = True,
        dialogue: Dialogue = SILENT,
    ) -> None:
        """Connect and log in, see `log_in` for what may be raised. With `pipelining` false one command at a time."""
        session = log_in(pop3, password, stop, memory, dialogue)
        self._link: Link = session.link
        self.server = session.link.stream.server
        self.peer = session.link.stream.peer
        self.tls = session.link.stream.tls
        self.method = session.method
        self.failures = session.failures
        self.memory = session.memory
        self.warnings = session.warnings
        self.listed: list[Listed] = []
        self.uidl_refusal: Reply | None = None
        self.recognise: Callable[[Listed, bytes], bool] = lambda _listed, _header: False
        self.reading: Listed | None = None  # the message that is being received
        self._places: dict[int, int] = {}  # by message number, where it is in `listed`
        self._again: deque[Listed] = deque()
        self.capabilities = session.capabilities or {}
        self.pipelining = pipelining and pop3.pipelining == "auto" and "PIPELINING" in self.capabilities

    def listing(self, known: Iterable[bytes] = ()) -> list[Listed]:
        """Return what the server lists, in its order. Raises ReplyError, RemoteProtocolError, ConnectionFailed.

        Messages that only UIDL or only LIST names (mail that arrived in between) are left out; what UIDL passes over has
        no UIDL. If it is refused (`uidl_refusal`) no message has one. A UIDL that is among those `known` is the same object:
        of hundreds of thousands one set is enough.
        """
        if self.pipelining:
            self._link.send(commands.UIDL, commands.LIST)
            named = self._named(self._link.reply(), known)
            self.listed = self._sized(self._link.reply(), named)
        else:
            named = self._named(self._link.ask(commands.UIDL), known)
            self.listed = self._sized(self._link.ask(commands.LIST), named)
        self._places.clear()
        return self.listed

    def rename(self, keys: Mapping[int, bytes]) -> None:
        """Put other words in place of the UIDLs of some messages, by number: the UIDL, CRLF, and what makes it unique."""
        if not self._places:
            self._places = {listed.number: place for place, listed in enumerate(self.listed)}
        for number, key in keys.items():
            place = self._places[number]
            self.listed[place] = Listed(number, key, self.listed[place].size)

    @property
    def offers_top(self) -> bool:
        """Whether TOP is worth trying: only an answer to CAPA without it says that it is not."""
        return not self.capabilities or "TOP" in self.capabilities

    def retrieve(
        self,
        wanted: Iterable[Listed],
        admit: Callable[[Listed, bool], bool],
        by_top: Callable[[Listed], bool] = lambda _message: False,
    ) -> Iterator[tuple[Listed, Reply]]:
        """Yield each wanted message with the reply to its RETR, whose block `parts` yields and must be read to its end.

        With pipelining up to 64 RETRs or 4 MiB are on their way. `admit(message, wait)` is asked before each RETR; it may
        wait only if `wait` is true, and false then ends the retrieval. Where `by_top(message)` it is TOP in place of RETR,
        and a message that must be had by RETR after all (`read_again`) comes once more, not asked about a second time.
        Raises ConnectionFailed, RemoteProtocolError.
        """
        self._again.clear()
        waiting = deque(wanted)
        window: deque[Listed] = deque()
        octets = 0
        while True:
            group = []
            while self._again and self._has_room(len(window), octets):
                message = self._again.popleft()
                window.append(message)
                octets += message.size
                group.append(commands.retr(message.number))
            while waiting and self._has_room(len(window), octets) and admit(waiting[0], not window):
                message = waiting.popleft()
                window.append(message)
                octets += message.size
                whole = commands.top(message.number, WHOLE) if by_top(message) else commands.retr(message.number)
                group.append(whole)
            if group:
                self._link.send(*group)
            if not window:
                return
            self.reading = message = window.popleft()
            octets -= message.size
            yield message, self._link.reply()
            self.reading = None

    def read_again(self, listed: Listed) -> None:
        """Have `retrieve` get a message by RETR that it yielded a moment ago."""
        self._again.append(listed)

    def parts(self, reply: Reply) -> Iterator[bytes]:
        """Yield the block of a reply in parts, terminator included."""
        return self._link.parts(reply)

    def headers(self, numbers: Iterable[int]) -> Iterator[tuple[int, bytes | None]]:
        """Yield each message's number and its header by TOP (RFC 1939 7), dot-stuffed; None where the server refuses it.

        Of a longer one the first 256 KiB are given. A server that refuses TOP for a whole group is asked no more. To be
        read to the end. Raises ConnectionFailed, RemoteProtocolError.
        """
        waiting = iter(numbers)
        refused = False
        while group := list(islice(waiting, HEADER_GROUP)):
            if refused:
                yield from ((number, None) for number in group)
                continue
            if self.pipelining:
                self._link.send(*(commands.top(number, 0) for number in group))
            refused = True
            for number in group:
                if not self.pipelining:
                    self._link.send(commands.top(number, 0))
                header = self._header(self._link.reply())
                refused = refused and header is None
                yield number, header

    def _header(self, reply: Reply) -> bytes | None:
        if not reply.ok:
            return None
        kept = bytearray()
        for part in self._link.parts(reply):
            if len(kept) < HEADER_OCTETS:  # a server may take TOP for RETR: the rest is read, and dropped
                kept += part
        return bytes(kept[:HEADER_OCTETS])

    def confirm(self, listed: Listed) -> None:
        """Make sure that the next answer is the server's, after a message came shorter than LIST said.

        Some servers don't double every leading dot, so that a line of the message can end its block, and what follows
        can look like an answer. The UIDL is what a sender can't know; without one it is the header as it was delivered, if
        `recognise` knows it from the listing. Raises RemoteProtocolError if the session is, or may be, out of step: nothing
        more that it says can be trusted.
        """
        if self._link.awaited:
            raise RemoteProtocolError(
                f"{self.server}: message {listed.number} came shorter than LIST said, amid other answers"
            )
        uidl = listed.uidl.partition(CRLF)[0]
        if uidl:
            reply = self._link.ask(commands.uidl(listed.number))
            sure = reply.ok and reply.text.split(b" ", 1) == [b"%d" % listed.number, uidl]
        else:
            header = self._header(self._link.ask(commands.top(listed.number, 0))) if self.offers_top else None
            sure = header is not None and self.recognise(listed, header)
        if not sure:
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

    def _named(self, reply: Reply, known: Iterable[bytes]) -> list[Listed]:
        """Return what UIDL lists, without sizes."""
        self.uidl_refusal = None if reply.ok else reply
        if not reply.ok:
            return []
        own: dict[bytes, bytes] = dict.fromkeys(known, b"")  # its room at once: growing would cost half as much again
        own.update(zip(own, own, strict=True))
        found = []
        for number, uidl in self._numbered(reply):
            if len(uidl) > MAX_UIDL:
                raise RemoteProtocolError(f"{self.server} sent a UIDL of {len(uidl)} octets for message {number}")
            found.append(Listed(number, own.get(uidl, uidl), 0))
        return found

    def _sized(self, reply: Reply, named: list[Listed]) -> list[Listed]:
        """Return what LIST lists, with the UIDLs of `named`, which is used up: both answers mostly go in step."""
        if not reply.ok:
            raise ReplyError(f"{self.server} refused LIST: {reply}", reply=reply)
        last = MAX_NUMBER if self.uidl_refusal is not None else max((one.number for one in named), default=0)
        named.reverse()
        found: list[Listed] = []
        sizes: dict[int, int] = {}  # equal ones are one object, too
        others: dict[int, Listed] | None = None  # what is left of `named` once they don't
        seen: set[int] = set()
        for number, words in self._numbered(reply):
            size = _size(words)
            size = sizes.setdefault(size, size)
            if others is None and named and named[-1].number == number:
                one = named.pop()
                found.append(Listed(one.number, one.uidl, size))
                continue
            if others is None:
                others = {one.number: one for one in named}
                seen = {one.number for one in found}
            if number not in seen and number <= last:
                seen.add(number)
                found.append(Listed(number, others[number].uidl if number in others else b"", size))
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


def _size(words: bytes) -> int:
    """Return the size in a line of LIST; one that is no number is a hint lost, not a message lost."""
    size = words.partition(b" ")[0]
    return int(size) if size.isdigit() and len(size) < 16 else 0
