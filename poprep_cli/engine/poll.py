"""One pass over one connector: lock, replay, log in, plan, move the mail, delete, record, report."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path

from poprep_cli.config.model import Connector, weaknesses
from poprep_cli.config.secrets import resolve
from poprep_cli.engine import clock, envelope, files, status
from poprep_cli.engine.deletion import Deletion
from poprep_cli.engine.delivery import Delivery
from poprep_cli.engine.plan import Plan, Step, plan
from poprep_cli.engine.report import ConnectorReport, Note
from poprep_cli.engine.state import Journal
from poprep_cli.engine.store import Store
from poprep_cli.engine.transfer import Transfer, survivable
from poprep_cli.errors import (
    ConnectionFailed,
    PoprepError,
    RemoteProtocolError,
    StateError,
    Stopped,
    TemporaryReplyError,
)
from poprep_cli.net.detect import Memory
from poprep_cli.net.maildrop import Maildrop
from poprep_cli.net.stop import Stop
from poprep_cli.net.stream import local_name
from poprep_cli.protocol.sasl.mechanism import Credentials
from poprep_cli.protocol.wire import printable

UNLOCK_PAUSES = (0.1, 0.4, 1.5)  # seconds before another try to get back into a maildrop that is still locked


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every connector's pass shares: where things are and what the command line asked for."""

    state_dir: Path
    config_dir: Path
    dry_run: bool = False
    due_now: bool = False


def poll(connector: Connector, surroundings: Surroundings, report: ConnectorReport, stop: Stop) -> Plan | None:
    """Run one pass; everything worth telling goes into `report`, errors too. Return the plan, if there came to be one."""
    began = time.monotonic()
    this_pass = _Pass(connector, surroundings, report, stop)
    try:
        return this_pass.run()
    except PoprepError as error:
        report.fail(Stopped() if stop.tripped and not isinstance(error, StateError) else error)
        return this_pass.plan
    finally:
        this_pass.close()
        report.conceal()
        report.seconds = time.monotonic() - began
        report.done = True


