"""Files what became of a message: delivered, held for another pass, in badmail, discarded; on disk and in the journal."""

from __future__ import annotations

from collections.abc import Container, Iterable
from datetime import datetime, timedelta

from poprep_cli.engine import clock, content
from poprep_cli.engine.envelope import POSSIBLE_DUPLICATE
from poprep_cli.engine.letters import Job, Setback
from poprep_cli.engine.state import named
from poprep_cli.engine.store import Item, Refusal, Slip, refusal
from poprep_cli.engine.visit import Visit
from poprep_cli.net.transaction import Verdict
from poprep_cli.protocol.wire import printable

KEPT_REFUSALS = 20  # of a message, in its slip
SPOOL_FULL = "the spool is full (limits.max_held): nothing more is downloaded until held mail is delivered"
OUT_OF_TIME = "limits.max_seconds is over: what was read and not delivered is held for the next pass"


class Filing:
    """One connector's, during a pass. `delivered` reaches the file with the journal's next flush, all else at once."""

    def __init__(self, visit: Visit) -> None:
        self._rules = visit.connector.delivery
        self._journal = visit.journal
        self._held = visit.held
        self._badmail = visit.badmail
        self._report = visit.report
        self._clock = clock.Ticks()
        self._limit = visit.connector.limits.max_held
        self._spooled: int | None = None  # octets in the spool, counted once something is added

    def _now(self) -> str:
        return clock.stamp(self._clock.now())

    def sending(self, job: Job) -> None:
        """Record that the end of a message is about to be sent, where a kill can't undo it."""
        self._journal.record(job.message.uidl, "sending", self._now())
        self._journal.flush()

    def delivered(self, job: Job, extensions: Container[str]) -> None:
        """File a message that all its recipients have got. `extensions` are those of the server that took it."""
        message = job.message
        short = message.is_short
        self._journal.record(
            message.uidl,
            "delivered",
            self._now(),
            octets=message.octets,
            fingerprint=message.fingerprint,
            short=short,
        )
        self._report.delivered += 1
        self._report.octets += message.octets
        for remark in content.remarks(message, extensions):
            self._report.remarks[remark] += 1
        if self._report.level:
            to = ", ".join(printable(path) for path in job.letter.forward_paths)
            self._report.say(1, f"delivered {named(message.uidl)} ({message.octets:,} octets) to {to}")
        if message.in_doubt:
            why = "an earlier pass ended in doubt; the copy is marked X-Poprep-Possible-Duplicate"
            self._report.note(message.uidl, "delivered again", why)
        if short:
            why = f"{message.octets:,} octets came where LIST said {message.listed_octets:,}; a second read decides about deletion"
            self._report.note(message.uidl, "delivered, kept on the server", why)
        self._let_go(job)

    def hold(self, job: Job, why: str, *, done: Iterable[bytes] = ()) -> None:
        """Keep a message for the next pass, for those recipients that have not got it. It does not age by that."""
        settled = set(done)
        left = [path for path in job.letter.forward_paths if path not in settled]
        self.still_held(self._keep(job, left, (), why))

    def wait(self, job: Job) -> None:
        """Keep a message for which this pass has no time left. Nothing is wrong with it, so it is not told by itself."""
        if job.item is None:
            item = self._keep(job, list(job.letter.forward_paths), (), OUT_OF_TIME)
            self._report.say(1, f"held {named(job.message.uidl)}: {item.slip.why}")
        if OUT_OF_TIME not in self._report.advice:
            self._report.advice.append(OUT_OF_TIME)

    def keep(self, job: Job, verdicts: tuple[Verdict, ...]) -> Item:
        """Hold a message for the recipients of these verdicts, until it is clear whose fault they are. Nothing is told."""
        return self._keep(job, [verdict.path for verdict in verdicts], verdicts, reason(verdicts))

    def still_held(self, item: Item) -> None:
        """Tell that a message stays held, since the fault is the server's. From now on it does not age."""
        self.rest(item)
        self._tell_held(item)

    def rest(self, item: Item) -> None:
        """Note that a held message does not age: the fault is the server's."""
        slip = item.slip
        if slip.deferred_since and not slip.outage_since:
            slip.outage_since = clock.stamp(clock.now())
            self._held.update(item)

    def deferred(self, item: Item) -> None:
        """File a held message that the server has deferred for itself: given up after delivery.retry_days of that."""
        slip, now = item.slip, clock.now()
        age = _age(slip, now)
        days = self._rules.retry_days
        if slip.deferred_since and age > timedelta(days=days):
            slip.why = f"deferred for more than {days} days (delivery.retry_days), at last: {slip.why}"
            self._condemn(item)
            return
        if slip.outage_since or not slip.deferred_since:
            slip.deferred_since, slip.outage_since = clock.stamp(now - age), ""
            self._held.update(item)
        self._tell_held(item)

    def _tell_held(self, item: Item) -> None:
        self._report.deferred += 1
        self._report.note(item.slip.message_uidl, "held", item.slip.why)

    def refused(self, item: Item, *, fresh: bool) -> None:
        """File a message that the server does not want, as delivery.on_reject says. `fresh`: it was read in this pass.

        What was held since an earlier pass may be gone from the mailbox, so that nobody would have it any more: it is kept
        as badmail even where the rule is to leave such mail on the server.
        """
        uidl, why = item.slip.message_uidl, item.slip.why
        if self._rules.on_reject == "discard":
            self._drop(item, "discarded")
            self._report.say(1, f"discarded {named(uidl)} (delivery.on_reject): {why}")
        elif self._rules.on_reject == "keep" and fresh:
            self._drop(item, "ignored")
            self._report.rejected += 1
            self._report.note(uidl, "left on the server", f"not to be tried again (delivery.on_reject): {why}")
        else:
            self._condemn(item)

    def set_back(self, job: Job, setback: Setback) -> None:
        """File a message that is not sent, by our own rules."""
        if setback.action == "hold":
            if job.item is None:
                self.hold(job, setback.why)
            return
        left = list(job.letter.forward_paths) if setback.readdressable else []
        item = self._keep(job, left, (), setback.why)
        if setback.action == "discard":
            self._drop(item, "discarded")
            self._report.say(1, f"discarded {named(job.message.uidl)} (routing.no_match): {setback.why}")
        else:
            self._condemn(item)

    def _keep(self, job: Job, left: list[bytes], verdicts: tuple[Verdict, ...], why: str) -> Item:
        message, now = job.message, clock.stamp(clock.now())
        slip = job.item.slip if job.item is not None else self._slip(job, now)
        slip.forward_paths = [path.decode() for path in left]
        slip.in_doubt = slip.in_doubt or message.in_doubt
        slip.refusals = [*slip.refusals, *self._refusals(verdicts, now)][-KEPT_REFUSALS:]
        slip.attempts += bool(verdicts)
        slip.breaks += job.broke
        slip.why = self._report.redactor.conceal(why)
        if job.item is None:
            item = self._held.add(message, slip)
            self._spooled = self._held.octets() if self._spooled is None else self._spooled + message.octets
        else:
            item = job.item
            self._held.update(item)
        self._journal.record(
            message.uidl, "held", now, octets=message.octets, fingerprint=slip.fingerprint, short=message.is_short
        )
        self._journal.flush()
        return item

    def _slip(self, job: Job, now: str) -> Slip:
        message = job.message
        known = self._journal.entries.get(message.uidl)
        return Slip(
            first_seen=known.first_seen if known else now,
            since=now,
            reverse_path=job.letter.reverse_path.decode("utf-8", "replace"),
            forward_paths=[],
            octets=message.octets,
            canonical=message.canonical,
            eight_bit=message.eight_bit,
            nul=message.nul,
            long_lines=message.long_lines,
            fingerprint=message.fingerprint,
            listed_octets=message.listed_octets if message.is_short else 0,
            trace=job.letter.front.removesuffix(POSSIBLE_DUPLICATE).decode("ascii", "replace"),
        )

    def _condemn(self, item: Item) -> None:
        moved = self._badmail.take(item, self._held)
        self._freed(item)
        self._record(item, "badmail")
        self._report.rejected += 1
        self._report.note(item.slip.message_uidl, "badmail", f"{item.slip.why} ({moved.path})")

    def _drop(self, item: Item, status: str) -> None:
        self._record(item, status)  # first: a crash in between leaves a copy too many, not one too few
        self._held.remove(item)
        self._freed(item)

    def _record(self, item: Item, status: str) -> None:
        self._journal.record(item.slip.message_uidl, status, clock.stamp(clock.now()))
        self._journal.flush()

    def _let_go(self, job: Job) -> None:
        if job.item is None:
            job.message.discard()
            return
        self._journal.flush()  # the record before the copy goes
        self._held.remove(job.item)
        self._freed(job.item)

    def is_full(self) -> bool:
        """Whether what was held in this pass has filled the spool (limits.max_held)."""
        if not self._limit or self._spooled is None or self._spooled < self._limit:
            return False
        if SPOOL_FULL not in self._report.advice:
            self._report.advice.append(SPOOL_FULL)
        return True

    def _freed(self, item: Item) -> None:
        if self._spooled is not None:
            self._spooled -= item.slip.octets

    def _refusals(self, verdicts: tuple[Verdict, ...], now: str) -> list[Refusal]:
        conceal = self._report.redactor.conceal
        return [refusal(verdict.path, verdict.stage, conceal(str(verdict.reply)), now) for verdict in verdicts]


def _age(slip: Slip, now: datetime) -> timedelta:
    """Return for how long the server has deferred a message. An outage, and the time up to its end, does not count."""
    try:
        until = clock.parse(slip.outage_since) if slip.outage_since else now
        return max(until - clock.parse(slip.deferred_since), timedelta())
    except ValueError:  # among others if it was never deferred
        return timedelta()


def reason(verdicts: tuple[Verdict, ...]) -> str:
    """Return the first of several verdicts for people."""
    first = verdicts[0]
    return f"{printable(first.path)} at {first.stage}: {first.reply}"
