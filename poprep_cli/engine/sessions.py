"""The open submission sessions of a pass: how many there are, which one takes a letter, and which one is to be heard next.

One thread drives them in turn. Another session is opened only when a letter is ready that no open one has room for.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from poprep_cli.engine import status
from poprep_cli.engine.letters import Job
from poprep_cli.engine.visit import Visit
from poprep_cli.errors import PoprepError, Stopped
from poprep_cli.net.dialogue import Dialogue
from poprep_cli.net.proof import NO_PROOF
from poprep_cli.net.stop import Stop
from poprep_cli.net.stream import readable
from poprep_cli.net.submission import Submission
from poprep_cli.net.transaction import Letter
from poprep_cli.protocol.sasl.mechanism import Credentials

if TYPE_CHECKING:
    from poprep_cli.engine.opening import Opening

BREAKS = 3  # sessions in a row that broke: it is not the messages
NEAR = 0.002  # seconds of a round trip, below which more than one message in flight buys nothing
FAR_IN_FLIGHT = 8  # messages, beyond that
IDLE = 60.0  # seconds without a letter, after which a spare session is left: servers hang up on those, some after 5 minutes


@dataclass(slots=True, eq=False)
class Session:
    """One session and what is on its way through it, the oldest first.

    `careful`: it goes one command at a time. `breaks` is how many had been counted when it was opened, `taken` how many
    messages it has accepted, `asked` the turn in which something was said last that is to be replied to, `used` when the
    last letter was sent (monotonic seconds).
    """

    submission: Submission
    careful: bool
    breaks: int
    on_the_way: deque[Job] = field(default_factory=deque)
    taken: int = 0
    asked: int = 0
    used: float = field(default_factory=time.monotonic)

    @property
    def alive(self) -> bool:
        """Whether another letter may be sent."""
        return self.submission.alive


class Sessions:
    """Those of one connector. Not for two threads.

    `careful`: a session broke, so those to come go one command at a time. `alone`: one message at a time, through one
    session: what broke a session before must take no other into doubt with it.
    """

    def __init__(self, visit: Visit) -> None:
        """Prepare; nothing is contacted."""
        self._smtp = visit.connector.smtp
        self._report = visit.report
        self._stop = visit.stop
        self._credentials = visit.access.smtp_credentials
        self._open: list[Session] = []
        self._opening: tuple[Opening, bool] | None = None  # and whether it will be careful
        self._no_more = False  # whether the server has not let another one in
        self._count = 0  # of attempts to open one
        self._turn = 0
        self._breaks = 0  # all that were counted
        self.proof = status.proof(visit.status, visit.began)  # that the server knows BDAT
        self.opened = False  # whether the server has let us in
        self.careful = status.breaks_on(visit.status.smtp_groups, visit.began)
        self.broke_on_groups: bool | None = None  # whether commands in one write broke a session; None: nobody knows
        self._suspects_groups = False
        self.alone = False
        self.broken = 0  # sessions in a row that broke

    # ------------------------------------------------------------------ opening and ending

    def open(self) -> None:
        """Open a session, unless there is one that is alive. Raises as `Submission.open` does."""
        if self._alive or (self._opening is not None and self._adopt()):
            return
        for session in self._open:
            session.submission.close()
        self._open.clear()
        self._add(self._connect(self._stop, self._credentials(), careful=self.careful), careful=self.careful)
        self.opened = True

    def _connect(self, stop: Stop, credentials: Credentials | None, *, careful: bool) -> Submission:
        self._count += 1
        name = "SMTP" if self._count == 1 or self._smtp.connections == 1 else f"SMTP {self._count}"
        return Submission.open(
            self._smtp,
            stop,
            credentials,
            pipelining=not careful,
            chunking=not careful,
            overlapping=self._smtp.connections > 1,
            proof=self.proof,
            dialogue=Dialogue(name, self._report.say, self._report.level),
        )

    def _add(self, submission: Submission, *, careful: bool) -> None:
        advice = self._report.advice
        advice.extend(warning for warning in submission.warnings if warning not in advice)
        self._open.append(Session(submission, careful, self._breaks))

    def _begin_another(self) -> None:
        """Have one more session opened. That it is not to be had is no error while another one is alive."""
        try:
            credentials = self._credentials()
        except PoprepError as error:
            self._go_on_without(error)
            return
        from poprep_cli.engine.opening import Opening

        careful = self.careful
        self._opening = (
            Opening(lambda stop: self._connect(stop, credentials, careful=careful), self._stop),
            careful,
        )

    def _adopt(self) -> bool:
        """Take the session that was being opened, once it is open; return whether it is of use. Raises Stopped."""
        if self._opening is None:
            return False
        (opening, careful), self._opening = self._opening, None
        try:
            submission = opening.take()
        except Stopped:
            raise
        except PoprepError as error:
            self._go_on_without(error)
            return False
        if self.careful and not careful:  # a session has broken meanwhile
            submission.leave()
            submission.close()
            return False
        self._add(submission, careful=careful)
        return True

    def _go_on_without(self, error: PoprepError) -> None:
        self._no_more = True
        self._report.say(1, f"no further SMTP connection in this pass, going on with {len(self._alive)}: {error}")

    def leave(self) -> None:
        """Say QUIT in all sessions. Only `close` may follow, which waits for the replies: other work can be done before."""
        self._abandon()
        for session in self._alive:
            session.submission.leave()

    def close(self) -> None:
        """End all sessions politely."""
        self.leave()
        for session in self._alive:
            if session.submission.proof != NO_PROOF:
                self.proof = session.submission.proof
            session.submission.quit()
        self.abort()

    def abort(self) -> None:
        """Drop all connections."""
        self._abandon()
        for session in self._open:
            session.submission.close()
        self._open.clear()

    def _abandon(self) -> None:
        if self._opening is not None:
            (opening, _), self._opening = self._opening, None
            opening.abandon()

    # ------------------------------------------------------------------ which one takes a letter

    def room_for(self, job: Job) -> Session | None:
        """Return the session that has room for a letter and the fewest on their way. If there is none, look for another one."""
        if self._opening is not None and self._opening[0].done:
            self._adopt()
        if len(self._open) > 1 or not (self._open and self._open[0].alive):
            self._tidy()
        best: Session | None = None
        for session in self._usable() if self.careful or self.alone else self._open:
            if session.submission.room(job.letter, self.limit(session)) and session.alive:
                best = session if best is None else min(best, session, key=_load)
        if best is None and self._smtp.connections > 1 and self._may_begin(self._alive):
            self._begin_another()
        return best

    def make_room(self) -> None:
        """With nothing on its way, wait for the session that `room_for` looks for, or open the first. Raises as `open`."""
        if self._opening is None or not self._adopt():
            self.open()

    def send(self, session: Session, job: Job, before_end: Callable[[Letter], None]) -> None:
        """Put a letter on its way. Raises as `Submission.send` does."""
        session.on_the_way.append(job)
        session.asked, session.used = self._next_turn(), time.monotonic()
        session.submission.send(job.letter, before_end)
        if session.submission.chunking and len(session.on_the_way) >= self.limit(session):
            session.submission.flush()  # while the server works on it the next one is prepared

    def limit(self, session: Session) -> int:
        """Return how many messages may be in doubt at once in a session."""
        if self.alone:
            return 1
        if self._smtp.max_in_flight != "auto":
            return self._smtp.max_in_flight
        return 1 if session.submission.round_trip < NEAR else FAR_IN_FLIGHT

    @property
    def _alive(self) -> list[Session]:
        return [session for session in self._open if session.alive]

    def _usable(self) -> list[Session]:
        """Return those that letters go through: after a break only careful ones, if they are to be had."""
        alive = self._alive
        if self.careful:
            careful = [session for session in alive if session.careful]
            if careful or self._opening is not None or self._may_begin(alive):
                alive = careful
        return alive[:1] if self.alone else alive

    def _may_begin(self, alive: list[Session]) -> bool:
        """Whether another one may be opened. After a break a single one goes ahead until it has taken something."""
        if self.alone or self._no_more or self._opening is not None or not 0 < len(alive) < self._smtp.connections:
            return False
        return not self.broken or not any(session.breaks == self._breaks for session in alive)

    def _tidy(self) -> None:
        """Drop the sessions that are over, those that are not careful once there is one that is, and spare ones."""
        replaced = self.careful and any(session.careful for session in self._alive)
        spare = time.monotonic() - IDLE
        for session in [session for session in self._open if not session.on_the_way]:
            is_spare = session.used < spare and len(self._open) > 1
            if is_spare or not session.alive or (replaced and not session.careful):
                session.submission.leave()
                session.submission.close()
                self._open.remove(session)

    # ------------------------------------------------------------------ which one is heard next

    @property
    def busy(self) -> list[Session]:
        """Those with something on its way."""
        return [session for session in self._open if session.on_the_way]

    @property
    def dying(self) -> bool:
        """Whether a session is over, but not all of its outcomes are taken."""
        return any(session.on_the_way and not session.alive for session in self._open)

    def settled(self) -> Session | None:
        """Return a session of which an outcome can be taken without waiting; those that are over come first."""
        found: Session | None = None
        for session in self._open:
            if session.on_the_way and session.submission.settled and (found is None or not session.alive):
                found = session
        return found

    def advance(self) -> None:
        """Wait for the next replies, whichever session they come to, and have it go on by them. Something is on its way.

        What was kept back is sent before: nothing comes that it could go with. Raises as `Submission.advance` does.
        """
        busy = self.busy
        session = busy[0] if len(busy) == 1 else min(busy, key=_is_alive)
        if len(busy) > 1 and session.alive:
            for one in busy:
                one.submission.flush()
            session = self._answered_first(busy)
        if session.submission.advance():
            session.asked = self._next_turn()

    def _answered_first(self, busy: list[Session]) -> Session:
        over = next((one for one in busy if one.submission.settled or not one.alive), None)
        if over is not None:  # it broke by what was sent just now
            return over
        busy.sort(key=_turn)
        places = readable([one.submission for one in busy], self._smtp.timeout)
        return busy[min(places, default=0)]

    def _next_turn(self) -> int:
        self._turn += 1
        return self._turn

    # ------------------------------------------------------------------ what goes wrong

    def works(self, session: Session) -> None:
        """Note that a session was answered. Of one that was open when another one broke that says nothing."""
        if session.breaks == self._breaks:
            self.broken = 0
        if not session.careful:
            self.broke_on_groups = False
        elif self._suspects_groups:
            self.broke_on_groups = True

    def mistrust(self, session: Session) -> None:
        """Have letters go one command at a time from now on: a session broke. If it never worked, the groups may be why."""
        self._suspects_groups = self.broke_on_groups is None and not session.careful
        self.careful = True

    def broke(self, session: Session, failure: PoprepError) -> None:
        """Count sessions in a row that broke. Raises `failure` when it must be the server's fault.

        Those that were open at the time count as one: a server that is started anew breaks them all.
        """
        self.proof = NO_PROOF
        if session.breaks == self._breaks:
            self._breaks += 1
            self.broken += 1
        if self.broken >= BREAKS:
            raise failure


def _load(session: Session) -> tuple[int, int]:
    return len(session.on_the_way), session.asked


def _turn(session: Session) -> int:
    return session.asked


def _is_alive(session: Session) -> bool:
    return session.alive
