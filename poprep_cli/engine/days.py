"""From when on a message's days count, whatever the clock says: what a pass does about a clock that is behind."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from poprep_cli.engine.clock import parse, stamp
from poprep_cli.engine.retention import WAIT, begin_anew, first_sight, guarded_days
from poprep_cli.engine.state import Journal
from poprep_cli.engine.visit import Visit


def date_anew(visit: Visit, latest: str) -> None:
    """Date anew what was listed under a clock that was behind, once it is right: before its `at` changes."""
    journal, now = visit.journal, visit.began
    again = begin_anew(journal.entries, now)
    if again:
        since = stamp(first_sight(now, _recorded(journal, latest)))
        for key in again:
            journal.record(key, journal.entries[key].status, stamp(now), first_seen=since)


def date_new(visit: Visit, latest: str, *, new: bool) -> None:
    """See that what is new is dated no earlier than any pass or anything in the journal. Say once what that means.

    `latest` is the latest time that a pass before has had, `new` says whether there is new mail.
    """
    if not new and not _later(latest, visit.began):
        return
    since = first_sight(visit.began, _recorded(visit.journal, latest))
    visit.journal.new_since = stamp(since)
    _tell(visit, since)


def _tell(visit: Visit, since: datetime) -> None:
    days = guarded_days(visit.connector.server_copy)
    told = stamp(since) if since - visit.began > WAIT and days else ""  # a correction by less is daily life
    if told and told != visit.status.told_clock:
        visit.report.advice.append(
            f"the clock is behind: it says {stamp(visit.began)}, but the last record is of {told}; until the clock has "
            f"passed that, no days are counted for new mail, and it is kept for {days} days from then on (if the record is "
            f"what is wrong, correct the times in {visit.journal.path} and `latest` in the .status.json beside it)"
        )
    visit.status.told_clock = told


def _recorded(journal: Journal, latest: str) -> Iterator[str]:
    yield latest
    for entry in journal.entries.values():
        yield entry.first_seen
        yield entry.at


def _later(text: str, now: datetime) -> bool:
    try:
        return parse(text) > now
    except ValueError:
        return False
