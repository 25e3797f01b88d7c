"""More sessions within one run, for servers that list only so much of their mail at a time and hide what was read or deleted."""

from __future__ import annotations

import time
from collections.abc import Collection

from msgspec.structs import replace

from poprep_cli.engine import clock, status
from poprep_cli.engine.due import login_delay
from poprep_cli.engine.plan import Plan, plan
from poprep_cli.engine.visit import Visit, survivable
from poprep_cli.errors import AuthenticationFailed, PoprepError, TemporaryReplyError
from poprep_cli.net.dialogue import VERBOSE
from poprep_cli.net.maildrop import Maildrop
from poprep_cli.protocol.pop3 import Reply

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
        self._full_before = visit.status.full
        self.tried: set[bytes] = set()

    def begin(self, decided: Plan) -> None:
        """Count a session that is about to do this."""
        if not self._count:
            self._visit.status.full = False
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
        if before is None or not self._may_have_been_capped():
            return None
        self._visit.status.full = True
        if not (self._has_room() and self._is_suspect(before)):
            return None
        self._listed |= {one.uidl for one in before.listed}
        report = self._visit.report
        try:
            maildrop = self._visit.access.arrive(again=True)
            decided = self._decide(maildrop)
            self._remember("yes" if any(step.listed.uidl not in self._listed for step in decided.fetch) else "no")
            if decided.fetch:
                report.listed += sum(one.uidl not in self._listed for one in maildrop.listed)
                return maildrop, decided
            maildrop.quit()
        except PoprepError as error:
            survivable(error, self._visit.stop)
            if _is_too_soon(error, before):
                self._remember("delayed")
            report.say(VERBOSE, f"the next pass looks whether there is more: {error}")
        return None

    def _may_have_been_capped(self) -> bool:
        """Whether the last session read so much that its listing may have been a part, and no limit of ours cut it short."""
        limits = self._visit.connector.limits
        return (
            self._visit.report.received - self._received >= FULL
            and (not limits.max_messages or len(self.tried) < limits.max_messages)
            and (not limits.max_octets or self._octets < limits.max_octets)
        )

    def _has_room(self) -> bool:
        return self._count < ROUNDS and time.monotonic() < self._deadline

    def _is_suspect(self, maildrop: Maildrop) -> bool:
        """Whether anything besides the number says that the server lists a part: itself, or what is remembered.

        EXPIRE 0 (RFC 2449 6.7) is how a server says that it drops, or hides, what was read. Gmail does, and announces a
        LOGIN-DELAY that it does not keep to: that is worth one try.
        """
        found = status.capped(self._visit.status, clock.now())
        capabilities = maildrop.capabilities
        drops_read = capabilities.get("EXPIRE", ())[:1] == ("0",)
        if found in ("no", "delayed") or (_delay(maildrop) and not drops_read):
            return False
        return drops_read or not capabilities or found == "yes" or self._full_before

    def _remember(self, found: str) -> None:
        status.remember_capped(self._visit.status, found, clock.now())

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


def _delay(maildrop: Maildrop) -> int:
    """Return the seconds between logins that the server asks for."""
    return login_delay(maildrop.capabilities.get("LOGIN-DELAY", ()))


def _is_too_soon(error: PoprepError, before: Maildrop) -> bool:
    """Whether the server keeps to its LOGIN-DELAY: by RFC 2449 8.1.1 it says so, but any refusal tells enough where it asks for one."""
    if isinstance(error, TemporaryReplyError) and isinstance(error.reply, Reply) and error.reply.code == "LOGIN-DELAY":
        return True
    return bool(_delay(before)) and isinstance(error, AuthenticationFailed)
