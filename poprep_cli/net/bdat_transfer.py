"""Letters sent by BDAT, several of them in flight (CHUNKING, RFC 3030; PIPELINING, RFC 2920).

A small letter is one group, RSET MAIL RCPT... BDAT LAST and its octets, and needs no reply to any of it before the next
one is sent. RSET is there because nobody knows yet what became of the transaction before: where that failed it may still
be open (RFC 3030 4.2), and MAIL would be refused for it. A large one, or one to many, sends its envelope first and goes
in chunks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from itertools import chain

from poprep_cli.config.model import Smtp
from poprep_cli.errors import ConnectionFailed, PoprepError, RemoteProtocolError
from poprep_cli.net.data_transfer import LAST_WORDS
from poprep_cli.net.passage import Passage, Passages
from poprep_cli.net.smtp_link import SmtpLink
from poprep_cli.net.transaction import Letter, Transaction
from poprep_cli.protocol.smtp import Reply
from poprep_cli.protocol.wire import PART_OCTETS

COALESCED = (
    1 << 16
)  # octets of small letters in one write: a small write after a small one may wait for an acknowledgement
CHUNKS_AHEAD = 4  # of a large letter, without the reply to the first
# RFC 2920 3.1: the replies to come must fit into what the network stacks hold while nobody reads. We read no replies while
# we write; were the server stuck in writing them it would not read, and both would wait. 64 KiB is the smallest receive
# buffer in use, and this is half of it. A reply counts as much as the longest so far in this session.
REPLIES_OCTETS = 1 << 15
_SHORTEST, _LONGEST = 64, 512  # octets of a reply; before the first of them is known it is taken for a long one
# The replies of a server that doesn't know BDAT, although it announces it: to octets that somebody should get, and to
# those for nobody, where 503 is what RFC 3030 4.2 wants.
_UNKNOWN, _UNKNOWN_FOR_NOBODY = (500, 501, 502, 503, 504), (500, 502)


class BdatTransfer:
    """The letters of one session."""

    __slots__ = (
        "_buffer",
        "_buffered",
        "_extensions",
        "_farewell",
        "_link",
        "_longest",
        "_passages",
        "_proven",
        "_reset",
        "_smtp",
        "_trusted",
        "_waiting",
    )

    def __init__(
        self, link: SmtpLink, smtp: Smtp, extensions: dict[str, str], passages: Passages, longest: int = 0
    ) -> None:
        """Prepare. `longest` says that this server has shown in an earlier session that it knows BDAT, see `proof`."""
        self._link = link
        self._smtp = smtp
        self._extensions = extensions
        self._passages = passages
        self._buffer: list[bytes] = []
        self._waiting: list[Passage] = []  # those whose octets are in the buffer
        self._buffered = 0
        self._longest = longest  # octets of a reply
        self._trusted = longest > 0  # to know BDAT
        self._proven = False  # whether the server has shown in this session that it does
        self._reset = False  # whether the last transaction failed
        self._farewell: Reply | None = None  # 421

    @property
    def idle(self) -> bool:
        """Whether the server waits for a command, with nothing half said."""
        return self._link.outstanding == 0

    @property
    def proof(self) -> int:
        """The octets of the longest reply, if the server has shown in this session that it knows BDAT, else 0."""
        return self._longest if self._proven else 0

    def room(self, letter: Letter, limit: int) -> bool:
        """Whether a letter may be sent without waiting for the replies to those before, and at most `limit` are in flight.

        The first one of all goes alone: a server that doesn't know the BDAT which it announces would take the
        octets of all that follow for commands.
        """
        return len(self._passages) < limit and self._fits(letter)

    def send(self, letter: Letter, before_end: Callable[[Letter], None]) -> None:
        """Send a letter as far as the replies allow. A small one may stay in the buffer until it is worth a write."""
        reset = self._reset or not self.idle
        transaction = Transaction(letter, self._extensions, reset=reset, chunking=True)
        alone = self.waits_to_send(letter)
        passage = self._passages.add(transaction, before_end)
        if passage.settled:
            return
        parts = iter(letter.plain())
        first, second = next(parts, b""), next(parts, None)
        try:
            if second is None and not alone:
                self._pack(passage, first)
            else:
                self._stream(passage, first, () if second is None else chain((second,), parts))
        except (ConnectionFailed, RemoteProtocolError) as error:
            self._broke(error)

    def waits_to_send(self, letter: Letter) -> bool:
        """Whether replies are waited for while this letter is sent."""
        commands = len(letter.forward_paths) + 2
        return letter.octets >= PART_OCTETS or commands >= self._window or not self._fits(letter)

    def finish(self, _following: Letter | None = None) -> None:
        """Send what is in the buffer."""
        try:
            self._flush()
        except (ConnectionFailed, RemoteProtocolError) as error:
            self._broke(error)

    def settle_oldest(self) -> None:
        """Bring the oldest letter to its outcome, and others whose replies are here already."""
        oldest = self._passages.oldest
        try:
            self._flush()
            while oldest is not None and not oldest.settled:
                self._take(self._reply())
            while self._passages.awaiting and (reply := self._link.at_hand()) is not None:
                self._take(reply)
        except (ConnectionFailed, RemoteProtocolError) as error:
            self._broke(error)

    def _fits(self, letter: Letter) -> bool:
        if self.idle:
            return True
        return self._trusted and self._link.outstanding + len(letter.forward_paths) + 3 <= self._window

    @property
    def _window(self) -> int:
        return REPLIES_OCTETS // max(_SHORTEST, self._longest or _LONGEST)

    def _pack(self, passage: Passage, content: bytes) -> None:
        transaction = passage.transaction
        envelope = transaction.window(len(transaction.commands))
        self._buffer += (self._link.group(*envelope, transaction.chunk(len(content), last=True)), content)
        self._link.dialogue.content("C", len(content))
        self._buffered += len(content)
        self._waiting.append(passage)
        if self._buffered >= COALESCED:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting or self._farewell is not None:
            return
        waiting, data = self._waiting, b"".join(self._buffer)
        self._waiting, self._buffer, self._buffered = [], [], 0
        for passage in waiting:
            passage.end()
        self._write(data)

    def _write(self, data: bytes | memoryview) -> None:
        try:
            self._link.stream.write(data, self._smtp.timeout)
        except ConnectionFailed:
            self._last_words()
            raise

    def _stream(self, passage: Passage, first: bytes, rest: Iterable[bytes]) -> None:
        """Send a letter in turns: the letters before it are settled, then its envelope is, then chunk follows chunk."""
        transaction = passage.transaction
        self._flush()
        for earlier in tuple(self._passages.unsettled):
            while earlier is not passage and not earlier.settled:
                self._take(self._reply())
        while not passage.settled and not transaction.finished and self._link.alive:
            if transaction.sent == transaction.answered:
                self._write(self._link.group(*transaction.window(self._window)))
            self._take(self._reply())
        if passage.settled:
            return
        if not self._link.alive or not transaction.paths:
            # A 421 to one of the commands: nothing of the content has left.
            if self._farewell is not None:
                transaction.cut_short(self._farewell)
                self._link.close()
            self._reset = True
            passage.settle()
            return
        for part in rest:
            self._chunk(passage, first, last=False)
            if not self._are_taken(passage, CHUNKS_AHEAD if self._trusted else 0):
                return
            first = part
        # A server that goes on after it refused a chunk would take the rest for the whole.
        if self._are_taken(passage, 0):
            passage.end()
            self._chunk(passage, first, last=True)
            self._link.dialogue.content("C", passage.letter.octets)

    def _chunk(self, passage: Passage, content: bytes, *, last: bool) -> None:
        command = self._link.group(passage.transaction.chunk(len(content), last=last))
        # Of a large chunk only the start is copied behind its command: one write for the two, and the rest as it is.
        self._write(command + content[:COALESCED])
        if len(content) > COALESCED:
            self._write(memoryview(content)[COALESCED:])

    def _are_taken(self, passage: Passage, ahead: int) -> bool:
        """Wait until at most so many replies are owed; return whether the server has refused no chunk of the letter so far."""
        transaction = passage.transaction
        while transaction.sent - transaction.answered > (0 if transaction.chunk_refused else ahead):
            self._take(self._reply())
        if not transaction.chunk_refused:
            return True
        self._reset = True
        passage.settle()
        self._leave()
        return False

    def _reply(self) -> Reply:
        if (reply := self._link.at_hand()) is not None:
            return reply
        passage = self._passages.awaiting
        due = passage.transaction.answer_due if passage else None
        patience = self._smtp.data_timeout if due is not None and due.verb == "BDAT" else self._smtp.timeout
        if self._farewell is None:
            return self._link.reply(patience)
        deadline = time.monotonic() + min(LAST_WORDS, patience)
        try:
            return self._link.reply(min(LAST_WORDS, patience))
        except ConnectionFailed:
            if time.monotonic() < deadline:
                self._passages.end_with(self._farewell)  # it has hung up, as it said
            raise

    def _take(self, reply: Reply) -> None:
        """Take a reply: it belongs to the oldest letter that is not settled."""
        passage = self._passages.awaiting
        if passage is None:  # pragma: no cover - a reply that nobody asked for is none
            raise self._link.out_of_step(reply)
        transaction = passage.transaction
        self._longest = max(self._longest, sum(map(len, reply.lines)) + 6 * len(reply.lines))
        if reply.code == 421:
            self._bid_farewell(reply)
        chunk = reply.command.verb == "BDAT"
        if chunk and not self._proven:
            self._prove(passage, reply)
        if not transaction.take(reply):
            raise self._link.out_of_step(reply)
        if chunk and transaction.complete and transaction.answered == transaction.sent:
            self._reset = not transaction.accepted
            passage.settle()
            self._leave()

    def _prove(self, passage: Passage, reply: Reply) -> None:
        """Believe that the server knows BDAT, unless it says that it doesn't: then this letter has not arrived."""
        paths = passage.transaction.paths
        if reply.code in (_UNKNOWN if paths else _UNKNOWN_FOR_NOBODY):
            server = self._link.stream.server
            error = RemoteProtocolError(f"{server} announces CHUNKING, and answered {reply} to BDAT")
            if not passage.transaction.decided:
                passage.failure = error
            raise error
        self._proven = bool(paths)
        self._trusted = self._trusted or self._proven

    def _bid_farewell(self, reply: Reply) -> None:
        """Send nothing more. What was sent may still be answered; the rest has this reply for a verdict."""
        self._farewell = self._farewell or reply
        self._link.alive = False

    def _leave(self) -> None:
        """Once the server has answered all that was sent before its 421, or after it, the session is over."""
        if self._farewell is None or any(passage.ended for passage in self._passages.unsettled):
            return
        self._passages.end_with(self._farewell)
        self._link.close()

    def _last_words(self) -> None:
        """Take what a server says that stopped reading, such as 552."""
        try:
            while next(self._passages.unsettled, None):
                self._take(self._link.reply(min(LAST_WORDS, self._smtp.timeout)))
        except (ConnectionFailed, RemoteProtocolError):
            return

    def _broke(self, error: PoprepError) -> None:
        self._link.close()
        self._passages.give_up(error)
