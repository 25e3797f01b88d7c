"""Letters sent by DATA, one after the other (RFC 5321 3.3, RFC 2033).

With PIPELINING the end of one letter and the envelope of the following one leave in one write (RFC 2920), so that a letter
costs one round trip; without it each command waits for its reply.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from poprep_cli.config.model import Smtp
from poprep_cli.errors import ConnectionFailed, LocalProtocolError, RemoteProtocolError
from poprep_cli.net.passage import Passage, Passages
from poprep_cli.net.smtp_link import SmtpLink
from poprep_cli.net.transaction import Letter, Transaction
from poprep_cli.protocol.smtp import Reply
from poprep_cli.protocol.wire import TERMINATOR

WINDOW = 100  # commands in one group: more could fill both directions while neither side reads (RFC 2920 3.1)
LAST_WORDS = 1.0  # seconds for what a server has to say that stopped reading
LEAST = 0.2  # seconds for a reply whose time was over before anybody could look whether it is here


class DataTransfer:
    """The letters of one session. The end of a letter is kept back until the following one is known, or it is waited for.

    A letter is first `_entering`: its envelope may have been sent, and nothing more is done for it before the outcome of
    the letter before could be taken. Then it is `_held`: all of it has left but its end. Then it is `_ending`: the replies
    to its end are to come.

    With `overlapping` a letter is sent without any wait: `advance` waits, for whoever has other sessions beside this one.
    """

    __slots__ = (
        "_asked",
        "_ending",
        "_entering",
        "_extensions",
        "_held",
        "_last",
        "_link",
        "_overlapping",
        "_passages",
        "_ready",
        "_reset",
        "_smtp",
        "_window",
    )

    def __init__(
        self,
        link: SmtpLink,
        smtp: Smtp,
        extensions: dict[str, str],
        passages: Passages,
        *,
        pipelining: bool,
        overlapping: bool = False,
    ) -> None:
        self._link = link
        self._smtp = smtp
        self._extensions = extensions
        self._passages = passages
        self._window = WINDOW if pipelining else 1
        self._overlapping = overlapping
        self._ready: Transaction | None = None  # whose group was sent with the end of the letter before
        self._entering: Passage | None = None
        self._held: Passage | None = None  # of which all has left but `_last`
        self._last = b""
        self._ending: Passage | None = None  # whose end has left, and who is not answered
        self._reset = False  # whether a transaction failed half-way, so that RSET goes before the next one
        self._asked = 0.0  # since when a reply is waited for, with `overlapping` (monotonic seconds)

    @property
    def idle(self) -> bool:
        """Whether the server waits for a command, with nothing half said."""
        return self._ready is None and not any((self._entering, self._held, self._ending))

    def room(self, _letter: Letter, limit: int) -> bool:
        """Whether a letter may be sent with at most `limit` in flight; with `overlapping`, without waiting for a reply."""
        if self._overlapping and (self._entering is not None or self._ending is not None):
            return False
        return self._passages.in_flight < limit

    def send(self, letter: Letter, before_end: Callable[[Letter], None]) -> None:
        """Send a letter: after one whose end was kept back only the envelope, with that end, else up to its own end.

        With `overlapping` it is only the envelope in either case.
        """
        try:
            self._answered()
            self._enter()
            alone = self._held is None
            self.finish(letter)
        except (ConnectionFailed, RemoteProtocolError):
            self._passages.add(self._transaction(letter), before_end)  # it shares the fate of those before it
            raise
        ready, self._ready = self._ready, None
        if ready is not None and ready.letter is not letter:
            raise LocalProtocolError("the letter announced as the following one is not the next one")
        passage = self._passages.add(ready or self._transaction(letter), before_end)
        if passage.settled:
            return
        if not (alone or self._link.alive):
            passage.failure = self._has_ended()
            return
        self._entering = passage
        if self._overlapping and alone:
            self._step()
        elif alone:
            self._enter()

    def advance(self) -> bool:
        """Wait for the replies to what was said last, and say what comes next. Return whether that is to be replied to."""
        if self._ending is not None:
            self._answered()
            if self._entering is None or self._entering.transaction.sent:
                return False  # its replies are about to come, but the outcome before is to be recorded first
        if self._entering is not None:
            self._step()
        else:
            self._end()
        return self._entering is not None or self._ending is not None

    def _enter(self) -> None:
        """Bring the envelope of the letter to its end, and send its content but for the last part."""
        while self._entering is not None:
            self._step()

    def _step(self) -> None:
        """Take the replies to what was sent of the envelope, and send more of it; at its end the content but for its end."""
        passage, self._entering = self._entering, None
        if passage is None:
            return
        transaction = passage.transaction
        while transaction.answered < transaction.sent:
            reply = self._reply(self._smtp.timeout)
            if reply.code == 421:
                transaction.cut_short(reply)
                self._link.close()
                passage.settle()
                return
            if not transaction.take(reply):
                raise self._link.out_of_step(reply)
        if not transaction.finished:
            self._link.stream.write(self._link.group(*transaction.window(self._window)), self._smtp.timeout)
            self._note_question()
            self._entering = passage
            return
        self._reset = not transaction.go_ahead
        if transaction.go_ahead and transaction.paths:
            self._content(passage)
            return
        if transaction.go_ahead:
            self._send_nothing(transaction)
        passage.settle()

    def finish(self, following: Letter | None = None) -> None:
        """Send the end of the letter whose end was kept back, the envelope of `following` with it, and take the replies.

        With `overlapping` the replies are not waited for.
        """
        self._end(following)
        if not self._overlapping:
            self._answered()

    def _end(self, following: Letter | None = None) -> None:
        passage, self._held = self._held, None
        if passage is None:
            return
        group = self._group(following)
        passage.end()
        try:
            self._link.stream.write(self._last + group, self._smtp.timeout)
        except ConnectionFailed as error:
            self._last_words(passage, error)
            return
        self._note_question()
        self._ending = passage

    def _answered(self) -> None:
        """Take the replies to the end of a letter. If they end the session the letter that has followed is not sent."""
        passage, self._ending = self._ending, None
        if passage is None:
            return
        self._verdicts(passage)
        if self._entering is not None and not self._link.alive:
            self._entering.failure = self._has_ended()
            self._entering = None

    def _reply(self, timeout: float) -> Reply:
        """Return the next reply. With `overlapping` its time began when it was asked for: other sessions were waited for since.

        Else a server that hangs would cost that time once for each session.
        """
        if not self._overlapping:
            return self._link.reply(timeout)
        left = timeout - (time.monotonic() - self._asked)
        reply = self._link.reply(max(left, min(timeout, LEAST)))
        self._note_question()
        return reply

    def _note_question(self) -> None:
        if self._overlapping:
            self._asked = time.monotonic()

    def _has_ended(self) -> ConnectionFailed:
        return ConnectionFailed(f"the session with {self._link.stream.server} has ended")

    def settle_oldest(self) -> None:
        """Bring the oldest letter to its outcome."""
        if self._ending is None:
            self._enter()
            self._end()
        self._answered()

    def _transaction(self, letter: Letter) -> Transaction:
        return Transaction(letter, self._extensions, reset=self._reset)

    def _send_nothing(self, transaction: Transaction) -> None:
        """End mail data that is for nobody, which the server has asked for all the same (RFC 2920 3.1)."""
        self._reset = True
        if transaction.refused is not None or self._smtp.protocol == "lmtp":
            self._link.close()  # who could it be for? RFC 2033 4.2 doesn't know this case
            return
        self._link.expect_end_of_data()
        # The letter's verdicts stand, whatever becomes of the line.
        try:
            self._link.stream.write(b".\r\n", self._smtp.timeout)
            reply = self._link.reply(self._smtp.data_timeout)
        except (ConnectionFailed, RemoteProtocolError):
            self._link.close()
            return
        if reply.code == 421:
            self._link.close()

    def _content(self, passage: Passage) -> None:
        """Send the mail data, but keep its last part back."""
        last = b""
        self._link.expect_end_of_data(self._ends(passage.transaction))
        try:
            for part in passage.letter.wire():
                if last:
                    self._link.stream.write(last, self._smtp.timeout)
                last = part
        except ConnectionFailed as error:
            self._last_words(passage, error)
            return
        if not last.endswith(TERMINATOR) and last != TERMINATOR[2:]:
            raise LocalProtocolError("the mail data of a letter has no end")
        self._link.dialogue.content("C", passage.letter.octets)
        self._held, self._last = passage, last

    def _ends(self, transaction: Transaction) -> int:
        return len(transaction.paths) if self._smtp.protocol == "lmtp" else 1

    def _group(self, following: Letter | None) -> bytes:
        """Return the whole envelope of the following letter if it may be sent ahead, else nothing."""
        if following is None or self._window == 1:
            return b""
        transaction = self._transaction(following)
        if not 0 < len(transaction.commands) <= WINDOW:
            return b""
        self._ready = transaction
        return self._link.group(*transaction.window(WINDOW))

    def _verdicts(self, passage: Passage) -> None:
        """Take the replies to the end of data: 2yz, 4yz and 5yz settle it, everything else leaves it in doubt."""
        transaction = passage.transaction
        lmtp = self._smtp.protocol == "lmtp"
        groups = [(path,) for path in transaction.paths] if lmtp else [tuple(transaction.paths)]
        ending = False
        for group in groups:
            try:
                reply = self._reply(self._smtp.data_timeout)
            except (ConnectionFailed, RemoteProtocolError) as error:
                self._link.close()
                passage.outcome = transaction.outcome(f"the end of the message was sent, then: {error}")
                return
            if not transaction.settle(group, reply, "end-of-data"):
                self._link.close()
                server = self._link.stream.server
                passage.outcome = transaction.outcome(f"{server} answered {reply} to the end of the message")
                return
            ending = ending or reply.code == 421
        if ending:
            self._link.close()
        passage.settle()

    def _last_words(self, passage: Passage, error: ConnectionFailed) -> None:
        """Take what a server said that stopped reading, such as 552. Else nothing was sent, or its end is in doubt."""
        reply = None
        with suppress(ConnectionFailed, RemoteProtocolError):
            reply = self._link.reply(min(LAST_WORDS, self._smtp.timeout))
        self._link.close()
        if reply is not None and (reply.transient or reply.permanent):
            passage.transaction.settle(tuple(passage.transaction.paths), reply, "end-of-data")
            passage.settle()
            return
        passage.give_up(error, f"the line broke while the end of the message was being sent: {error}")
