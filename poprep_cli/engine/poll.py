"""One pass over one connector: lock, replay, log in, plan, move the mail, delete, record, report."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from poprep_cli.config.model import Connector, weaknesses
from poprep_cli.config.secrets import resolve
from poprep_cli.engine import clock, envelope, files, status
from poprep_cli.engine.deletion import Deletion
from poprep_cli.engine.delivery import Delivery
from poprep_cli.engine.fetch import Fetcher
from poprep_cli.engine.handoff import Handoff
from poprep_cli.engine.message import Message
from poprep_cli.engine.plan import Plan, Step, plan
from poprep_cli.engine.report import ConnectorReport, Note
from poprep_cli.engine.state import Journal
from poprep_cli.engine.store import Store
from poprep_cli.errors import ConnectionFailed, PoprepError, RemoteProtocolError, StateError, Stopped
from poprep_cli.net.maildrop import Maildrop
from poprep_cli.net.stop import Stop
from poprep_cli.net.stream import local_name
from poprep_cli.protocol.wire import printable

CONNECTIONS = 4  # POP3 connections in one pass at most, when the line keeps dropping


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
        self.plan: Plan | None = None

    def run(self) -> Plan | None:
        current = status.load(self._status_path)
        now = clock.now()
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
            current.method = self._maildrop.method if self._maildrop else current.method
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

    def _enter(self, *, pipelining: bool = True) -> Maildrop:
        if not self._password:
            self._password = resolve(
                self._connector.pop3.password,
                what=f"connector.{self._connector.name}.pop3.password",
                user=self._connector.pop3.user,
                folder=self._surroundings.config_dir,
            )
        self._maildrop = maildrop = Maildrop(self._connector.pop3, self._password, self._stop, pipelining=pipelining)
        self._report.advice.extend(warning for warning in maildrop.warnings if warning not in self._report.advice)
        return maildrop

    def _look(self) -> Plan:
        """Log in, list and decide; write nothing and contact no SMTP server."""
        journal = self._load()
        maildrop = self._enter()
        self.plan = self._decide(maildrop, journal, {item.slip.message_uidl for item in self._held.items()})
        maildrop.quit()
        return self.plan

    def _decide(self, maildrop: Maildrop, journal: Journal, held: set[bytes]) -> Plan:
        listing = maildrop.listing()
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
        self._held.sweep()
        self._journal = journal = self._load()
        held = self._held.items()
        maildrop = self._enter()
        self.plan = decided = self._decide(maildrop, journal, {item.slip.message_uidl for item in held})
        self._report.new = len(decided.fetch)
        self._remember_first_sight(journal, decided)
        self._tell_apart(decided)
        failure: PoprepError | None = None
        if held or decided.fetch:
            failure = self._move(maildrop, decided, retry=bool(held))
        try:
            self._finish(journal, decided)
        except (ConnectionFailed, RemoteProtocolError):
            # What is delivered stays so; the next pass deletes it. An earlier failure is the one worth telling.
            if failure is None:
                raise
        self._report.held = len(self._held.items()) if held or decided.fetch else 0
        journal.sync()
        journal.compact()
        if failure is not None:
            raise failure

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

    def _move(self, maildrop: Maildrop, decided: Plan, *, retry: bool) -> PoprepError | None:
        """Move the mail. Return the error that cut it short; what was downloaded is delivered or safe in the spool then."""
        if self._journal is None:
            raise RuntimeError("no journal")
        connector = self._connector
        trace = envelope.Trace(
            maildrop.server,
            maildrop.peer,
            maildrop.tls,
            connector.smtp.helo or local_name(),
            envelope.token(self._surroundings.state_dir, connector.name),
        )
        self._delivery = delivery = Delivery(
            connector,
            self._journal,
            self._held,
            self._badmail,
            trace,
            self._report,
            self._stop,
        )
        files.make_folder(self._spool)
        failure: PoprepError | None = None
        try:
            if retry:
                delivery.open()
                delivery.retry_held()
        except PoprepError as error:
            failure = self._survivable(error)
        if failure is None and decided.fetch and not self._spool_full():
            failure = self._fetch_and_deliver(delivery, list(decided.fetch))
        delivery.settle()
        if failure is None:
            delivery.close()
        else:
            delivery.abort()
        return failure

    def _spool_full(self) -> bool:
        limit = self._connector.limits.max_held
        if not limit or self._held.octets() < limit:
            return False
        self._report.advice.append(
            "the spool is full (limits.max_held): nothing more is downloaded until held mail is delivered"
        )
        return True

    def _fetch_and_deliver(self, delivery: Delivery, steps: list[Step]) -> PoprepError | None:
        """Fetch and deliver. After a dropped POP3 line go on with the rest; a message that breaks it twice is left alone.

        Returns the error that ended it early, if one did; `_maildrop` is None then if the line is dead.
        """
        broke: PoprepError | None = None
        breakers: set[bytes] = set()
        for _ in range(CONNECTIONS):
            fetcher, failure = self._transfer(delivery, steps)
            if failure is not None or fetcher.error is None:
                return failure or broke
            if not isinstance(fetcher.error, ConnectionFailed | RemoteProtocolError):
                raise fetcher.error
            in_hand = fetcher.in_hand
            left = [step for step in steps if step.listed.uidl not in fetcher.fetched]
            broke = _while_reading(fetcher.error, in_hand)
            if in_hand is not None and in_hand.listed.uidl in breakers:
                left = [step for step in left if step is not in_hand]
            elif in_hand is not None:
                breakers.add(in_hand.listed.uidl)
            self._leave()
            try:
                steps = self._reenter(left, in_hand)
            except PoprepError as error:
                self._survivable(error)
                self._leave()
                return broke
            if not steps:
                return broke
        self._leave()
        return broke

    def _transfer(self, delivery: Delivery, steps: list[Step]) -> tuple[Fetcher, PoprepError | None]:
        """Run the download thread beside the submission. Return it, joined, and the error of the SMTP side."""
        handoff = Handoff()
        forget = self._stop.on_trip(handoff.close)
        fetcher = Fetcher(self._open_maildrop(), steps, handoff, self._spool, self._report)
        try:
            failure = self._submit(delivery, handoff)
        finally:
            handoff.close()
            forget()
        fetcher.join()
        self._stop.check()
        rest: list[Message] = []
        while (message := handoff.get()) is not None:
            rest.append(message)
        delivery.hold_rest(rest, str(failure))
        return fetcher, failure

    def _submit(self, delivery: Delivery, handoff: Handoff) -> PoprepError | None:
        try:
            delivery.open()
            handoff.open_wide()
            delivery.deliver_all(handoff.get, handoff.peek, lambda message: handoff.release(message.listed_octets))
        except PoprepError as error:
            return self._survivable(error)
        return None

    def _survivable(self, error: PoprepError) -> PoprepError:
        """Return an error of the SMTP side, after which the POP3 session still ends properly; raise any other."""
        if self._stop.tripped or isinstance(error, StateError | Stopped):
            raise error
        return error

    def _reenter(self, left: list[Step], in_hand: Step | None) -> list[Step]:
        """Log in again after a dropped line, one command at a time; the message that was in transfer comes last."""
        maildrop = self._enter(pipelining=False)
        numbers = {listed.uidl: listed for listed in maildrop.listing()}
        again = [
            Step(numbers[step.listed.uidl], step.reason, step.in_doubt) for step in left if step.listed.uidl in numbers
        ]
        last = in_hand.listed.uidl if in_hand is not None else b""
        return sorted(again, key=lambda step: step.listed.uidl == last)

    def _finish(self, journal: Journal, decided: Plan) -> None:
        if self._maildrop is None:
            return
        fetched = {step.listed.uidl for step in decided.fetch}
        deletion = Deletion(self._maildrop, journal, self._connector, self._report, self._spool)
        deletion.run(fetched)

    def _leave(self) -> None:
        if self._maildrop is not None:
            self._maildrop.close()
            self._maildrop = None

    def _open_maildrop(self) -> Maildrop:
        if self._maildrop is None:
            raise RuntimeError("no maildrop is open")
        return self._maildrop


def _while_reading(error: PoprepError | None, step: Step | None) -> PoprepError:
    about = f" while message {step.listed.number} was read" if step is not None else ""
    return ConnectionFailed(f"{error}{about}", hint="what was not read is still on the server; the next pass goes on")
