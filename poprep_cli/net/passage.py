"""Letters on their way through a session, in the order in which they were sent, until somebody takes their outcomes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from poprep_cli.errors import PoprepError
from poprep_cli.net.transaction import Letter, Outcome, Transaction
from poprep_cli.protocol.smtp import Reply


@dataclass(slots=True, eq=False)
class Passage:
    """One letter on its way. It ends with an `outcome`, or with the `failure` because of which nothing was delivered.

    `ended` says that the end of its content has left, or may have.
    """

    transaction: Transaction
    before_end: Callable[[Letter], None]
    ended: bool = False
    outcome: Outcome | None = None
    failure: PoprepError | None = None

    @property
    def letter(self) -> Letter:
        """The letter."""
        return self.transaction.letter

    @property
    def settled(self) -> bool:
        """Whether it is known what became of the letter, or that it will never be."""
        return self.outcome is not None or self.failure is not None

    def settle(self) -> None:
        """Take the verdicts of the transaction as the outcome."""
        self.outcome = self.transaction.outcome()

    def end(self) -> None:
        """Have the write-ahead record made; from here on the end of the content may leave."""
        self.before_end(self.letter)
        self.ended = True

    def give_up(self, failure: PoprepError, why: str) -> None:
        """Nothing more is to come: refused by all, in doubt if its end may have left, else not sent because of `failure`."""
        if self.transaction.decided:
            self.settle()
        elif self.ended:
            self.outcome = self.transaction.outcome(why)
        else:
            self.failure = failure


class Passages:
    """The letters that were sent and whose outcomes were not taken, the oldest first."""

    __slots__ = ("_queue",)

    def __init__(self) -> None:
        self._queue: deque[Passage] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, transaction: Transaction, before_end: Callable[[Letter], None]) -> Passage:
        """Add a letter. One that nobody can get, which was found out here, is settled at once."""
        passage = Passage(transaction, before_end)
        self._queue.append(passage)
        if not transaction.commands:
            passage.settle()
        return passage

    @property
    def oldest(self) -> Passage | None:
        """The next one to be taken."""
        return self._queue[0] if self._queue else None

    @property
    def unsettled(self) -> Iterator[Passage]:
        """Those of which nothing is known yet."""
        return (passage for passage in self._queue if not passage.settled)

    @property
    def awaiting(self) -> Passage | None:
        """The oldest of which nothing is known yet: the next reply is for it."""
        for passage in self._queue:
            if passage.outcome is None and passage.failure is None:
                return passage
        return None

    @property
    def in_flight(self) -> int:
        """How many letters may have arrived without anybody knowing of it."""
        return sum(passage.ended for passage in self._queue)

    def take(self) -> Passage:
        """Remove the oldest and return it."""
        return self._queue.popleft()

    def clear(self) -> None:
        """Forget all."""
        self._queue.clear()

    def give_up(self, failure: PoprepError, why: str = "") -> None:
        """The session is over: settle what is not settled, with `why`, or what `failure` says, for those in doubt."""
        reason = why or f"the end of the message was sent, then: {failure}"
        for passage in tuple(self.unsettled):
            passage.give_up(failure, reason)

    def end_with(self, reply: Reply) -> None:
        """The server has ended the session with this 421, so it has taken nothing that it did not answer (RFC 5321 3.8)."""
        for passage in tuple(self.unsettled):
            passage.transaction.cut_short(reply)
            passage.settle()
