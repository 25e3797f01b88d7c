"""One pass over one connector: lock, replay, log in, plan, move the mail, delete, record, report."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from poprep_cli.config.model import Connector
from poprep_cli.config.weaknesses import weaknesses
from poprep_cli.engine import clock, files, status
from poprep_cli.engine.adopt import reconcile
from poprep_cli.engine.days import date_anew, date_new
from poprep_cli.engine.deletion import Deletion, Tell, hold_back
from poprep_cli.engine.due import waits
from poprep_cli.engine.expiry import tell_expiry
from poprep_cli.engine.plan import Plan, Step, plan
from poprep_cli.engine.report import ConnectorReport
from poprep_cli.engine.rounds import Rounds
from poprep_cli.engine.state import Journal, is_late
from poprep_cli.engine.visit import Surroundings, Visit, survivable, told
from poprep_cli.errors import ConnectionFailed, PoprepError, RemoteProtocolError
from poprep_cli.net.dialogue import VERBOSE
from poprep_cli.net.maildrop import Maildrop
from poprep_cli.net.stop import Stop
from poprep_cli.net.stream import local_name

if TYPE_CHECKING:  # what moves mail is imported when there is some: most passes find none
    from poprep_cli.engine.delivery import Delivery


def poll(connector: Connector, surroundings: Surroundings, report: ConnectorReport, stop: Stop) -> Plan | None:
    """Run one pass; everything worth telling goes into `report`, errors too. Return the plan, if there came to be one."""
    this_pass: _Pass | None = None
    with told(report, stop):
        visit = Visit(connector, surroundings, report, stop)
        if not _is_due(visit):
            return None
        report.advice.extend(weaknesses(connector))
        this_pass = _Pass(visit)
        visit.log_in_ahead()
        with visit:
            _run_and_tell(this_pass, visit)
    return this_pass.plan if this_pass is not None else None


def _run_and_tell(this_pass: _Pass, visit: Visit) -> None:
    failure: PoprepError | None = None
    try:
        this_pass.run()
    except PoprepError as error:
        failure = error
        raise
    finally:
        if visit.connector.postmaster is not None and not visit.surroundings.dry_run:
            from poprep_cli.engine.notice import tell_postmaster

            tell_postmaster(visit, failure)


def _is_due(visit: Visit) -> bool:
    if visit.surroundings.due_now:
        return True
    why = waits(visit.status, visit.connector.poll_every, visit.began)
    if why:
        visit.report.reason = "not due"
        visit.report.advice.append(f"{why}; name the connector or use --force")
    return not why


class _Pass:
    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        self._connector = visit.connector
        self._report = visit.report
        self._stop = visit.stop
        self._held = visit.held
        self._access = visit.access
        self._latest = visit.status.latest
        self._delivery: Delivery | None = None
        self._decided: Plan | None = None  # before anything was held back
        self.plan: Plan | None = None

    def run(self) -> None:
        if self._visit.surroundings.dry_run:
            self._look()
            return
        current = self._visit.status
        self._visit.note_attempt()
        current.reason = PoprepError.reason
        if not self._connector.pop3.use_top:
            status.remember_top(current, "", self._visit.began)
        try:
            self._work()
            current.last_success = clock.stamp(clock.now())
            current.reason = self._report.reason
        except PoprepError as error:
            current.reason = error.reason
            raise
        finally:
            if self._delivery is not None:
                self._visit.smtp_opened = self._delivery.opened
                status.remember_proof(current, self._delivery.proof, self._visit.began)
                broke = self._delivery.broke_on_groups
                current.smtp_groups = status.learned_groups(current.smtp_groups, broke=broke, now=self._visit.began)
                self._delivery.abort()

    def _look(self) -> None:
        """Log in, list and decide; write nothing and contact no SMTP server."""
        maildrop = reconcile(self._visit, self._access.arrive(), self._deadline())
        waiting = {item.slip.message_uidl for item in self._held.items()}
        self._begin(maildrop, waiting)
        self.plan = self._decide(maildrop, waiting)
        maildrop.quit()

    def _begin(self, maildrop: Maildrop, waiting: set[bytes]) -> None:
        """Do to the journal what the configuration or the command line ask for before anything is decided."""
        if self._connector.ignore_existing or self._visit.surroundings.rescan:
            from poprep_cli.engine.first import begin

            begin(self._visit, maildrop, waiting)

    def _deadline(self) -> float:
        return time.monotonic() + (self._connector.limits.max_seconds or float("inf"))

    def _decide(self, maildrop: Maildrop, held: set[bytes]) -> Plan:
        listing = maildrop.listed
        decided = plan(
            listing,
            self._visit.journal.entries,
            held,
            self._connector.server_copy,
            self._connector.limits,
            self._visit.began,
        )
        self._decided = decided
        tell: Tell = "always" if self._visit.surroundings.dry_run else "never"  # else the deletion does
        decided, _ = hold_back(self._visit, decided, self._connector.server_copy, tell=tell)
        tell_expiry(self._visit, maildrop)
        self._report.listed = len(listing)
        busy = decided.fetch or decided.delete or decided.verify
        self._tell_login(maildrop, 1 if busy else VERBOSE, f"{len(decided.fetch)} to fetch")
        return decided

    def _tell_login(self, maildrop: Maildrop, level: int, what: str) -> None:
        how = f"{maildrop.method}{' over TLS' if maildrop.tls else ''}"
        self._report.say(level, f"{maildrop.server}: logged in by {how}, {self._report.listed} listed, {what}")

    # ------------------------------------------------------------------ the work

    def _deliveries(self) -> Delivery:
        """Return the delivery of this pass, made when it is first needed."""
        if self._delivery is None:
            from poprep_cli.engine.delivery import Delivery

            self._delivery = Delivery(self._visit)
        return self._delivery

    def _work(self) -> None:
        """Held mail first, whatever becomes of the POP3 server; then what is new; then deletions and QUIT."""
        deadline = self._deadline()
        self._held.sweep()
        maildrop = self._access.arrive() if self._visit.recalls else None
        if maildrop is not None and self._access.as_expected:
            self._leave(maildrop)
            return
        date_anew(self._visit, self._latest)
        failure = self._retry(self._deliveries().retry_held) if self._held.paths() else None
        maildrop = reconcile(self._visit, maildrop or self._access.arrive(), deadline)
        told = len(self._report.advice)
        waiting = {item.slip.message_uidl for item in self._held.items()}
        self._begin(maildrop, waiting)
        self.plan = self._decide(maildrop, waiting)
        idle = self._is_idle()
        rounds = Rounds(self._visit, deadline)
        another: tuple[Maildrop, Plan] | None = (maildrop, self.plan)
        while another is not None:
            failure = self._move(*another, rounds, deadline, failure)
            another = rounds.another() if failure is None else None
        quiet = idle and failure is None and len(self._report.advice) == told
        self._report.advice[:] = dict.fromkeys(self._report.advice)  # each session may have told the same
        self._report.held = len(self._held.items())
        self._visit.journal.sync()
        self._visit.journal.compact()
        if quiet:
            self._visit.memorize()
        if failure is not None:
            raise failure

    def _leave(self, maildrop: Maildrop) -> None:
        """End a session whose listing is that of the last quiet pass: nothing has to be done about it now, either."""
        self._report.listed = self._visit.status.quiet.listed
        self._tell_login(maildrop, VERBOSE, "as at the last pass")
        tell_expiry(self._visit, maildrop)
        maildrop.quit()

    def _is_idle(self) -> bool:
        """Return whether there is nothing to do, and nothing but the listing and the journal to say so."""
        maildrop, decided = self._access.maildrop, self._decided
        return (
            decided is not None
            and not (decided.fetch or decided.delete or decided.verify or decided.oversize)
            and maildrop is not None
            and not maildrop.renamed
            and not self._held.paths()
        )

    def _move(
        self,
        maildrop: Maildrop,
        decided: Plan,
        rounds: Rounds,
        deadline: float,
        failure: PoprepError | None,
    ) -> PoprepError | None:
        """Do in one session what was decided, to its QUIT. Nothing is fetched after a `failure`; return the first one."""
        journal = self._visit.journal
        rounds.begin(decided)
        journal.forget_deleted(listed.uidl for listed in maildrop.listed)
        date_new(self._visit, self._latest, new=bool(decided.fetch or decided.oversize))
        self._remember_first_sight(journal, decided)
        if decided.fetch and failure is None and not self._spool_full():
            failure = self._transfer(maildrop, list(decided.fetch), deadline)
        if self._delivery is not None:
            failure = self._end(self._delivery, failure)
        leaving = self._delivery if failure is None else None
        try:
            self._finish(rounds.tried, settled=not decided.oversize)
        except (ConnectionFailed, RemoteProtocolError):
            # What is delivered stays so; the next pass deletes it. An earlier failure is the one worth telling.
            if failure is None:
                raise
        if leaving is not None:
            leaving.close()
        return failure

    def _end(self, delivery: Delivery, failure: PoprepError | None) -> PoprepError | None:
        """End the SMTP side of a session, unless it has failed after what was put off. Return the first failure."""
        if failure is None:
            failure = self._retry(delivery.retry_suspects)
        delivery.settle()
        if failure is None:
            delivery.leave()  # the answer comes while the other side is ended
        return failure

    def _retry(self, retry: Callable[[], None]) -> PoprepError | None:
        """Deliver what earlier passes left in the spool. Return the error if SMTP is not to be had."""
        try:
            retry()
        except PoprepError as error:
            self._report.deferred = max(self._report.deferred, len(self._held.items()))
            return survivable(error, self._stop)
        return None

    def _transfer(self, maildrop: Maildrop, steps: list[Step], deadline: float) -> PoprepError | None:
        from poprep_cli.engine import envelope
        from poprep_cli.engine.top import Top
        from poprep_cli.engine.transfer import Transfer

        delivery = self._deliveries()
        delivery.trace(
            envelope.Trace(
                maildrop.server,
                maildrop.peer,
                maildrop.tls,
                self._connector.smtp.helo or local_name(),
                envelope.token(self._visit.surroundings.state_dir, self._connector.name),
            )
        )
        files.make_folder(self._visit.spool)
        use_top = self._connector.pop3.use_top
        top = Top(use=use_top, trouble=status.top_trouble(self._visit.status, self._visit.began) if use_top else "")
        transfer = Transfer(
            maildrop,
            self._access.enter_again,
            delivery,
            self._visit.spool,
            self._report,
            self._stop,
            deadline=deadline,
            max_message_size=self._connector.limits.max_message_size,
            identity=self._access.identity,
            top=top,
        )
        try:
            return transfer.run(steps)
        finally:
            self._access.maildrop = transfer.maildrop
            status.remember_top(self._visit.status, top.trouble, self._visit.began)
            if top.advice and top.advice not in self._report.advice:
                self._report.advice.append(top.advice)

    def _remember_first_sight(self, journal: Journal, decided: Plan) -> None:
        now = clock.stamp(clock.now())
        for step in decided.fetch:
            if step.listed.uidl not in journal.entries and not is_late(step.listed.uidl):
                journal.record(step.listed.uidl, "seen", now)
        for step in decided.oversize:
            known = journal.entries.get(step.listed.uidl)
            if known is None or known.status != "oversize":
                journal.record(step.listed.uidl, "oversize", now, octets=step.listed.size)
                self._report.oversize += 1
                self._report.note(step.listed.uidl, "left on the server", step.reason)
        journal.flush()

    def _spool_full(self) -> bool:
        limit = self._connector.limits.max_held
        if not limit or self._held.octets() < limit:
            return False
        from poprep_cli.engine.filing import SPOOL_FULL

        self._report.advice.append(SPOOL_FULL)
        return True

    def _finish(self, fetched: set[bytes], *, settled: bool) -> None:
        """Delete and QUIT. What was decided at first holds still if nothing was delivered or recorded since (`settled`)."""
        decided, self._decided = self._decided, None
        if self._access.maildrop is None:
            return
        deletion = Deletion(self._visit, self._access.maildrop)
        deletion.run(fetched, decided if settled and not fetched and self._delivery is None else None)
