"""Retention: the rules of the server's copy, the guard against a mass that is due at once, and clocks that go any way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poprep_cli.config.model import ServerCopy
from poprep_cli.engine.clock import parse, stamp
from poprep_cli.engine.expiry import expires_sooner
from poprep_cli.engine.retention import (
    DONE_WITH,
    MASS,
    NO_MASS,
    WAIT,
    Mass,
    Order,
    begin_anew,
    deletion_due,
    first_sight,
    guarded_days,
    mass_of,
    waits_until,
)
from poprep_cli.engine.state import STATUSES, Entry

NOW = datetime(2026, 11, 23, 9, 41, tzinfo=UTC)
AFTER_14 = ServerCopy(remove_after_days=14)


def entry(status: str = "delivered", *, days: float = 0) -> Entry:
    return Entry(stamp(NOW - timedelta(days=days)), status, stamp(NOW))


# ---------------------------------------------------------------------- rules and orders


@pytest.mark.parametrize("status", sorted(STATUSES - set(DONE_WITH)))
@pytest.mark.parametrize(
    "rule",
    [
        ServerCopy(leave_copy=False),
        ServerCopy(remove_after_delivered=True),
        ServerCopy(remove_after_days=0),
        Order(ServerCopy(leave_copy=False), 0),
        Order(ServerCopy(leave_copy=False)),
    ],
)
def test_what_is_not_done_with_is_never_due(status: str, rule: ServerCopy | Order) -> None:
    assert deletion_due(entry(status, days=10_000), rule, NOW) == ""


# status, days since it was first seen, the order -> why
ORDERS = [
    ("delivered", 90, Order(ServerCopy(), 90), "first seen 90 days ago (--older-than 90)"),
    ("discarded", 91, Order(ServerCopy(), 90), "first seen 91 days ago (--older-than 90)"),
    ("delivered", 89.9, Order(ServerCopy(), 90), ""),
    ("delivered", 0, Order(ServerCopy(), 0), "first seen 0 days ago (--older-than 0)"),
    ("delivered", 20, Order(AFTER_14, 90), ""),  # the order overrides the days, in both directions
    ("delivered", 10, Order(AFTER_14, 7), "first seen 10 days ago (--older-than 7)"),
    ("delivered", 20, Order(AFTER_14), "first seen 20 days ago (remove_after_days = 14)"),
    ("delivered", 10_000, Order(ServerCopy()), ""),
    ("delivered", 0, Order(ServerCopy(leave_copy=False)), "delivered (leave_copy = false)"),
    ("badmail", 10_000, Order(ServerCopy(), 90), ""),
    ("badmail", 0, Order(ServerCopy(), rejected=True), "in badmail"),
    ("badmail", 90, Order(ServerCopy(), 90, rejected=True), "first seen 90 days ago (in badmail)"),
    ("badmail", 89, Order(ServerCopy(), 90, rejected=True), ""),
    ("held", 90, Order(ServerCopy(), 0, rejected=True), ""),
]


@pytest.mark.parametrize(("status", "days", "order", "why"), ORDERS)
def test_an_order(status: str, days: float, order: Order, why: str) -> None:
    assert deletion_due(entry(status, days=days), order, NOW) == why


def test_a_time_that_is_none_makes_nothing_old() -> None:
    assert deletion_due(Entry("soon", "delivered", "soon"), AFTER_14, NOW) == ""


GUARDED = [
    (ServerCopy(), None),
    (AFTER_14, 14),
    (ServerCopy(remove_after_days=0), None),  # the clock plays no part in it
    (ServerCopy(leave_copy=False), None),
    (ServerCopy(remove_after_days=14, remove_after_delivered=True), None),
    (Order(AFTER_14), 14),
    (Order(AFTER_14, rejected=True), 14),
    (Order(AFTER_14, 14), None),
]


@pytest.mark.parametrize(("rule", "days"), GUARDED)
def test_which_rules_are_guarded(rule: ServerCopy | Order, days: int | None) -> None:
    assert guarded_days(rule) == days


# ---------------------------------------------------------------------- the guard


def due(count: int, days: float = 15) -> list[str]:
    return [stamp(NOW - timedelta(days=days))] * count


@pytest.mark.parametrize(
    ("count", "kept", "waits"),
    [
        (0, 0, False),
        (19, 19, False),
        (20, 20, True),
        (20, 39, True),
        (20, 40, False),
        (21, 40, True),
        (99, 1000, False),
    ],
)
def test_a_mass_is_more_than_half_and_at_least_twenty(count: int, kept: int, waits: bool) -> None:
    mass = mass_of(due(count), kept, 14, NO_MASS, NOW)
    assert mass == (Mass(stamp(NOW), stamp(NOW), count, 14) if waits else NO_MASS)
    assert waits_until(mass, NOW) == (stamp(NOW + WAIT) if waits else "")


def begun(minutes: float, *, days: int = 14, seen: float | None = None) -> Mass:
    since = NOW - timedelta(minutes=minutes)
    return Mass(stamp(since), stamp(NOW - timedelta(minutes=minutes if seen is None else seen)), 30, days)


# minutes since the guard began, when it was last seen, its days, those due (days since first seen) -> waits
WAITS = [
    (59.9, None, 14, due(30), True),
    (60, None, 14, due(30), False),
    (60, -1, 14, due(30), True),  # the clock went back since: nobody knows how long the wait was
    (10_000, None, 14, due(30, 30), False),
    (60, None, 7, due(30), True),  # by other days
    (60, None, 14, due(20) + due(10, 14.01), False),  # a few became due while it waited
    (60, None, 14, due(5) + due(25, 14.01), True),  # another mass did
    (-5, -5, 14, due(30), True),
]


@pytest.mark.parametrize(("minutes", "seen", "days", "those", "waits"), WAITS)
def test_the_wait(minutes: float, seen: float | None, days: int, those: list[str], waits: bool) -> None:
    mass = mass_of(those, 40, 14, begun(minutes, days=days, seen=seen), NOW)
    assert bool(waits_until(mass, NOW)) == waits
    assert mass.seen == stamp(NOW)
    if minutes == 59.9:
        assert mass.since == begun(minutes).since


def test_a_mass_that_is_none_any_more_is_forgotten() -> None:
    assert mass_of(due(10), 40, 14, begun(30), NOW) == NO_MASS


def test_an_unreadable_guard_begins_again() -> None:
    assert mass_of(due(30), 40, 14, Mass("soon", "soon", 30, 14), NOW) == Mass(stamp(NOW), stamp(NOW), 30, 14)


# ---------------------------------------------------------------------- first_seen


def test_new_mail_is_never_older_than_what_is_recorded() -> None:
    recorded = ["", "soon", "2026-11-01T00:00:00Z", stamp(NOW)]
    assert first_sight(datetime(1970, 1, 1, tzinfo=UTC), recorded) == NOW
    assert first_sight(NOW + timedelta(1), recorded) == NOW + timedelta(1)
    assert first_sight(datetime(1970, 1, 1, tzinfo=UTC), []).year == 2020
    assert first_sight(NOW, ["9999-12-31T23:59:59-12:00"]) == NOW


def test_days_begin_anew_when_the_clock_is_right_again() -> None:
    behind = Entry(stamp(NOW), "delivered", "1970-01-01T00:00:10Z")
    entries = {b"behind": behind, b"right": entry(), b"by hand": Entry(stamp(NOW), "ignored", "")}
    assert begin_anew(entries, NOW - timedelta(seconds=1)) == []
    assert begin_anew(entries, NOW) == [b"behind"]
    assert deletion_due(behind, AFTER_14, NOW + timedelta(days=1000)) == ""


# ---------------------------------------------------------------------- clocks that go any way


@dataclass
class Mailbox:
    """A connector's passes, as the engine makes them of these functions, under a clock that is told at each."""

    days: int
    entries: dict[bytes, Entry] = field(default_factory=dict)
    guard: Mass = NO_MASS
    last: str = ""
    listed: dict[bytes, tuple[datetime, datetime]] = field(default_factory=dict)  # real time and latest clock so far
    deleted: dict[bytes, tuple[datetime, datetime]] = field(default_factory=dict)  # real time and clock
    masses: list[tuple[datetime, int, int]] = field(default_factory=list)  # clock, deleted, kept
    latest: datetime = datetime(1970, 1, 1, tzinfo=UTC)

    def run(self, real: datetime, clock: datetime, new: int, *, delivers: bool = True) -> None:
        self.latest = max(self.latest, clock)
        recorded = [self.last, *(text for known in self.entries.values() for text in (known.first_seen, known.at))]
        since = stamp(first_sight(clock, recorded))
        for key in begin_anew(self.entries, clock):
            self.entries[key] = Entry(since, self.entries[key].status, stamp(clock))
        for _ in range(new):
            key = b"%d" % len(self.listed)
            self.listed[key] = (real, self.latest)
            self.entries[key] = Entry(since, "seen", stamp(clock))
        if delivers:
            for key, known in self.entries.items():
                if known.status == "seen":
                    self.entries[key] = Entry(known.first_seen, "delivered", stamp(clock))
        self._delete(real, clock)
        self.last = max(self.last, stamp(clock))

    def _delete(self, real: datetime, clock: datetime) -> None:
        rule = ServerCopy(remove_after_days=self.days)
        old = [key for key, known in self.entries.items() if deletion_due(known, rule, clock)]
        kept = sum(known.status == "delivered" for known in self.entries.values())
        self.guard = mass_of([self.entries[key].first_seen for key in old], kept, self.days, self.guard, clock)
        if waits_until(self.guard, clock):
            return
        self.masses.append((clock, len(old), kept))
        for key in old:
            assert self.entries.pop(key).status == "delivered"
            self.deleted[key] = (real, clock)
        if old:
            self.guard = NO_MASS


