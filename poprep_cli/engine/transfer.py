"""The transfer: the download thread beside the submission, and going on after the POP3 line dropped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from poprep_cli.engine.delivery import Delivery
from poprep_cli.engine.fetch import Fetcher
from poprep_cli.engine.handoff import Handoff
from poprep_cli.engine.identity import Identity
from poprep_cli.engine.message import Message
from poprep_cli.engine.plan import Step
from poprep_cli.engine.report import ConnectorReport
from poprep_cli.engine.top import Top
from poprep_cli.engine.visit import survivable
from poprep_cli.errors import ConnectionFailed, PoprepError, RemoteProtocolError
from poprep_cli.net.maildrop import Maildrop
from poprep_cli.net.stop import Stop

CONNECTIONS = 4  # POP3 connections in one pass at most, when the line keeps dropping


class Transfer:
    """Moves what a plan wants fetched. `maildrop` is the session at its end, or None if the line is dead."""

    def __init__(
        self,
        maildrop: Maildrop,
        reenter: Callable[[], Maildrop],
        delivery: Delivery,
        spool: Path,
        report: ConnectorReport,
        stop: Stop,
        *,
        deadline: float,
        max_message_size: int,
        identity: Identity,
        top: Top,
    ) -> None:
        """Prepare. `reenter` logs in anew; after `deadline` (monotonic seconds) nothing more is read."""
        self._identity = identity
        self._top = top
        self.maildrop: Maildrop | None = maildrop
        self._reenter = reenter
        self._delivery = delivery
        self._spool = spool
        self._report = report
        self._stop = stop
        self._deadline = deadline
        self._max_message_size = max_message_size

    def run(self, steps: list[Step]) -> PoprepError | None:
        """Fetch and deliver. After a dropped POP3 line go on with the rest; a message that breaks it twice is left alone.

        Returns the error because of which it is not complete, if there is one: what was downloaded is delivered or held
        then. Raises Stopped and StateError, after which the session must be dropped.
        """
        broke: PoprepError | None = None
        given_up: PoprepError | None = None
        breakers: set[bytes] = set()
        for _ in range(CONNECTIONS):
            if self.maildrop is None:
                break
            fetcher, failure = self._side_by_side(self.maildrop, steps)
            if failure is not None or fetcher.error is None:
                return failure or given_up
            if not isinstance(fetcher.error, ConnectionFailed | RemoteProtocolError):
                raise fetcher.error
            in_hand = fetcher.in_hand
            left = [step for step in steps if step.listed.uidl not in fetcher.fetched]
            broke = _while_reading(fetcher.error, in_hand)
            if in_hand is not None and in_hand.listed.uidl in breakers:
                left = [step for step in left if step is not in_hand]
                given_up = given_up or broke
            elif in_hand is not None:
                breakers.add(in_hand.listed.uidl)
            steps = self._enter_again(left, in_hand)
            if self.maildrop is not None and not steps:
                return given_up
        self._leave()
        return broke

    def _side_by_side(self, maildrop: Maildrop, steps: list[Step]) -> tuple[Fetcher, PoprepError | None]:
        """Run the download thread beside the submission. Return it, joined, and the error of the SMTP side."""
        handoff = Handoff(self._deadline)
        forget = self._stop.on_trip(handoff.close)
        fetcher = Fetcher(
            maildrop,
            steps,
            handoff,
            self._spool,
            self._report,
            self._max_message_size,
            identity=self._identity,
            top=self._top,
        )
        try:
            failure = self._submit(handoff)
        finally:
            handoff.close()
            forget()
        fetcher.join()
        self._stop.check()
        rest: list[Message] = []
        while (message := handoff.get()) is not None:
            rest.append(message)
        self._delivery.hold_rest(rest, str(failure))
        return fetcher, failure

    def _submit(self, handoff: Handoff) -> PoprepError | None:
        try:
            self._delivery.open()
            handoff.open_wide()
            self._delivery.deliver_all(handoff.get, handoff.peek, lambda message: self._done(message, handoff))
        except PoprepError as error:
            return survivable(error, self._stop)
        return None

    def _done(self, message: Message, handoff: Handoff) -> None:
        handoff.release(message.listed_octets)
        if self._delivery.spool_is_full():
            handoff.close()

    def _enter_again(self, left: list[Step], in_hand: Step | None) -> list[Step]:
        """Log in again after a dropped line, one command at a time; the message that was in transfer comes last."""
        self._leave()
        try:
            self.maildrop = self._reenter()
            numbers = {listed.uidl: listed for listed in self._identity.listing(self.maildrop)}
        except PoprepError as error:
            survivable(error, self._stop)
            self._leave()
            return []
        again = [
            Step(numbers[step.listed.uidl], step.reason, step.in_doubt) for step in left if step.listed.uidl in numbers
        ]
        last = in_hand.listed.uidl if in_hand is not None else b""
        return sorted(again, key=lambda step: step.listed.uidl == last)

    def _leave(self) -> None:
        if self.maildrop is not None:
            self.maildrop.close()
            self.maildrop = None


def _while_reading(error: PoprepError, step: Step | None) -> PoprepError:
    about = f" while message {step.listed.number} was read" if step is not None else ""
    return ConnectionFailed(f"{error}{about}", hint="what was not read is still on the server; the next pass goes on")
