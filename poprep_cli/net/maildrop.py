"""A POP3 session in the TRANSACTION state: the listing, retrieval in a window, deletions, and the QUIT that commits."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Protocol

import msgspec
from msgspec.structs import replace

from poprep_cli.config.model import Pop3
from poprep_cli.errors import ConnectionFailed, RemoteProtocolError, ReplyError
from poprep_cli.net.detect import BEHIND, NO_MEMORY, Memory
from poprep_cli.net.dialogue import SILENT, Dialogue
from poprep_cli.net.link import Link
from poprep_cli.net.login import log_in
from poprep_cli.net.stop import Stop
from poprep_cli.protocol import pop3 as commands
from poprep_cli.protocol.pop3 import Reply
from poprep_cli.protocol.wire import CRLF, MAX_LINE, printable

MAX_MESSAGES = 1_000_000
MAX_LISTING = 64 << 20  # octets of one answer that is kept whole: a million lines with UIDLs of 50
MAX_UIDL = 4096  # RFC 1939 7 says 70 characters; servers have been seen with far more
WINDOW_MESSAGES = 256
WINDOW_OCTETS = 4 << 20
REFILL = 2  # the window is filled again once only one in so many is left of it: many commands in one write
WHOLE = 99_999_999  # lines of a body: the most that every server takes for a number, and more than any message has
MAX_NUMBER = 999_999_999
HEADER_GROUP = 64  # TOPs in one write
HEADER_OCTETS = 1 << 18  # of one header
BATCH = 4096  # lines of a listing that are taken apart at once
GROUP = (
    1000  # DELEs in one write: 12 KB, which every socket buffer takes, so that it never waits for a server that writes
)


class Digest(Protocol):
    """A digest that is continued with more octets, as hashlib has them."""

    def update(self, data: bytes, /) -> None:
        """Continue."""


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
        pipelining = pipelining and pop3.pipelining == "auto"
        listing = (commands.UIDL, commands.LIST)
        session = log_in(pop3, password, stop, memory, dialogue, behind=listing if pipelining else ())
        self._link: Link = session.link
        self.server = session.link.stream.server
        self.peer = session.link.stream.peer
        self.tls = session.link.stream.tls
        self.method = session.method
        self.failures = session.failures
        self.memory = session.memory
        self.warnings = session.warnings
        self.listed: list[Listed] = []
        self._answers: list[tuple[Reply, Iterator[bytes]]] = []  # to UIDL and LIST, not taken apart yet
        self.uidl_refusal: Reply | None = None
        self.recognise: Callable[[Listed, bytes], bool] = lambda _listed, _header: False
        self.reading: Listed | None = None  # the message that is being received
        self._places: dict[int, int] = {}  # by message number, where it is in `listed`
        self._again: deque[Listed] = deque()
        self.capabilities = session.capabilities or {}
        self.pipelining = pipelining and session.takes_groups and "PIPELINING" in self.capabilities
        self._asked = session.sent_behind  # the listing was asked for together with the login

    def look(self, digest: Digest) -> None:
        """Have the mail listed, and continue `digest` with what was answered. `listing` takes it apart, if need be.

        Raises as `listing`, of what comes over the line.
        """
        self._answers = [(reply, self._bounded(parts)) for reply, parts in self._listed_by_server(digest)]

    def _bounded(self, parts: Iterable[bytes]) -> Iterator[bytes]:
        """Keep parts, and return what yields each of them once, so that none takes memory any longer than that."""
        kept: deque[bytes] = deque()
        octets = 0
        for part in parts:
            octets += len(part)
            if octets > MAX_LISTING:
                raise RemoteProtocolError(f"{self.server} sent a listing of more than {MAX_LISTING >> 20} MiB")
            kept.append(part)
        return _emptied(kept)

    def listing(self, known: Iterable[bytes] = (), digest: Digest | None = None) -> list[Listed]:
        """Return what the server lists, in its order. Raises ReplyError, RemoteProtocolError, ConnectionFailed.

        Messages that only UIDL or only LIST names (mail that arrived in between) are left out; what UIDL passes over has
        no UIDL. If it is refused (`uidl_refusal`) no message has one. A UIDL that is among those `known` is the same object:
        of hundreds of thousands one set is enough. `digest` is continued with the answers.
        """
        answers = iter(self._answers or self._listed_by_server(digest))
        self._answers = []
        named = self._named(*next(answers), known)
        self.listed = self._sized(*next(answers), *named)
        self._places.clear()
        return self.listed

    def _listed_by_server(self, digest: Digest | None) -> Iterator[tuple[Reply, Iterable[bytes]]]:
        """Yield the answers to UIDL and LIST with their blocks, each to be read to its end before the next."""
        asked, self._asked = self._asked, False
        if self.pipelining and not asked:
            self._link.send(commands.UIDL, commands.LIST)
        for command in (commands.UIDL, commands.LIST):
            try:
                reply = self._link.reply() if self.pipelining else self._link.ask(command)
            except (ConnectionFailed, RemoteProtocolError) as error:
                unsaid = self._link.awaited > 1 or isinstance(error, RemoteProtocolError)
                if asked and command is commands.UIDL and unsaid:  # it may lose what comes together with a login
                    self.memory = replace(self.memory, mute=(*self.memory.mute, BEHIND))
                raise
            if asked and command is commands.LIST:
                self._link.forget_secrets()
            yield reply, self._digested(reply, digest) if reply.ok else ()

    def _digested(self, reply: Reply, digest: Digest | None) -> Iterator[bytes]:
        for part in self._link.parts(reply):
            if digest is not None:
                digest.update(part)
            yield part

    def rename(self, keys: Mapping[int, bytes]) -> None:
        """Put other words in place of the UIDLs of some messages, by number: the UIDL, CRLF, and what makes it unique."""
        if not self._places:
            self._places = {listed.number: place for place, listed in enumerate(self.listed)}
        for number, key in keys.items():
            place = self._places[number]
            self.listed[place] = Listed(number, key, self.listed[place].size)

    @property
    def renamed(self) -> bool:
        """Whether any message of this listing goes by something else than its UIDL."""
        return bool(self._places)

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

        With pipelining up to 256 RETRs or 4 MiB are on their way; once half of that was answered it is filled up again.
        `admit(message, wait)` is asked before each RETR; it may wait only if `wait` is true, and false then ends the retrieval. Where `by_top(message)` it is TOP in place of RETR,
        and a message that must be had by RETR after all (`read_again`) comes once more, not asked about a second time.
        Raises ConnectionFailed, RemoteProtocolError.
        """
        self._again.clear()
        waiting = deque(wanted)
        window: deque[Listed] = deque()
        octets = 0
        filling = True
        while True:
            group = []
            filling = filling or (len(window) <= WINDOW_MESSAGES // REFILL and octets <= WINDOW_OCTETS // REFILL)
            while self._again and self._has_room(len(window), octets):
                message = self._again.popleft()
                window.append(message)
                octets += message.size
                group.append(commands.retr(message.number))
            while waiting and filling and (filling := self._has_room(len(window), octets)):
                if not admit(waiting[0], not window):
                    break
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

    def delete_and_quit(self, numbers: Iterable[int]) -> tuple[dict[int, Reply], Reply]:
        """Do what `delete` and `quit` do, with pipelining only, in one round trip: QUIT goes with the last of the DELEs."""
        waiting = list(numbers)
        last = waiting[(len(waiting) - 1) // GROUP * GROUP :]
        try:
            replies = self.delete(waiting[: len(waiting) - len(last)])
            self._link.send(*map(commands.dele, last), commands.QUIT)
            replies |= {number: self._link.reply() for number in last}
            return replies, self._link.reply()
        finally:
            self.close()

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

    def _named(self, reply: Reply, parts: Iterable[bytes], known: Iterable[bytes]) -> tuple[list[int], list[bytes]]:
        """Return the numbers and the UIDLs of what UIDL lists."""
        self.uidl_refusal = None if reply.ok else reply
        numbers: list[int] = []
        uidls: list[bytes] = []
        if not reply.ok:
            return numbers, uidls
        own: dict[bytes, bytes] = dict.fromkeys(known, b"")  # its room at once: growing would cost half as much again
        own.update(zip(own, own, strict=True))
        for some, words in self._numbered(reply, parts):
            if max(map(len, words), default=0) > MAX_UIDL:
                number, uidl = next(pair for pair in zip(some, words, strict=True) if len(pair[1]) > MAX_UIDL)
                raise RemoteProtocolError(f"{self.server} sent a UIDL of {len(uidl)} octets for message {number}")
            numbers += some
            uidls += map(own.get, words, words)
        return numbers, uidls

    def _sized(self, reply: Reply, parts: Iterable[bytes], named: list[int], uidls: list[bytes]) -> list[Listed]:
        """Return what LIST lists, with the UIDLs of what was `named`: both answers mostly go in step."""
        if not reply.ok:
            raise ReplyError(f"{self.server} refused LIST: {reply}", reply=reply)
        numbers: list[int] = []
        sizes: list[int] = []
        share = {0: 0}.setdefault  # equal ones are one object, too
        for some, words in self._numbered(reply, parts):
            found = _sizes(words)
            alike = named[len(numbers) : len(numbers) + len(some)]
            numbers += alike if alike == some else some  # the same objects, wherever they go in step
            sizes += map(share, found, found)
        if numbers == named:
            return list(map(Listed, named, uidls, sizes))
        return self._matched(named, uidls, numbers, sizes)

    def _matched(self, named: list[int], uidls: list[bytes], numbers: list[int], sizes: list[int]) -> list[Listed]:
        """Return what both answers name, and what UIDL has passed over, each number once as soon as they are out of step."""
        last = MAX_NUMBER if self.uidl_refusal is not None else max(named, default=0)
        step = 0  # so many are in step
        while step < min(len(named), len(numbers)) and named[step] == numbers[step]:
            step += 1
        found = list(map(Listed, numbers[:step], uidls[:step], sizes[:step]))
        seen = set(numbers[:step])
        others = dict(zip(reversed(named[step:]), reversed(uidls[step:]), strict=True))  # of several the first
        for number, size in zip(numbers[step:], sizes[step:], strict=True):
            if number not in seen and number <= last:
                seen.add(number)
                found.append(Listed(number, others.get(number, b""), size))
        return found

    def _numbered(self, reply: Reply, parts: Iterable[bytes]) -> Iterator[tuple[list[int], list[bytes]]]:
        """Yield the numbers in the lines of a listing and what follows them, part by part: one line at a time is too slow."""
        rest = b""
        count = 0
        for part in parts:
            lines = (rest + part).split(CRLF)
            rest = lines.pop()
            if len(rest) > MAX_LINE:
                raise RemoteProtocolError(f"{self.server} sent a line of more than {MAX_LINE} octets in its listing")
            if lines and lines[-1] == b".":
                lines.pop()
            for start in range(0, len(lines), BATCH):
                rows = [line.partition(b" ") for line in lines[start : start + BATCH]]
                heads = [row[0] for row in rows]
                if not (b"".join(heads).isdigit() and all(heads) and max(map(len, heads)) <= 9):
                    line = next(b"".join(row) for row in rows if not row[0].isdigit() or len(row[0]) > 9)
                    raise RemoteProtocolError(
                        f"{self.server}: a line of the answer to {reply.command.shown} has no message number: {printable(line, 80)}",
                    )
                count += len(rows)
                if count > MAX_MESSAGES:
                    raise RemoteProtocolError(f"{self.server} lists more than {MAX_MESSAGES:,} messages")
                yield list(map(int, heads)), [row[2] for row in rows]


def _emptied(parts: deque[bytes]) -> Iterator[bytes]:
    while parts:
        yield parts.popleft()


def _sizes(words: list[bytes]) -> list[int]:
    """Return the sizes in lines of LIST."""
    if b"".join(words).isdigit() and all(words) and max(map(len, words)) < 16:
        return list(map(int, words))
    return list(map(_size, words))


def _size(words: bytes) -> int:
    """Return the size in a line of LIST; one that is no number is a hint lost, not a message lost."""
    size = words.partition(b" ")[0]
    return int(size) if size.isdigit() and len(size) < 16 else 0