START = datetime(2026, 11, 1, tzinfo=UTC)
PASSES = st.lists(
    st.tuples(
        st.integers(1, 20 * 24 * 60),  # minutes since the pass before
        st.one_of(st.none(), st.integers(-60 * 365 * 24 * 60, 2 * 365 * 24 * 60)),  # minutes that the clock is wrong by
        st.integers(0, 30),  # new messages
        st.booleans(),  # whether SMTP takes them
    ),
    max_size=12,
)


@given(st.integers(1, 30), PASSES)
def test_by_the_clock_nothing_is_deleted_early(days: int, passes: Sequence[tuple[int, int | None, int, bool]]) -> None:
    """No clock that anybody ever showed until a message was listed is less than n days before that of its deletion."""
    mailbox, real = Mailbox(days), START
    for minutes, wrong, new, delivers in passes:
        real += timedelta(minutes=minutes)
        mailbox.run(real, real + timedelta(minutes=wrong or 0), new, delivers=delivers)
    for key, (_, clock) in mailbox.deleted.items():
        assert clock - mailbox.listed[key][1] >= timedelta(days=days)


@given(st.integers(1, 30), PASSES)
def test_a_clock_that_is_right_or_set_back_deletes_nothing_early(
    days: int, passes: Sequence[tuple[int, int | None, int, bool]]
) -> None:
    """Where a wrong clock is behind the pass before, as with 1970, all have their n real days on the server."""
    mailbox, real, right = Mailbox(days), START, START
    for minutes, wrong, new, delivers in passes:
        real += timedelta(minutes=minutes)
        if wrong is None:
            right = real
            mailbox.run(real, real, new, delivers=delivers)
        elif right > START:
            mailbox.run(real, right - timedelta(minutes=1 + abs(wrong)), new, delivers=delivers)
        else:
            mailbox.run(real, datetime(1970, 1, 1, 0, minutes % 60, tzinfo=UTC), new, delivers=delivers)
    for key, (deleted, _) in mailbox.deleted.items():
        assert deleted - mailbox.listed[key][0] >= timedelta(days=days)


