"""Delivery: hands messages to SMTP, through several sessions where that is wanted, and has each outcome filed.

The order of events is the promise: a `sending` record before the end of data, `delivered` on its 2xx and before another
end of data may leave; what is held is durable before the POP3 session may end.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress

from poprep_cli.engine.envelope import Trace
from poprep_cli.engine.filing import Filing
from poprep_cli.engine.judgement import Judgement
from poprep_cli.engine.known import met_before
from poprep_cli.engine.letters import Job, Letters
from poprep_cli.engine.message import Message
from poprep_cli.engine.sessions import BREAKS, Session, Sessions
from poprep_cli.engine.store import Item
from poprep_cli.engine.visit import Visit
from poprep_cli.errors import (
    ConnectionFailed,
    PoprepError,
    RemoteProtocolError,
    StateError,
    Stopped,
    TemporaryReplyError,
)
from poprep_cli.net.proof import Proof
from poprep_cli.net.transaction import Outcome

Following = Callable[[bool], Job | None]


class Delivery:
    """One connector's deliveries during a pass. Not for two threads."""

    def __init__(self, visit: Visit) -> None:
        """Prepare; nothing is contacted."""
        self._journal = visit.journal
        self._held = visit.held
        self._report = visit.report
        self._stop = visit.stop
        self._letters = Letters(visit)
        self._filing = Filing(visit)
        self._judgement = Judgement(self._filing)
        self._sessions = Sessions(visit)
        self._deadline = time.monotonic() + (visit.connector.limits.max_seconds or float("inf"))
        self._again: deque[Job] = deque()  # what a session could not take, for the next one
        self._suspects: list[Item] = []
        self._sent = 0  # messages in this pass

    def trace(self, trace: Trace) -> None:
        """Say how new mail is marked. Before that only held mail can be delivered."""
        self._letters.trace = trace

    @property
    def opened(self) -> bool:
        """Whether the SMTP server has let us in."""
        return self._sessions.opened

    def open(self) -> None:
        """Connect to the SMTP server, unless it is connected. Raises as `Submission.open` does."""
        self._sessions.open()

    @property
    def broke_on_groups(self) -> bool | None:
        """Whether commands in one write broke an SMTP session; None if nobody knows."""
        return self._sessions.broke_on_groups

    @property
    def proof(self) -> Proof:
        """What the next pass may know of the server."""
        return self._sessions.proof

    def leave(self) -> None:
        """Begin to end the SMTP sessions politely. Only `close` may follow."""
        self._sessions.leave()

    def close(self) -> None:
        """End the SMTP sessions politely."""
        self._sessions.close()

    def abort(self) -> None:
        """Drop the SMTP connections."""
        self._sessions.abort()

    def retry_held(self) -> None:
        """Deliver what earlier passes left in the spool, in order. Raises as `open` does when SMTP is not to be had.

        What broke a session before, or was refused for good, is not to keep other mail waiting: it is put off for
        `retry_suspects`.
        """
        waiting: deque[Job] = deque()
        for item in self._held.items():
            known = self._journal.entries.get(item.slip.message_uidl)
            if known is not None and known.status in ("delivered", "discarded", "ignored"):
                self._held.remove(item)  # a crash came between the record and the removal
            elif item.slip.is_suspect:
                self._suspects.append(item)
            else:
                waiting.append(self._letters.held(item))
        self._retry(waiting)

    def retry_suspects(self) -> None:
        """Deliver what `retry_held` has put off. If some of it breaks the session again the rest waits. Raises as that.

        What has broken fewer sessions is tried before what has broken more, so that all of it gets its turn.
        """
        self._suspects.sort(key=lambda item: item.slip.breaks)
        waiting = deque(self._letters.held(item) for item in self._suspects)
        self._suspects.clear()
        self._sessions.alone = True
        try:
            self._retry(waiting)
        finally:
            self._sessions.alone = False

    def _retry(self, waiting: deque[Job]) -> None:
        count = len(waiting)

        def following(_wait: bool) -> Job | None:
            if not waiting or self._sessions.broken >= BREAKS - 1:
                return None
            if len(waiting) < count and self._is_out_of_time():
                self._filing.wait(waiting[0])
                return None
            return waiting.popleft()

        try:
            if any(job.setback is None for job in waiting):
                self.open()  # if the server is not there, that is told once, and not of each message
            self._deliver(following, lambda _job: None)
        except PoprepError as error:
            if not self._must_drop(error):
                self._judgement.leave_open()
                for item in (*(job.item for job in waiting), *self._suspects):
                    if item is not None:
                        self._filing.rest(item)
            raise

    def deliver_all(
        self,
        get: Callable[[], Message | None],
        peek: Callable[[], Message | None],
        done: Callable[[Message], None],
    ) -> None:
        """Deliver messages until `get` returns None. Raises what ends the pass: SMTP gone, refusing all, or a full disk.

        A message that was got is then delivered, in badmail, or held. `done` is called when a message is off our hands.
        """

        def following(wait: bool) -> Job | None:
            if not wait and peek() is None:
                return None
            message = get()
            return self._letters.fresh(message) if message is not None else None

        self._deliver(following, lambda job: done(job.message))

    def hold_rest(self, messages: Iterable[Message], why: str) -> None:
        """Keep messages that were downloaded and can't be delivered now."""
        for message in messages:
            job = self._letters.fresh(message)
            if not self._is_done_with(job):
                self._filing.hold(job, why)

    def spool_is_full(self) -> bool:
        """Whether so much is held by now that nothing more is to be downloaded."""
        return self._filing.is_full()

    def settle(self) -> None:
        """Decide what is still open at the end of the pass."""
        self._judgement.settle()

    # ------------------------------------------------------------------ the flow

    def _deliver(self, following: Following, done: Callable[[Job], None]) -> None:
        """Send one job after the other. `following` returns the next one, None if it need not wait and there is none."""
        try:
            # The record of a reply goes into the file with the next `sending`, or before anything is waited for.
            while True:
                job = self._next(following)
                if job is not None:
                    self._dispatch(job, done)
                elif self._sessions.busy:
                    self._advance(done)
                elif not self._again:
                    return
        except PoprepError as error:
            if not self._must_drop(error):
                self._hold_unsent(error, done)
                self._judgement.leave_open()
            raise
        finally:
            with suppress(StateError):  # after an error, which is the one to tell; else nothing is left to be written
                self._journal.flush()

    def _must_drop(self, error: PoprepError) -> bool:
        """Whether the pass must end as if it were killed."""
        return isinstance(error, StateError | Stopped) or self._stop.tripped

    def _is_out_of_time(self) -> bool:
        return time.monotonic() > self._deadline

    def _next(self, following: Following) -> Job | None:
        if self._again:
            # What is on the way in a dying session is settled before its letters go through another one.
            return None if self._sessions.dying else self._again.popleft()
        job = following(False)
        if job is None and not self._sessions.busy:
            self._journal.flush()
            job = following(True)
        return job

    def _dispatch(self, job: Job, done: Callable[[Job], None]) -> None:
        """Send a job, or file it at once if it is not to be sent."""
        if self._is_done_with(job):
            done(job)
            return
        left_over = len(self._again)
        try:
            while (session := self._sessions.room_for(job)) is None:
                if self._sessions.busy:
                    self._advance(done)
                else:
                    self._journal.flush()
                    self._sessions.make_room()
                if len(self._again) > left_over:
                    while self._sessions.dying:
                        self._advance(done)
                    self._again.append(job)  # behind what a session has left over
                    return
        except PoprepError:
            self._again.append(job)
            raise
        self._sent += 1
        if session.submission.waits_to_send(job.letter):
            self._journal.flush()
        self._sessions.send(session, job, lambda _: self._filing.sending(job))

    def _is_done_with(self, job: Job) -> bool:
        if job.item is None and met_before(self._journal, self._report, job.message):
            return True
        if job.setback is not None:
            self._filing.set_back(job, job.setback)
            return True
        if self._sent and job.item is None and self._is_out_of_time():
            self._filing.wait(job)
            return True
        return False

    def _advance(self, done: Callable[[Job], None]) -> None:
        """Take the next outcome that there is. If there is none wait for what the server says next."""
        session = self._sessions.settled()
        if session is None:
            if self._journal.pending:
                self._journal.flush()
            self._sessions.advance()
            session = self._sessions.settled()
        if session is not None:
            self._collect(session, done)

    def _collect(self, session: Session, done: Callable[[Job], None]) -> None:
        """Take the oldest outcome of a session and file it; what the session could not take goes into another one."""
        job = session.on_the_way[0]
        try:
            _, outcome = session.submission.collect()
        except (ConnectionFailed, RemoteProtocolError) as error:
            session.on_the_way.popleft()
            self._sessions.mistrust(session)
            if not job.again:
                job.again = True
                self._again.append(job)
                return
            job.broke = True
            self._filing.hold(job, str(error))
            done(job)
            self._sessions.broke(session, error)
            return
        session.on_the_way.popleft()
        if session.taken and _ended_by_the_server(outcome):
            # It takes only so many messages in a session: that is not this message's matter.
            self._again.append(job)
            return
        self._file(session, job, outcome)
        done(job)

    def _hold_unsent(self, error: PoprepError, done: Callable[[Job], None]) -> None:
        """Keep what is in our hands when the pass must end. What has left and was not answered stays in doubt."""
        for session in self._sessions.busy:
            while session.on_the_way:
                if not session.submission.in_flight:
                    session.submission.close()  # the end of those that are left was not sent, and is not to be
                job = session.on_the_way[0]
                try:
                    _, outcome = session.submission.collect()
                except PoprepError as failure:
                    if self._must_drop(failure):
                        raise
                    self._again.append(job)
                else:
                    self._file_quietly(session, job, outcome)
                    done(job)
                session.on_the_way.popleft()
        for job in self._again:
            self._filing.hold(job, str(error))
            done(job)
        self._again.clear()

    # ------------------------------------------------------------------ what an outcome means

    def _file_quietly(self, session: Session, job: Job, outcome: Outcome) -> None:
        """File an outcome that came after the error because of which the pass ends."""
        try:
            self._file(session, job, outcome)
        except (StateError, Stopped):
            raise
        except PoprepError:
            return  # the first error is the one to tell

    def _file(self, session: Session, job: Job, outcome: Outcome) -> None:
        server = session.submission.server
        if outcome.in_doubt:
            job.message.in_doubt = job.broke = True
            self._sessions.mistrust(session)
            answered = {verdict.path for verdict in outcome.accepted}
            self._filing.hold(job, f"in doubt, {server} may have it: {outcome.in_doubt}", done=answered)
            why = f"{server} leaves messages in doubt, one after the other: {outcome.in_doubt}"
            self._sessions.broke(session, ConnectionFailed(why))
            return
        ended = _ended_by_the_server(outcome)
        if not ended:
            self._sessions.works(session)
        if outcome.accepted:
            session.taken += 1
            self._judgement.accept()
        if outcome.deferred:
            self._judgement.defer(job, outcome)
        elif outcome.rejected:
            self._judgement.reject(job, outcome.rejected, server)
        else:
            self._filing.delivered(job, session.submission.extensions)
        if ended:
            reply = outcome.deferred[0].reply
            why = f"{server} ends one session after the other: {reply}"
            self._sessions.broke(session, TemporaryReplyError(why, reply=reply))


def _ended_by_the_server(outcome: Outcome) -> bool:
    """Whether the session was ended before the mail data (421, RFC 5321 3.8): the letter may be sent in another one."""
    verdicts = outcome.deferred
    return bool(verdicts) and not outcome.accepted and all(one.reply.code == 421 for one in verdicts)
