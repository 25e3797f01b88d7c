"""More sessions within one run, for servers that list only so much of their mail at a time and hide what was read or deleted."""

from __future__ import annotations

import time
from collections.abc import Collection

from msgspec.structs import replace

from poprep_cli.engine.due import login_delay
from poprep_cli.engine.plan import Plan, plan
from poprep_cli.engine.visit import Visit, survivable
from poprep_cli.errors import PoprepError
from poprep_cli.net.dialogue import VERBOSE
from poprep_cli.net.maildrop import Maildrop

FULL = 100  # messages read in a session: with fewer the listing was hardly a part of the mailbox (Gmail's has some hundreds)
ROUNDS = 50  # sessions in one run at most


class Rounds:
    """What was done in the sessions of one run so far, and whether another one is worthwhile.

    `tried` are the keys of what they set out to fetch: none of it is fetched twice, so that a server that shows the same
    mail for ever ends the run.
    """

    def __init__(self, visit: Visit, deadline: float) -> None:
        """Prepare. After `deadline` (monotonic seconds) there is no other session."""
        self._visit = visit
        self._deadline = deadline
        self._count = 0
        self._octets = 0
        self._received = 0
        self._listed: set[bytes] = set()
        self.tried: set[bytes] = set()

    def begin(self, decided: Plan) -> None:
        """Count a session that is about to do this."""
        self._count += 1
        self._octets += sum(step.listed.size for step in decided.fetch)
        self._received = self._visit.report.received
        self._visit.report.new += len(decided.fetch)
        self.tried |= {step.listed.uidl for step in decided.fetch}

    def another(self) -> tuple[Maildrop, Plan] | None:
        """Log in again and return the session with what it is to do; None if there is no reason to, or nothing new.

        The session before must have ended by QUIT. Raises Stopped and StateError only: what can't be had now, the next
        pass will have.
        """
        before = self._visit.access.maildrop
        if before is None or not self._is_worthwhile(before):
            return None
        self._listed |= {one.uidl for one in before.listed}
        report = self._visit.report
        try:
            maildrop = self._visit.access.arrive(again=True)
            decided = self._decide(maildrop)
            if decided.fetch:
                report.listed += sum(one.uidl not in self._listed for one in maildrop.listed)
                return maildrop, decided
            maildrop.quit()
        except PoprepError as error:
            survivable(error, self._visit.stop)
            report.say(VERBOSE, f"the next pass looks whether there is more: {error}")
        return None

    def _is_worthwhile(self, maildrop: Maildrop) -> bool:
        limits = self._visit.connector.limits
        return (
            self._visit.report.received - self._received >= FULL
            and self._count < ROUNDS
            and time.monotonic() < self._deadline
            and not login_delay(maildrop.capabilities.get("LOGIN-DELAY", ()))
            and (not limits.max_messages or len(self.tried) < limits.max_messages)
            and (not limits.max_octets or self._octets < limits.max_octets)
        )

    def _decide(self, maildrop: Maildrop) -> Plan:
        visit = self._visit
        limits = visit.connector.limits
        left = replace(
            limits,
            max_messages=limits.max_messages and limits.max_messages - len(self.tried),
            max_octets=limits.max_octets and limits.max_octets - self._octets,
        )
        fresh = [one for one in maildrop.listed if one.uidl not in self.tried]
        waiting: Collection[bytes] = {item.slip.message_uidl for item in visit.held.items()}
        decided = plan(fresh, visit.journal.entries, waiting, visit.connector.server_copy, left, visit.began)
        visit.report.say(
            1 if decided.fetch else VERBOSE,
            f"{maildrop.server}: logged in again, {len(maildrop.listed)} listed, {len(decided.fetch)} to fetch",
        )
        # What is due by its days was decided about by the first session.
        return replace(decided, delete=(), verify=())
