"""When mail that is done with may be deleted from the server, and why a clock can't make that early. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache

import msgspec

from poprep_cli.config.model import ServerCopy
from poprep_cli.engine.clock import parse, stamp
from poprep_cli.engine.state import Entry

DONE_WITH = ("delivered", "discarded")
MASS = 20  # messages; fewer that are due at once are no reason to wait
WAIT = timedelta(hours=1)
# No right clock is behind this, poprep is younger. Computers without a battery for their clock start in 1970 or 2000.
DAWN = datetime(2020, 1, 1, tzinfo=UTC)


class Order(msgspec.Struct, frozen=True):
    """What the user tells `purge` to delete: what `server_copy` says is due, or what was first seen `older_than` days ago.

    With `rejected` the server's copies of what is in badmail go too, at once unless there is an `older_than`.
    """

    server_copy: ServerCopy
    older_than: int | None = None
    rejected: bool = False


class Mass(msgspec.Struct, frozen=True, omit_defaults=True):
    """Most of the kept mail became due at once: since when that is known, when it was last so, how many, by how many days."""

    since: str = ""
    seen: str = ""
    due: int = 0
    days: int = 0


NO_MASS = Mass()


def deletion_due(entry: Entry, rule: ServerCopy | Order, now: datetime) -> str:
    """Return why a message is to be deleted from the server now, or "" if it is not: what is not done with never is."""
    if isinstance(rule, Order):
        return _ordered(entry, rule, now)
    if entry.status not in DONE_WITH:
        return ""
    if not rule.leave_copy:
        return f"{entry.status} (leave_copy = false)"
    if rule.remove_after_delivered:
        return f"{entry.status} (remove_after_delivered)"
    if rule.remove_after_days is None:
        return ""
    return _old(entry, rule.remove_after_days, f"remove_after_days = {rule.remove_after_days}", now)


def _ordered(entry: Entry, order: Order, now: datetime) -> str:
    if entry.status == "badmail" and order.rejected:
        return "in badmail" if order.older_than is None else _old(entry, order.older_than, "in badmail", now)
    if order.older_than is None or entry.status not in DONE_WITH:
        return deletion_due(entry, order.server_copy, now)
    return _old(entry, order.older_than, f"--older-than {order.older_than}", now)


def _old(entry: Entry, days: int, why: str, now: datetime) -> str:
    text = entry.first_seen
    if is_undated(entry) or (len(text) == 20 and text[-1] == "Z" and text > _latest_due(days, now)):
        return ""
    try:
        age = now - parse(text)
    except ValueError:
        return ""
    return f"first seen {age.days} days ago ({why})" if age >= timedelta(days=days) else ""


@lru_cache(maxsize=4)
def _latest_due(days: int, now: datetime) -> str:
    """Return the first_seen of what is just old enough: most of 200,000 kept messages need no more than a comparison."""
    return stamp(now - timedelta(days=days))


# ---------------------------------------------------------------------- the mass guard


def guarded_days(rule: ServerCopy | Order) -> int | None:
    """Return after how many days `rule` deletes, None if the clock plays no part in it, or the user's order is explicit."""
    if isinstance(rule, Order):
        return guarded_days(rule.server_copy) if rule.older_than is None else None
    # With 0 days it is the number of passes that counts, not time.
    return None if not rule.leave_copy or rule.remove_after_delivered else rule.remove_after_days or None


def mass_of(due: Sequence[str], kept: int, days: int, before: Mass, now: datetime) -> Mass:
    """Return the guard after a pass that finds these due by `days`, given by first_seen, of `kept` that are done with.

    It begins with this pass if it was not there before, or the clock went back since, or the days are others, or what
    became due since is a mass by itself.
    """
    if not _is_mass(len(due), kept):
        return NO_MASS
    try:
        since, seen = parse(before.since), parse(before.seen)
    except ValueError:
        return Mass(stamp(now), stamp(now), len(due), days)
    fresh = sum(since - parse(first_seen) < timedelta(days=days) for first_seen in due)
    if now < seen or before.days != days or _is_mass(fresh, kept):
        return Mass(stamp(now), stamp(now), len(due), days)
    return Mass(before.since, stamp(now), len(due), days)


def waits_until(mass: Mass, now: datetime) -> str:
    """Return until when (RFC 3339) what is due waits, "" if it may be deleted now."""
    if mass == NO_MASS:
        return ""
    until = parse(mass.since) + WAIT
    return stamp(until) if now < until else ""


def _is_mass(due: int, kept: int) -> bool:
    return due >= MASS and 2 * due > kept


# ---------------------------------------------------------------------- first_seen


def first_sight(now: datetime, recorded: Iterable[str]) -> datetime:
    """Return when mail that is new now counts as first seen: never before any time that was recorded, nor before 2020."""
    return max([now, DAWN, *_moments(recorded)])


def _moments(recorded: Iterable[str]) -> Iterable[datetime]:
    for text in set(recorded):
        try:
            moment = parse(text)
        except ValueError:
            continue
        if moment.year < 9999:  # the end of time is nobody's clock
            yield moment


def is_undated(entry: Entry) -> bool:
    """Whether the message was listed while the clock was behind, which an `at` before its first_seen says."""
    return "" != entry.at < entry.first_seen


def begin_anew(entries: Mapping[bytes, Entry], now: datetime) -> list[bytes]:
    """Return the messages whose days begin now: nobody knows for how long the clock was behind when they were listed."""
    present = stamp(now)
    return [
        key
        for key, entry in entries.items()
        if entry.at < entry.first_seen <= present and is_undated(entry) and entry.status != "deleted"
    ]
