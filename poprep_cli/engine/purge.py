"""A purge of one connector: a POP3 session of its own that deletes what is due, fetches nothing, and knows no SMTP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from poprep_cli.config.model import Connector
from poprep_cli.config.weaknesses import weaknesses
from poprep_cli.engine.adopt import meet_again
from poprep_cli.engine.deletion import Deletion, hold_back
from poprep_cli.engine.plan import Plan, plan
from poprep_cli.engine.report import ConnectorReport
from poprep_cli.engine.retention import Order
from poprep_cli.engine.visit import Surroundings, Visit, told
from poprep_cli.errors import UidlStorm
from poprep_cli.net.dialogue import VERBOSE
from poprep_cli.net.maildrop import Listed, Maildrop
from poprep_cli.net.stop import Stop
from poprep_cli.protocol.wire import printable


@dataclass(frozen=True, slots=True)
class Purge:
    """What the command line asks for. Called with a connector, it is a `Work` for a run.

    `older_than` are days that stand in for the configuration's rule; `rejected` is for the copies of what is in badmail.
    """

    older_than: int | None = None
    rejected: bool = False

    def __call__(
        self, connector: Connector, surroundings: Surroundings, report: ConnectorReport, stop: Stop
    ) -> Plan | None:
        """Delete what is due; everything worth telling goes into `report`, errors too. Return what was to be deleted."""
        order = Order(connector.server_copy, self.older_than, self.rejected)
        decided: Plan | None = None
        with told(report, stop):
            visit = Visit(connector, surroundings, report, stop)
            report.advice.extend(weaknesses(connector))
            with visit:
                maildrop = meet_again(visit, visit.access.arrive())
                report.listed = len(maildrop.listed)
                decided = _decide(visit, maildrop.listed, order)
                count = len(decided.delete) + len(decided.verify)
                report.say(
                    1 if count else VERBOSE,
                    f"{maildrop.server}: logged in by {maildrop.method}{' over TLS' if maildrop.tls else ''}, "
                    f"{report.listed} listed, {count} to delete",
                )
                if surroundings.dry_run:
                    maildrop.quit()
                else:
                    _delete(visit, maildrop, order)
        return decided


def _decide(visit: Visit, listing: Sequence[Listed], order: Order) -> Plan:
    whose = visit.journal.mailbox
    if whose != visit.mailbox and visit.journal.entries:
        raise UidlStorm(
            f"the state is that of {printable(whose)}, and the mailbox now is {visit.mailbox}; nothing was deleted",
            hint=f"poprep poll {visit.connector.name} finds out whether it is the same mail",
        )
    decided = plan(listing, visit.journal.entries, (), order, visit.connector.limits, visit.began)
    decided, _ = hold_back(visit, decided, order, tell="always" if visit.surroundings.dry_run else "never")
    return replace(decided, fetch=(), oversize=())


def _delete(visit: Visit, maildrop: Maildrop, order: Order) -> None:
    report = visit.report
    try:
        Deletion(visit, maildrop, order).run(())
    finally:
        report.deferred = len(report.messages)  # here that is what the server would not delete
    visit.journal.sync()
    visit.journal.compact()
