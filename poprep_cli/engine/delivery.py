"""Delivery: hands messages to SMTP one after another and files each outcome: delivered, held, or badmail.

The order of events is the promise: a `sending` record before the end of data, `delivered` on its 2xx and before the next
end of data; what is held is durable before the POP3 session may end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from poprep_cli.config.model import Connector
from poprep_cli.engine import clock
from poprep_cli.engine.envelope import POSSIBLE_DUPLICATE, Letter, Trace, reverse_path
from poprep_cli.engine.message import Message
from poprep_cli.engine.report import ConnectorReport, Note
from poprep_cli.engine.state import Journal
from poprep_cli.engine.store import Item, Refusal, Slip, Store, refusal
from poprep_cli.errors import ConnectionFailed, PoprepError, RemoteProtocolError, ReplyError, StateError, Stopped
from poprep_cli.net.stop import Stop
from poprep_cli.net.submission import Submission
from poprep_cli.net.transaction import Outcome, Verdict
from poprep_cli.protocol.sasl.mechanism import Credentials
from poprep_cli.protocol.wire import printable

ALIKE = 3  # so many first messages refused alike and none accepted, or broken off in a row: it is not the messages


@dataclass(slots=True)
class _Job:
    """One message to deliver, the held item it comes from, if it was held, and whether it broke the session."""

    message: Message
    letter: Letter
    item: Item | None = None
    broke: bool = False


class Delivery:
    """One connector's deliveries during a pass. Not for two threads."""

    def __init__(
        self,
        connector: Connector,
        journal: Journal,
        held: Store,
        badmail: Store,
        report: ConnectorReport,
        stop: Stop,
        credentials: Callable[[], Credentials | None],
    ) -> None:
        """Prepare; nothing is contacted. `credentials` says how to log in to the SMTP server, None: not at all."""
        self._connector = connector
        self._journal = journal
        self._held = held
        self._badmail = badmail
        self.trace: Trace | None = None  # known once the POP3 session stands; held mail has its own
        self._report = report
        self._stop = stop
        self._credentials = credentials
        self._submission: Submission | None = None
        self._pipelining = True
        self._accepted = 0
        self._taken = 0  # messages that this session has accepted
        self._broken = 0  # messages in a row at which the session broke
        self._refused: list[tuple[Item, tuple[str, int, str]]] = []  # until it is clear whose fault the refusals are

    def open(self) -> None:
        """Connect to the SMTP server, unless it is connected. Raises as `Submission.open` does."""
        if self._submission is None or not self._submission.alive:
            self._drop()
            self._submission = Submission.open(
                self._connector.smtp, self._stop, self._credentials(), pipelining=self._pipelining
            )
            self._taken = 0

    def close(self) -> None:
        """End the SMTP session politely."""
        if self._submission is not None:
            if self._submission.alive:
                self._submission.quit()
            self._drop()

    def abort(self) -> None:
        """Drop the SMTP connection."""
        self._drop()

    def retry_held(self) -> None:
        """Deliver what earlier passes left in the spool, in order. Raises as `open` does when SMTP is not to be had.

        What has broken a session before comes last and does not keep new mail waiting: if it breaks more of them, the
        first new message decides whether that is the server's fault.
        """
        jobs = []
        for item in sorted(self._held.items(), key=lambda item: item.slip.breaks):
            known = self._journal.entries.get(item.slip.message_uidl)
            if known is not None and known.status == "delivered":
                self._held.remove(item)  # a crash came between the record and the removal
            else:
                jobs.append(self._held_job(item))
        for position, job in enumerate(jobs):
            if self._broken >= ALIKE - 1:
                return
            following = jobs[position + 1].letter if position + 1 < len(jobs) else None
            self._deliver(job, following)

    def deliver_all(
        self,
        get: Callable[[], Message | None],
        peek: Callable[[], Message | None],
        done: Callable[[Message], None],
    ) -> None:
        """Deliver messages until `get` returns None. Raises what ends the pass: SMTP gone, refusing all, or a full disk.

        A message that was got is then delivered, in badmail, or held. `done` is called when a message is off our hands.
        """
        ready: _Job | None = None
        while (message := get()) is not None:
            job = ready if ready is not None and ready.message is message else self._job(message)
            ahead = peek()
            ready = self._job(ahead) if ahead is not None else None
            self._deliver(job, ready.letter if ready is not None and self._is_to_be_sent(ready) else None)
            done(message)

    def hold_rest(self, messages: Iterable[Message], why: str) -> None:
        """Keep messages that were downloaded and can't be delivered now."""
        for message in messages:
            self._hold(self._job(message), why=why)

    def settle(self) -> None:
        """Decide about refusals still open at the end of the pass: they are the messages' own."""
        for item, _ in self._refused:
            self._condemn(item)
        self._refused.clear()

    # ------------------------------------------------------------------ one message

    def _job(self, message: Message) -> _Job:
        if self.trace is None:
            raise RuntimeError("no trace")
        paths = tuple(path.encode() for path in self._connector.routing.send_to)
        front = self.trace.front(message, paths, clock.now())
        return _Job(message, Letter(message, reverse_path(self._connector.routing.sender, message), paths, front))

    def _held_job(self, item: Item) -> _Job:
        message, slip = item.message(), item.slip
        known = self._journal.entries.get(message.uidl)
        if known is not None and known.status == "sending":
            message.in_doubt = True
        front = slip.trace.encode() + (POSSIBLE_DUPLICATE if message.in_doubt else b"")
        paths = tuple(path.encode() for path in slip.forward_paths)
        return _Job(message, Letter(message, slip.reverse_path.encode(), paths, front), item)

    def _is_loop(self, job: _Job) -> bool:
        return job.item is None and self.trace is not None and self.trace.is_loop(job.message)

    def _is_undeleted(self, job: _Job) -> bool:
        """Whether the server shows the very mail again that it said it had deleted."""
        entry = self._journal.entries.get(job.message.uidl)
        if job.item is not None or entry is None or entry.status != "deleted":
            return False
        message = job.message
        return bool(entry.fingerprint) and (message.octets, message.fingerprint) == (entry.octets, entry.fingerprint)

    def _is_to_be_sent(self, job: _Job) -> bool:
        return not self._is_loop(job) and not self._is_undeleted(job)

    def _deliver(self, job: _Job, following: Letter | None) -> None:
        if self._is_undeleted(job):
            self._journal.record(job.message.uidl, "delivered", clock.stamp(clock.now()))
            self._note(job.message, "not sent again", "the server lists it still, although it confirmed its deletion")
            job.message.discard()
            return
        known = self._journal.entries.get(job.message.uidl)
        if job.item is None and known is not None and known.status == "deleted":
            del self._journal.entries[job.message.uidl]  # the UIDL is used again, for other mail
        if self._is_loop(job):
            self._reject(job, (), "a mail loop: it has been through this connector before")
            return
        try:
            outcome = self._outcome(job, following)
        except (StateError, Stopped):
            raise
        except PoprepError as error:
            if not self._stop.tripped:
                self._hold(job, why=str(error))
            raise
        if isinstance(outcome, PoprepError):
            job.broke = True
            self._hold(job, why=str(outcome))
            self._broke(outcome)
            return
        self._file(job, outcome)

    def _outcome(self, job: _Job, following: Letter | None) -> Outcome | PoprepError:
        """Try once, and once more on a fresh connection, one command at a time. Return the error if the line dropped twice."""
        failure: PoprepError | None = None
        for _ in range(3):
            self.open()
            submission = self._submission
            if submission is None:  # pragma: no cover - `open` sets it or raises
                raise RuntimeError("no submission")
            try:
                outcome = submission.deliver(job.letter, lambda: self._sending(job.message), following)
            except (ConnectionFailed, RemoteProtocolError) as error:
                self._pipelining = False
                self._drop()
                if failure is not None:
                    return error
                failure, following = error, None
                continue
            if not (self._taken and _ended_by_the_server(outcome)):
                return outcome
            # It takes only so many messages in a session: that is not this message's matter.
            self._drop()
        raise RuntimeError("three sessions and no outcome")  # pragma: no cover - a fresh session has taken nothing

    def _sending(self, message: Message) -> None:
        self._journal.record(message.uidl, "sending", clock.stamp(clock.now()))
        self._journal.flush()

    def _file(self, job: _Job, outcome: Outcome) -> None:
        if outcome.in_doubt:
            server = self._submission.server if self._submission else "the SMTP server"
            answered = {verdict.path for verdict in outcome.accepted}
            job.message.in_doubt = job.broke = True
            self._hold(job, why=f"in doubt, {server} may have it: {outcome.in_doubt}", done=answered)
            self._broke(ConnectionFailed(f"{server} leaves messages in doubt, one after the other: {outcome.in_doubt}"))
            return
        self._broken = 0
        if outcome.accepted:
            self._accept_some()
        if outcome.deferred:
            # Refused recipients wait beside the deferred ones until the message is settled as a whole.
            done = {verdict.path for verdict in outcome.accepted}
            self._hold(job, outcome.deferred + outcome.rejected, done=done)
        elif outcome.rejected:
            self._reject(job, outcome.rejected, _why(outcome.rejected))
        else:
            self._delivered(job)

    def _delivered(self, job: _Job) -> None:
        message = job.message
        short = message.octets < message.listed_octets
        self._journal.record(
            message.uidl,
            "delivered",
            clock.stamp(clock.now()),
            octets=message.octets,
            fingerprint=message.fingerprint,
            short=short,
        )
        self._journal.flush()
        self._report.delivered += 1
        self._report.octets += message.octets
        self._report.say(
            1,
            f"delivered {printable(message.uidl)} ({message.octets:,} octets) to {', '.join(self._connector.routing.send_to)}",
        )
        if message.in_doubt:
            self._note(
                message,
                "delivered again",
                "an earlier pass ended in doubt; the copy is marked X-Poprep-Possible-Duplicate",
            )
        if short:
            self._note(
                message,
                "delivered, kept on the server",
                f"{message.octets:,} octets came where LIST said {message.listed_octets:,}; a second read decides about deletion",
            )
        if job.item is not None:
            self._held.remove(job.item)
        else:
            message.discard()

    def _hold(
        self, job: _Job, verdicts: tuple[Verdict, ...] = (), *, why: str = "", done: Iterable[bytes] = ()
    ) -> Item:
        """Keep a message for the next pass, for those recipients that have not got it."""
        now = clock.stamp(clock.now())
        settled = set(done)
        left = [path for path in job.letter.forward_paths if path not in settled]
        item = self._keep(job, left, self._refusals(verdicts, now), why or _why(verdicts), now)
        self._report.deferred += 1
        self._note(job.message, "held", item.slip.why)
        return item

    def _keep(self, job: _Job, left: list[bytes], refusals: list[Refusal], why: str, now: str) -> Item:
        message = job.message
        if job.item is None:
            known = self._journal.entries.get(message.uidl)
            slip = Slip(
                first_seen=known.first_seen if known else now,
                since=now,
                reverse_path=job.letter.reverse_path.decode("utf-8", "replace"),
                forward_paths=[],
                octets=message.octets,
                canonical=message.canonical,
                eight_bit=message.eight_bit,
                fingerprint=message.fingerprint,
                trace=job.letter.front.removesuffix(POSSIBLE_DUPLICATE).decode("ascii", "replace"),
            )
        else:
            slip = job.item.slip
        slip.forward_paths = [path.decode() for path in left]
        slip.in_doubt = slip.in_doubt or message.in_doubt
        slip.refusals = [*slip.refusals, *refusals][-20:]
        slip.attempts += bool(refusals)
        slip.breaks += job.broke
        slip.why = self._report.redactor.conceal(why)
        if job.item is None:
            item = self._held.add(message, slip)
        else:
            item = job.item
            self._held.update(item)
        self._journal.record(message.uidl, "held", now, octets=message.octets, fingerprint=slip.fingerprint)
        self._journal.flush()
        return item

    def _reject(self, job: _Job, verdicts: tuple[Verdict, ...], why: str) -> None:
        """Keep a refused message: in badmail, or in the spool while it may be the server's fault."""
        now = clock.stamp(clock.now())
        item = self._keep(job, [verdict.path for verdict in verdicts], self._refusals(verdicts, now), why, now)
        if self._accepted or not verdicts:
            self._condemn(item)
            return
        first = verdicts[0]
        self._refused.append((item, (first.stage, first.reply.code, first.reply.enhanced)))
        alike = {kind for _, kind in self._refused}
        if len(alike) > 1:
            self.settle()
        elif len(self._refused) >= ALIKE:
            for refused, _ in self._refused:
                self._report.deferred += 1
                self._note(refused.message(), "held", refused.slip.why)
            self._refused.clear()
            server = self._submission.server if self._submission else "the SMTP server"
            raise ReplyError(
                f"{server} refuses every message alike: {why}",
                reply=first.reply,
                hint="this looks like the server's or the configuration's fault, so no mail was given up; it is held and tried again",
            )

    def _condemn(self, item: Item) -> None:
        moved = self._badmail.take(item, self._held)
        uidl = item.slip.message_uidl
        self._journal.record(uidl, "badmail", clock.stamp(clock.now()))
        self._journal.flush()
        self._report.rejected += 1
        self._report.messages.append(Note(printable(uidl), "badmail", f"{item.slip.why} ({moved.path})"))

    def _broke(self, failure: PoprepError) -> None:
        """Count messages in a row at which the session broke. Raises `failure` when it must be the server's fault."""
        self._broken += 1
        if self._broken >= ALIKE:
            raise failure

    def _accept_some(self) -> None:
        self._accepted += 1
        self._taken += 1
        if self._refused:
            self.settle()

    def _note(self, message: Message, outcome: str, why: str) -> None:
        self._report.say(1, f"{outcome} {printable(message.uidl)}: {why}")
        self._report.messages.append(Note(printable(message.uidl), outcome, why))

    def _refusals(self, verdicts: tuple[Verdict, ...], now: str) -> list[Refusal]:
        conceal = self._report.redactor.conceal
        return [refusal(verdict.path, verdict.stage, conceal(str(verdict.reply)), now) for verdict in verdicts]

    def _drop(self) -> None:
        if self._submission is not None:
            self._submission.close()
            self._submission = None


def _ended_by_the_server(outcome: Outcome) -> bool:
    """Whether the session was ended before the mail data (421, RFC 5321 3.8): the letter may be sent in another one."""
    verdicts = outcome.deferred
    return bool(verdicts) and not outcome.accepted and all(one.reply.code == 421 for one in verdicts)


def _why(verdicts: tuple[Verdict, ...]) -> str:
    first = verdicts[0]
    return f"{printable(first.path)} at {first.stage}: {first.reply}"