class _Pass:
    def __init__(self, connector: Connector, surroundings: Surroundings, report: ConnectorReport, stop: Stop) -> None:
        self._connector = connector
        self._surroundings = surroundings
        self._report = report
        self._stop = stop
        state_dir, name = surroundings.state_dir, connector.name
        self._journal_path = state_dir / f"{name}.jsonl"
        self._status_path = state_dir / f"{name}.status.json"
        self._held = Store(state_dir / "held" / name)
        self._badmail = Store(state_dir / "badmail" / name)
        self._spool = state_dir / "held" / name
        self._lock: files.Lock | None = None
        self._journal: Journal | None = None
        self._maildrop: Maildrop | None = None
        self._delivery: Delivery | None = None
        self._password = ""
        self._smtp_password = ""
        self._memory = Memory()
        self._learned: Memory | None = None
        self.plan: Plan | None = None

    def run(self) -> Plan | None:
        current = status.load(self._status_path)
        now = clock.now()
        self._memory = status.memory(current, now)
        if not self._surroundings.due_now:
            due = status.not_due_until(current, self._connector.poll_every, now)
            if due:
                self._report.reason = "not due"
                self._report.advice.append(f"not due before {due} (poll_every); name the connector or use --force")
                return None
        self._report.advice.extend(weaknesses(self._connector))
        if self._surroundings.dry_run:
            return self._look()
        files.make_folder(self._surroundings.state_dir)
        self._lock = files.Lock(
            self._surroundings.state_dir / f"{self._connector.name}.lock", f"connector {self._connector.name}"
        )
        current.last_attempt = clock.stamp(now)
        current.reason = PoprepError.reason
        try:
            self._work()
            current.last_success = clock.stamp(clock.now())
            current.reason = self._report.reason
        except PoprepError as error:
            current.reason = error.reason
            raise
        finally:
            if self._learned is not None:
                status.remember(current, self._learned, now)
            status.save(self._status_path, current)
        return self.plan

    def close(self) -> None:
        """Let go of everything; on the way out of an error that is the line dropped, so that the server commits nothing."""
        if self._maildrop is not None:
            self._maildrop.close()
        if self._delivery is not None:
            self._delivery.abort()
        if self._journal is not None:
            self._journal.close()
        if self._lock is not None:
            self._lock.release()

    def _load(self) -> Journal:
        pop3 = self._connector.pop3
        journal = Journal(self._journal_path, f"{pop3.user}@{pop3.address}")
        if journal.skipped:
            self._report.advice.append(f"{self._journal_path}: {journal.skipped} unreadable lines were skipped")
        return journal

    def _resolve(self) -> None:
        """Get the password, before anybody is contacted: a server's text may hold it from the first moment on."""
        self._password = resolve(
            self._connector.pop3.password,
            what=f"connector.{self._connector.name}.pop3.password",
            user=self._connector.pop3.user,
            folder=self._surroundings.config_dir,
        )
        self._report.redactor.know(self._password)

    def _smtp_credentials(self) -> Credentials | None:
        smtp = self._connector.smtp
        if smtp.user is None or smtp.password is None:
            return Credentials(smtp.user, "") if smtp.user is not None else None
        if not self._smtp_password:
            self._smtp_password = resolve(
                smtp.password,
                what=f"the smtp.password of connector {self._connector.name}",
                user=smtp.user,
                folder=self._surroundings.config_dir,
            )
            self._report.redactor.know(self._smtp_password)
        return Credentials(smtp.user, self._smtp_password)

    def _enter(self, *, pipelining: bool = True) -> Maildrop:
        self._maildrop = maildrop = Maildrop(
            self._connector.pop3, self._password, self._stop, self._memory, pipelining=pipelining
        )
        self._memory = self._learned = maildrop.memory
        self._report.advice.extend(
            f"{failure.method} is announced but fails{' and costs a reconnect' if failure.hung_up else ''}: "
            f"remove it from pop3.auth ({failure.why})"
            for failure in maildrop.failures
        )
        self._report.advice.extend(warning for warning in maildrop.warnings if warning not in self._report.advice)
        return maildrop

    def _arrive(self) -> Maildrop:
        """Log in and list. A server that breaks on commands in a group gets them one by one, on a fresh connection."""
        maildrop = self._enter()
        try:
            maildrop.listing()
            return maildrop
        except (ConnectionFailed, RemoteProtocolError) as error:
            if not maildrop.pipelining:
                raise
            maildrop.close()
            self._stop.check()
            try:
                maildrop = self._enter_again()
            except TemporaryReplyError:
                raise error from None  # a maildrop that is still locked is only what followed from it
        maildrop.listing()
        return maildrop

    def _enter_again(self) -> Maildrop:
        """Log in anew after the line broke. The server may need a moment to notice that, and to unlock the maildrop."""
        stopped = threading.Event()
        forget = self._stop.on_trip(stopped.set)
        try:
            for pause in UNLOCK_PAUSES:
                try:
                    return self._enter(pipelining=False)
                except TemporaryReplyError:
                    stopped.wait(pause)
                    self._stop.check()
            return self._enter(pipelining=False)
        finally:
            forget()

    def _look(self) -> Plan:
        """Log in, list and decide; write nothing and contact no SMTP server."""
        journal = self._load()
        self._resolve()
        maildrop = self._arrive()
        self.plan = self._decide(maildrop, journal, {item.slip.message_uidl for item in self._held.items()})
        maildrop.quit()
        return self.plan

    def _decide(self, maildrop: Maildrop, journal: Journal, held: set[bytes]) -> Plan:
        listing = maildrop.listed
        decided = plan(
            listing,
            journal.entries,
            held,
            self._connector.server_copy,
            self._connector.limits,
            clock.now(),
        )
        self._report.listed = len(listing)
        self._report.say(
            1,
            f"{maildrop.server}: logged in by {maildrop.method}{' over TLS' if maildrop.tls else ''}, "
            f"{len(listing)} listed, {len(decided.fetch)} to fetch",
        )
        return decided

    # ------------------------------------------------------------------ the work

    def _work(self) -> None:
        """Held mail first, whatever becomes of the POP3 server; then what is new; then deletions and QUIT."""
        deadline = time.monotonic() + (self._connector.limits.max_seconds or float("inf"))
        self._held.sweep()
        self._journal = journal = self._load()
        self._delivery = delivery = Delivery(
            self._connector, journal, self._held, self._badmail, self._report, self._stop, self._smtp_credentials
        )
        self._resolve()
        failure = self._retry_held(delivery)
        waiting = {item.slip.message_uidl for item in self._held.items()}
        maildrop = self._arrive()
        self.plan = decided = self._decide(maildrop, journal, waiting)
        self._report.new = len(decided.fetch)
        journal.forget_deleted({listed.uidl for listed in maildrop.listed})
        self._remember_first_sight(journal, decided)
        self._tell_apart(decided)
        if decided.fetch and failure is None and not self._spool_full():
            failure = self._transfer(maildrop, delivery, list(decided.fetch), deadline)
        delivery.settle()
        if failure is None:
            delivery.close()
        try:
            self._finish(journal, decided)
        except (ConnectionFailed, RemoteProtocolError):
            # What is delivered stays so; the next pass deletes it. An earlier failure is the one worth telling.
            if failure is None:
                raise
        self._report.held = len(self._held.items())
        journal.sync()
        journal.compact()
        if failure is not None:
            raise failure

    def _retry_held(self, delivery: Delivery) -> PoprepError | None:
        """Deliver what earlier passes left in the spool. Return the error if SMTP is not to be had."""
        if not self._held.items():
            return None
        try:
            delivery.open()
            delivery.retry_held()
        except PoprepError as error:
            self._report.deferred = len(self._held.items())
            return survivable(error, self._stop)
        return None

    def _transfer(
        self, maildrop: Maildrop, delivery: Delivery, steps: list[Step], deadline: float
    ) -> PoprepError | None:
        delivery.trace = envelope.Trace(
            maildrop.server,
            maildrop.peer,
            maildrop.tls,
            self._connector.smtp.helo or local_name(),
            envelope.token(self._surroundings.state_dir, self._connector.name),
        )
        files.make_folder(self._spool)
        transfer = Transfer(
            maildrop,
            self._enter_again,
            delivery,
            self._spool,
            self._report,
            self._stop,
            deadline=deadline,
            max_message_size=self._connector.limits.max_message_size,
        )
        try:
            return transfer.run(steps)
        finally:
            self._maildrop = transfer.maildrop

    def _remember_first_sight(self, journal: Journal, decided: Plan) -> None:
        now = clock.stamp(clock.now())
        for step in decided.fetch:
            if step.listed.uidl not in journal.entries:
                journal.record(step.listed.uidl, "seen", now)
        for step in decided.oversize:
            known = journal.entries.get(step.listed.uidl)
            if known is None or known.status != "oversize":
                journal.record(step.listed.uidl, "oversize", now, octets=step.listed.size)
                self._report.oversize += 1
                self._report.messages.append(Note(printable(step.listed.uidl), "left on the server", step.reason))
        journal.flush()

    def _tell_apart(self, decided: Plan) -> None:
        for step in decided.unusable:
            self._report.deferred += 1
            self._report.messages.append(
                Note(printable(step.listed.uidl), "left on the server", f"message {step.listed.number}: {step.reason}"),
            )

    def _spool_full(self) -> bool:
        limit = self._connector.limits.max_held
        if not limit or self._held.octets() < limit:
            return False
        self._report.advice.append(
            "the spool is full (limits.max_held): nothing more is downloaded until held mail is delivered"
        )
        return True

    def _finish(self, journal: Journal, decided: Plan) -> None:
        if self._maildrop is None:
            return
        fetched = {step.listed.uidl for step in decided.fetch}
        deletion = Deletion(self._maildrop, journal, self._connector, self._report, self._spool)
        deletion.run(fetched)
