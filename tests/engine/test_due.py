"""Whether a connector is due: poll_every with cron's jitter, LOGIN-DELAY, and clocks that jump."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poprep_cli.engine.clock import stamp
from poprep_cli.engine.due import MAX_DELAY, delayed_until, login_delay, not_due_until, waits
from poprep_cli.engine.status import Status

LAST = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
moments = st.integers(86_400, 32_000_000_000).map(
    lambda seconds: datetime.fromtimestamp(seconds, UTC)
)  # to the year 2984


# minutes between passes, seconds since the last attempt -> due
DUE = [
    (0, 0, True),
    (0, 1, True),
    (5, 0, False),
    (5, 269, False),
    (5, 270, True),  # the tolerance is 30 s here ...
    (5, 300, True),
    (1, 53, False),
    (1, 54, True),  # ... and 10 % below five minutes
    (0.1, 5, False),
    (0.1, 5.5, True),
    (60, 3569, False),
    (60, 3570, True),
    (1440, 86_369, False),
    (1440, 86_370, True),
    (5, 1_000_000, True),
    (5, -1, True),  # a last attempt in the future: the clock was wrong
]


@pytest.mark.parametrize(("minutes", "seconds", "due"), DUE)
def test_due(minutes, seconds, due) -> None:
    status = Status(last_attempt=stamp(LAST))
    until = not_due_until(status, minutes, LAST + timedelta(seconds=seconds))
    assert until == ("" if due else stamp(LAST + timedelta(minutes=minutes)))


@pytest.mark.parametrize("last_attempt", ["", "garbage", "2026-13-45T99:99:99Z"])
def test_without_a_last_attempt_it_is_due(last_attempt) -> None:
    assert not_due_until(Status(last_attempt=last_attempt), 5, LAST) == ""


@given(last=moments, now=moments, minutes=st.floats(0, 525_600))
def test_no_clock_makes_it_wait_for_longer_than_the_interval(last, now, minutes) -> None:
    until = not_due_until(Status(last_attempt=stamp(last)), minutes, now)
    elapsed = (now - last).total_seconds()
    if elapsed < 0 or elapsed >= minutes * 60:
        assert until == ""
    elif elapsed < minutes * 60 - min(30, minutes * 6) - 1:
        assert now <= datetime.fromisoformat(until) <= now + timedelta(minutes=minutes)


@given(
    every=st.integers(1, 120),
    ticks=st.lists(st.floats(0, 1), min_size=130, max_size=260),
)
def test_cron_that_is_late_by_a_varying_time_polls_at_the_same_tick(every, ticks) -> None:
    """Cron starts it each minute, late by up to the tolerance: it must not slip to the tick after the one that is meant."""
    most = min(29, every * 60 / 10 - 1)
    status = Status()
    polled = []
    for tick, share in enumerate(ticks):
        now = (LAST + timedelta(minutes=tick, seconds=share * most)).replace(microsecond=0)
        if not not_due_until(status, every, now):
            polled.append(tick)
            status.last_attempt = stamp(now)
    assert polled == list(range(0, len(ticks), every))


# LOGIN-DELAY


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        ((), 0),
        (("900",), 900),
        (("900", "USER"), 900),
        (("0",), 0),
        (("-5",), 0),
        (("soon",), 0),
        (("\u0665",), 0),
        (("999999999999999999999",), MAX_DELAY),
    ],
)
def test_the_arguments_of_login_delay(words, seconds) -> None:
    assert login_delay(words) == seconds


@pytest.mark.parametrize(
    ("seconds", "until"),
    [(0, "09:10:01"), (599, "09:10:01"), (600, "09:10:01"), (601, ""), (-1, ""), (10**6, "")],
)
def test_a_delay_has_no_tolerance(seconds, until) -> None:
    status = Status(last_login=stamp(LAST), login_delay=600)
    found = delayed_until(status, LAST + timedelta(seconds=seconds))
    assert found == (until and f"2026-11-23T{until}Z")


@given(last=moments, now=moments, delay=st.integers(-10, 10**12))
def test_no_clock_makes_it_wait_for_longer_than_a_day_for_the_server(last, now, delay) -> None:
    until = delayed_until(Status(last_login=stamp(last), login_delay=delay), now)
    if until:
        assert last <= now < datetime.fromisoformat(until) <= now + timedelta(seconds=MAX_DELAY + 1)


@pytest.mark.parametrize("last_login", ["", "yesterday"])
def test_a_delay_without_a_login(last_login) -> None:
    assert delayed_until(Status(last_login=last_login, login_delay=600), LAST) == ""


def test_the_later_of_both_is_told() -> None:
    status = Status(last_attempt=stamp(LAST), last_login=stamp(LAST), login_delay=600)
    now = LAST + timedelta(seconds=10)
    assert waits(status, 0, now) == (
        "not due before 2026-11-23T09:10:01Z: the server wants 600 seconds between logins (LOGIN-DELAY)"
    )
    assert waits(status, 60, now) == "not due before 2026-11-23T10:00:00Z (poll_every)"
    assert waits(status, 5, now).startswith("not due before 2026-11-23T09:10:01Z: the server")
    assert waits(Status(), 60, now) == ""
