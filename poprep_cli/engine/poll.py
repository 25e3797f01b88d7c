"""One pass over one connector: lock, replay, log in, plan, move the mail, delete, record, report."""

from __future__ import annotations

import time
from collections.abc import Callable

from poprep_cli.config.model import Connector, weaknesses
from poprep_cli.engine import clock, envelope, files, status
from poprep_cli.engine.adopt import reconcile
from poprep_cli.engine.days import date_anew, date_new
from poprep_cli.engine.deletion import Deletion, Tell, hold_back
from poprep_cli.engine.delivery import Delivery
from poprep_cli.engine.due import waits
from poprep_cli.engine.expiry import tell_expiry
from poprep_cli.engine.first import begin
from poprep_cli.engine.plan import Plan, Step, plan
from poprep_cli.engine.report import ConnectorReport
from poprep_cli.engine.rounds import Rounds
from poprep_cli.engine.state import Journal, is_late
from poprep_cli.engine.top import Top
from poprep_cli.engine.transfer import Transfer, survivable
from poprep_cli.engine.visit import Surroundings, Visit, told
from poprep_cli.errors import ConnectionFailed, PoprepError, RemoteProtocolError
from poprep_cli.net.dialogue import VERBOSE
from poprep_cli.net.maildrop import Maildrop
from poprep_cli.net.stop import Stop
from poprep_cli.net.stream import local_name


def poll(connector: Connector, surroundings: Surroundings, report: ConnectorReport, stop: Stop) -> Plan | None:
    """Run one pass; everything worth telling goes into `report`, errors too. Return the plan, if there came to be one."""
    this_pass: _Pass | None = None
    with told(report, stop):
        visit = Visit(connector, surroundings, report, stop)
        if not _is_due(visit):
            return None
        report.advice.extend(weaknesses(connector))
        this_pass = _Pass(visit)
        with visit:
            this_pass.run()
    return this_pass.plan if this_pass is not None else None


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
        self.plan: Plan | None = None

    def run(self) -> None:
        if self._visit.surroundings.dry_run:
            self._look()
            return
        current = self._visit.status
        current.last_attempt = clock.stamp(self._visit.began)
        current.latest = max(current.latest, current.last_attempt)
        self._visit.save_status()  # so that a pass that is killed counts, too
        current.reason = PoprepError.reason
        if not self._connector.pop3.use_top:
            status.remember_top(current, "", self._visit.began)
        delivery = Delivery(self._visit)
        try:
            self._work(delivery)
            current.last_success = clock.stamp(clock.now())
            current.reason = self._report.reason
        except PoprepError as error:
            current.reason = error.reason
            raise
        finally:
            self._visit.smtp_opened = delivery.opened
            delivery.abort()

    def _look(self) -> None:
        """Log in, list and decide; write nothing and contact no SMTP server."""
        maildrop = reconcile(self._visit, self._access.arrive(), self._deadline())
        waiting = {item.slip.message_uidl for item in self._held.items()}
        begin(self._visit, maildrop, waiting)
        self.plan = self._decide(maildrop, waiting)
        maildrop.quit()

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
        tell: Tell = "always" if self._visit.surroundings.dry_run else "never"  # else the deletion does
        decided, _ = hold_back(self._visit, decided, self._connector.server_copy, tell=tell)
        tell_expiry(self._visit, maildrop)
        self._report.listed = len(listing)
        self._report.say(
            1 if decided.fetch or decided.delete or decided.verify else VERBOSE,
            f"{maildrop.server}: logged in by {maildrop.method}{' over TLS' if maildrop.tls else ''}, "
            f"{len(listing)} listed, {len(decided.fetch)} to fetch",
        )
        return decided

    # ------------------------------------------------------------------ the work

    def _work(self, delivery: Delivery) -> None:
        """Held mail first, whatever becomes of the POP3 server; then what is new; then deletions and QUIT."""
        deadline = self._deadline()
        journal = self._visit.journal
        self._held.sweep()
        date_anew(self._visit, self._latest)
        failure = self._retry(delivery.retry_held)
        maildrop = reconcile(self._visit, self._access.arrive(), deadline)
        waiting = {item.slip.message_uidl for item in self._held.items()}
        begin(self._visit, maildrop, waiting)
        self.plan = self._decide(maildrop, waiting)
        rounds = Rounds(self._visit, deadline)
        another: tuple[Maildrop, Plan] | None = (maildrop, self.plan)
        while another is not None:
            failure = self._move(delivery, *another, rounds, deadline, failure)
            another = rounds.another() if failure is None else None
        self._report.advice[:] = dict.fromkeys(self._report.advice)  # each session may have told the same
        self._report.held = len(self._held.items())
        journal.sync()
        journal.compact()
        if failure is not None:
            raise failure

    def _move(
        self,
        delivery: Delivery,
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
            failure = self._transfer(maildrop, delivery, list(decided.fetch), deadline)
        if failure is None:
            failure = self._retry(delivery.retry_suspects)
        delivery.settle()
        if failure is None:
            delivery.close()
        try:
            self._finish(rounds.tried)
        except (ConnectionFailed, RemoteProtocolError):
            # What is delivered stays so; the next pass deletes it. An earlier failure is the one worth telling.
            if failure is None:
                raise
        return failure

    def _retry(self, retry: Callable[[], None]) -> PoprepError | None:
        """Deliver what earlier passes left in the spool. Return the error if SMTP is not to be had."""
        try:
            retry()
        except PoprepError as error:
            self._report.deferred = max(self._report.deferred, len(self._held.items()))
            return survivable(error, self._stop)
        return None

    def _transfer(
        self, maildrop: Maildrop, delivery: Delivery, steps: list[Step], deadline: float
    ) -> PoprepError | None:
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
        self._report.advice.append(
            "the spool is full (limits.max_held): nothing more is downloaded until held mail is delivered"
        )
        return True

    def _finish(self, fetched: set[bytes]) -> None:
        if self._access.maildrop is None:
            return
        deletion = Deletion(self._visit, self._access.maildrop)
        deletion.run(fetched)