@given(st.integers(1, 30), PASSES)
def test_a_mass_is_deleted_only_by_a_later_pass(days: int, passes: Sequence[tuple[int, int | None, int, bool]]) -> None:
    """Before most of the mail goes, a pass at least an hour earlier, by its clock, has found most of the mail due."""
    mailbox, real = Mailbox(days), START
    waited: list[datetime] = []
    for minutes, wrong, new, delivers in passes:
        real += timedelta(minutes=minutes)
        clock, before = real + timedelta(minutes=wrong or 0), len(mailbox.masses)
        mailbox.run(real, clock, new, delivers=delivers)
        if len(mailbox.masses) == before:
            waited.append(clock)
            continue
        _, count, kept = mailbox.masses[-1]
        if count >= MASS and 2 * count > kept:
            assert waited
            assert clock - waited[-1] >= timedelta(0)
            assert any(clock - earlier >= WAIT for earlier in waited)
        waited.clear()


def test_mail_goes_in_the_end() -> None:
    mailbox = Mailbox(14)
    for day in range(60):
        mailbox.run(START + timedelta(days=day), START + timedelta(days=day), 30 if day == 0 else 1)
    assert len(mailbox.entries) == 14
    assert mailbox.deleted[b"0"][0] == START + timedelta(days=15)  # a day later than due: it was a mass
    assert parse(mailbox.entries[b"88"].first_seen) == START + timedelta(days=59)


# ---------------------------------------------------------------------- EXPIRE

AT_ONCE = ServerCopy(leave_copy=False)
EXPIRIES = [
    ((), ServerCopy(), ""),
    (("NEVER",), ServerCopy(), ""),
    (("soon",), ServerCopy(), ""),
    (("30",), ServerCopy(), "deletes mail by itself after 30 days (EXPIRE 30), sooner than leave_copy = true does"),
    (("30",), AFTER_14, ""),
    (("14",), AFTER_14, ""),
    (("7",), AFTER_14, "deletes mail by itself after 7 days (EXPIRE 7), sooner than remove_after_days = 14 does"),
    (
        ("7", "USER"),
        AFTER_14,
        "deletes mail by itself after 7 days, for some users later (EXPIRE 7 USER), sooner than remove_after_days = 14 does",
    ),
    (("0",), AFTER_14, "may delete mail as soon as it was read (EXPIRE 0), whatever remove_after_days = 14 says"),
    (("0",), ServerCopy(remove_after_days=0), ""),
    (("0",), AT_ONCE, ""),
    (("0",), ServerCopy(remove_after_delivered=True), ""),
]


@pytest.mark.parametrize(("words", "server_copy", "said"), EXPIRIES)
def test_expire(words: tuple[str, ...], server_copy: ServerCopy, said: str) -> None:
    assert expires_sooner(words, server_copy) == said
