"""The end of a POP3 session: what the policy says is deleted, QUIT commits it, and only then is it recorded."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from msgspec.structs import replace

from poprep_cli.config.model import ServerCopy
from poprep_cli.engine import clock, files
from poprep_cli.engine.identity import together, unread_uidls
from poprep_cli.engine.plan import Plan, Step, plan
from poprep_cli.engine.retention import DONE_WITH, NO_MASS, Mass, Order, guarded_days, mass_of, waits_until
from poprep_cli.engine.state import DIGEST, is_late, named
from poprep_cli.engine.visit import Visit
from poprep_cli.errors import ReplyError
from poprep_cli.net.maildrop import Maildrop
from poprep_cli.protocol.pop3 import Reply

Tell = Literal["always", "at its beginning", "never"]


def hold_back(visit: Visit, decided: Plan, rule: ServerCopy | Order, *, tell: Tell = "never") -> tuple[Plan, Mass]:
    """Return the plan without what is due by its days, while most of the kept mail is, and the guard that says so.

    Tell people so always, or only if the guard begins, or never.
    """
    days = guarded_days(rule)
    if days is None:
        return decided, visit.status.mass if isinstance(rule, Order) else NO_MASS
    due = [step for step in (*decided.delete, *decided.verify) if step.status in DONE_WITH]
    mass = mass_of([step.first_seen for step in due], decided.kept, days, visit.status.mass, visit.began)
    until = waits_until(mass, visit.began)
    if not until:
        return decided, mass
    if tell == "always" or (tell == "at its beginning" and mass.since == mass.seen):
        visit.report.advice.append(
            f"{len(due)} of {decided.kept} kept messages became due at once (remove_after_days = {days}): none is "
            f"deleted before {until}, in case the clock is wrong; the first pass after that deletes them, "
            f"purge --older-than {days} does it now"
        )
    waiting = set(due)
    delete, verify = (
        tuple(step for step in steps if step not in waiting) for steps in (decided.delete, decided.verify)
    )
    return replace(decided, delete=delete, verify=verify), mass


class Deletion:
    """Ends one session. Deciding again after the delivery is what makes new mail deletable in the session that moved it.

    An `order` of the user is in place of the configuration's rule.
    """

    def __init__(self, visit: Visit, maildrop: Maildrop, order: Order | None = None) -> None:
        self._visit = visit
        self._rule: ServerCopy | Order = order or visit.connector.server_copy
        self._maildrop = maildrop
        self._guarded = guarded_days(self._rule) is not None
        copy = visit.connector.server_copy
        # After 0 days means: not by the pass that has just delivered it.
        self._next_time = copy.leave_copy and not copy.remove_after_delivered and copy.remove_after_days == 0
        self._journal = visit.journal
        self._connector = visit.connector
        self._report = visit.report
        self._spool = visit.spool

    def run(self, fetched: Collection[bytes], decided: Plan | None = None) -> None:
        """Delete what is due and QUIT. `fetched` are the UIDLs that this pass has read; `decided` is a plan that still holds.

        Raises ReplyError if the server did not commit, ConnectionFailed, RemoteProtocolError, StateError; nothing is
        recorded as deleted then, and the next pass deletes it.
        """
        self._journal.sync()  # what QUIT commits must not be forgotten by a power cut
        if decided is None:
            limits = self._connector.limits
            decided = plan(self._maildrop.listed, self._journal.entries, (), self._rule, limits, self._visit.began)
        tell: Tell = "always" if isinstance(self._rule, Order) else "at its beginning"
        due, self._visit.status.mass = hold_back(self._visit, decided, self._rule, tell=tell)
        # What came short a moment ago waits: the second read is another session's.
        read = {*fetched, *self._read_for_their_keys(fetched)}
        agreed = [step for step in due.verify if step.listed.uidl not in read and self._agrees(step)]
        steps = [step for step in (*due.delete, *agreed) if not (self._next_time and step.listed.uidl in fetched)]
        steps = together(steps, self._maildrop.listed)
        numbers = [step.listed.number for step in steps]
        # In one round trip, where the doubt that a broken line leaves costs no more than a look at the UIDL.
        together_with_quit = self._maildrop.pipelining and not any(DIGEST in step.listed.uidl for step in steps)
        if together_with_quit:
            self._doubt(steps)
            replies, answer = self._maildrop.delete_and_quit(numbers)
        else:
            replies = self._maildrop.delete(numbers)
            self._doubt([step for step in steps if replies[step.listed.number].ok])
            answer = self._maildrop.quit()
        for step in steps:
            reply = replies[step.listed.number]
            if not reply.ok:
                self._report.note(step.listed.uidl, f"{step.status}, not yet deleted", str(reply))
                if together_with_quit:
                    self._journal.update(step.listed.uidl, gone="")
        self._commit([step for step in steps if replies[step.listed.number].ok], answer)

    def _read_for_their_keys(self, fetched: Collection[bytes]) -> set[bytes]:
        """Return the keys, as they are now, of what may have been fetched under a late key."""
        late = {key.partition(DIGEST)[0] for key in fetched if is_late(key)}
        return {one.uidl for one in self._maildrop.listed if one.uidl.partition(DIGEST)[0] in late} if late else set()

    def _commit(self, marked: list[Step], answer: Reply) -> None:
        """Record as deleted what was marked, if the answer to QUIT says so."""
        if not marked:
            self._journal.flush()
            return
        if not answer.ok:
            raise ReplyError(
                f"{self._maildrop.server} did not commit {len(marked)} deletions: {answer}",
                reply=answer,
                hint="the next pass deletes them; nothing is sent twice",
            )
        now = clock.stamp(clock.now())
        unread = unread_uidls(self._maildrop.listed)
        for step in marked:
            uidl = step.listed.uidl
            if uidl.partition(DIGEST)[0] in unread:  # what was not read may be its twin, which must not count as it
                self._journal.record(uidl, "deleted", now, gone="", fingerprint="")
            else:
                self._journal.record(uidl, "deleted", now, gone="")
            self._report.say(1, f"deleted {named(step.listed.uidl)} from the server: {step.reason}")
        self._report.deleted += len(marked)
        if self._guarded and any(step.status in DONE_WITH for step in marked):
            self._visit.status.mass = NO_MASS  # its wait is over; the next mass has its own
        self._journal.flush()

    def _doubt(self, marked: list[Step]) -> None:
        """Note that these may be gone: after a QUIT whose answer is never seen their UIDLs may be other mail's.

        What has no fingerprint couldn't be told from other mail; it goes on being known by its UIDL alone.
        """
        for step in marked:
            entry = self._journal.entries[step.listed.uidl]
            if entry.fingerprint:
                self._journal.update(step.listed.uidl, gone=entry.at)
        self._journal.sync()

    def _agrees(self, step: Step) -> bool:
        """Read a message again that came short; only if it is the same again may it be deleted."""
        from poprep_cli.engine.message import receive

        entry = self._journal.entries[step.listed.uidl]
        for _, reply in self._maildrop.retrieve([step.listed], lambda _message, _wait: True):
            if not reply.ok:
                return False
            files.make_folder(self._spool)
            again = receive(step.listed.uidl, self._maildrop.parts(reply), self._spool / "again.part")
            again.discard()
            if again.octets < step.listed.size:
                self._maildrop.confirm(step.listed)
            return again.octets == entry.octets and again.fingerprint == entry.fingerprint
        return False
