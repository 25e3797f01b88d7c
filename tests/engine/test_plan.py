"""The plan: the rules about the server's copy, what is fetched, and what is left alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poprep_cli.config.model import Limits, ServerCopy
from poprep_cli.engine.clock import stamp
from poprep_cli.engine.plan import Plan, Step, deletion_due, plan
from poprep_cli.engine.state import STATUSES, Entry
from poprep_cli.net.maildrop import Listed

NOW = datetime(2026, 11, 23, 9, 41, tzinfo=UTC)
DELETE_NOW = ServerCopy(leave_copy=False)


def entry(status: str = "delivered", *, days: float = 0, short: bool = False) -> Entry:
    return Entry(stamp(NOW - timedelta(days=days)), status, stamp(NOW), short=short)


def listing(*uidls: bytes, size: int = 100) -> list[Listed]:
    return [Listed(number, uidl, size) for number, uidl in enumerate(uidls, 1)]


def decide(
    listed: list[Listed],
    entries: dict[bytes, Entry] | None = None,
    held: tuple[bytes, ...] = (),
    server_copy: ServerCopy = ServerCopy(),  # noqa: B008 - frozen
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> Plan:
    return plan(listed, entries or {}, held, server_copy, limits, NOW)


def numbers(steps: tuple[Step, ...]) -> list[int]:
    return [step.listed.number for step in steps]


# leave_copy, remove_after_days, remove_after_delivered, days since first seen -> deleted
RULES = [
    (False, None, False, 0, True),
    (False, None, True, 0, True),
    (False, 14, False, 0, True),
    (True, None, False, 0, False),
    (True, None, False, 36_500, False),
    (True, 14, False, 0, False),
    (True, 14, False, 13.999, False),
    (True, 14, False, 14, True),
    (True, 14, False, 15, True),
    (True, 0, False, 0, True),
    (True, 0, False, 1, True),
    (True, None, True, 0, True),
    (True, 14, True, 0, True),
    (True, 14, False, -1, False),  # first seen in the future: a clock that was wrong deletes nothing early
    (True, 0, False, -1, False),
]


@pytest.mark.parametrize(("leave", "days", "delivered", "age", "deleted"), RULES)
@pytest.mark.parametrize("status", ["delivered", "discarded"])
def test_the_server_copy(leave, days, delivered, age, deleted, status) -> None:
    server_copy = ServerCopy(leave_copy=leave, remove_after_days=days, remove_after_delivered=delivered)
    found = decide(listing(b"u"), {b"u": entry(status, days=age)}, server_copy=server_copy)
    assert numbers(found.delete) == ([1] if deleted else [])
    assert not found.fetch
    assert not found.verify


@pytest.mark.parametrize("status", sorted(STATUSES - {"delivered", "discarded"}))
@pytest.mark.parametrize(
    "server_copy", [DELETE_NOW, ServerCopy(remove_after_days=0), ServerCopy(remove_after_delivered=True)]
)
def test_what_is_not_delivered_is_never_deleted(status, server_copy) -> None:
    found = decide(listing(b"u", b"new"), {b"u": entry(status, days=9999)}, server_copy=server_copy)
    assert not found.delete
    assert not found.verify


@pytest.mark.parametrize("server_copy", [DELETE_NOW, ServerCopy(remove_after_days=0)])
def test_what_came_short_is_read_again_before_it_is_deleted(server_copy) -> None:
    found = decide(listing(b"u"), {b"u": entry(short=True)}, server_copy=server_copy)
    assert (numbers(found.verify), numbers(found.delete)) == ([1], [])
    assert found.verify


def test_a_first_sight_that_is_no_time_deletes_nothing() -> None:
    assert deletion_due(Entry("garbage", "delivered", ""), ServerCopy(remove_after_days=0), NOW) == ""


def test_the_reasons_name_the_keys() -> None:
    old = entry(days=20)
    assert deletion_due(old, DELETE_NOW, NOW) == "delivered (leave_copy = false)"
    assert deletion_due(old, ServerCopy(remove_after_days=14), NOW) == "first seen 20 days ago (remove_after_days = 14)"
    assert "remove_after_delivered" in deletion_due(old, ServerCopy(remove_after_delivered=True), NOW)


@pytest.mark.parametrize(
    ("status", "fetched", "in_doubt"),
    [
        (None, True, False),
        ("seen", True, False),
        ("sending", True, True),
        ("oversize", True, False),
        ("held", False, False),
        ("badmail", False, False),
        ("ignored", False, False),
        ("delivered", False, False),
        ("discarded", False, False),
    ],
)
def test_what_is_fetched(status, fetched, in_doubt) -> None:
    found = decide(listing(b"u"), {b"u": entry(status)} if status else {})
    assert [(step.listed.number, step.in_doubt) for step in found.fetch] == ([(1, in_doubt)] if fetched else [])


def test_what_waits_in_the_spool_is_not_fetched() -> None:
    found = decide(listing(b"u"), {b"u": entry("sending")}, held=(b"u",))
    assert (found.fetch, found.delete, found.verify) == ((), (), ())


@pytest.mark.parametrize(
    ("server_copy", "fetched"),
    [
        (ServerCopy(), [2, 1, 3]),
        (ServerCopy(remove_after_days=1), [2, 1, 3]),
        (ServerCopy(remove_after_delivered=True), [2]),
        (DELETE_NOW, [2]),
    ],
)
def test_what_must_be_read_to_be_known_comes_last(server_copy, fetched) -> None:
    listed = listing(b"\r\n?1", b"a", b"b\r\n?3", b"c")
    found = decide(listed, server_copy=server_copy, limits=Limits(max_messages=1))
    assert numbers(found.fetch) == fetched


@pytest.mark.parametrize(("size", "limit", "left"), [(101, 100, True), (100, 100, False), (10**12, 0, False)])
def test_too_large_a_message_is_left(size, limit, left) -> None:
    found = decide(listing(b"u", size=size), limits=Limits(max_message_size=limit))
    assert (len(found.oversize), len(found.fetch)) == ((1, 0) if left else (0, 1))


def test_an_oversize_message_is_fetched_once_the_limit_is_raised() -> None:
    found = decide(listing(b"u", size=200), {b"u": entry("oversize")}, limits=Limits(max_message_size=300))
    assert numbers(found.fetch) == [1]


@pytest.mark.parametrize(
    ("limits", "count"),
    [
        (Limits(), 5),
        (Limits(max_messages=3), 3),
        (Limits(max_octets=250), 2),
        (Limits(max_octets=300), 3),
        (Limits(max_octets=1), 1),  # at least one, so that a limit never stops progress
        (Limits(max_messages=2, max_octets=10_000), 2),
    ],
)
def test_the_limits_of_a_pass(limits, count) -> None:
    found = decide(listing(b"a", b"b", b"c", b"d", b"e"), limits=limits)
    assert numbers(found.fetch) == list(range(1, count + 1))


def test_an_empty_listing_deletes_nothing() -> None:
    assert decide([], {b"u": entry()}, server_copy=DELETE_NOW) == Plan((), (), (), ())


@given(
    uidls=st.lists(st.sampled_from([b"a", b"b", b"c", b"d"]), max_size=4, unique=True),
    statuses=st.dictionaries(st.sampled_from([b"a", b"b", b"c"]), st.sampled_from(sorted(STATUSES))),
    leave=st.booleans(),
)
def test_every_message_is_in_one_place_at_most(uidls, statuses, leave) -> None:
    entries = {uidl: entry(status) for uidl, status in statuses.items()}
    found = decide(listing(*uidls), entries, server_copy=ServerCopy(leave_copy=leave))
    steps = [*found.fetch, *found.delete, *found.verify, *found.oversize]
    assert len({step.listed.number for step in steps}) == len(steps)
    assert not {step.listed.uidl for step in found.fetch} & {step.listed.uidl for step in found.delete}
    for step in found.delete:
        assert entries[step.listed.uidl].status in ("delivered", "discarded")


def test_small_messages_first() -> None:
    listed = [Listed(1, b"a", 300), Listed(2, b"b", 100), Listed(3, b"c", 200), Listed(4, b"d", 100)]
    assert numbers(decide(listed, limits=Limits(small_first=True)).fetch) == [2, 4, 3, 1]
    assert numbers(decide(listed, limits=Limits(small_first=True, max_messages=2)).fetch) == [2, 4]
    assert numbers(decide(listed, limits=Limits(small_first=True, max_octets=450)).fetch) == [2, 4, 3]
