"""The pause after repeated rejections."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from poprep_cli.engine.backoff import NONE, PAUSES, Rejections, paused_until, rejected

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def after(count: int, now: datetime = NOON) -> Rejections:
    state = NONE
    for _ in range(count):
        state = rejected(state, now)
    return state


@pytest.mark.parametrize(
    ("count", "minutes"), [(0, 0), (1, 0), (2, 5), (3, 15), (4, 60), (5, 240), (6, 240), (50, 240)]
)
def test_how_long_it_waits(count: int, minutes: int) -> None:
    state = after(count)
    assert state.count == count
    assert bool(paused_until(state, NOON)) == bool(minutes)
    if minutes:
        assert paused_until(state, NOON) == (NOON + minutes * MINUTE).strftime("%Y-%m-%dT%H:%M:%SZ")
        assert paused_until(state, NOON + minutes * MINUTE - timedelta(seconds=1))
    assert not paused_until(state, NOON + minutes * MINUTE)


def test_fewer_attempts_than_lock_an_account() -> None:
    now, tried, state = NOON, 0, NONE
    while now < NOON + 30 * MINUTE:
        if not paused_until(state, now):
            state, tried = rejected(state, now), tried + 1
        now += MINUTE
    assert tried == 4


def test_who_has_mended_the_configuration_does_not_wait() -> None:
    state = after(4)
    assert not paused_until(state, NOON + 2 * MINUTE, changed=NOON + MINUTE)
    assert paused_until(state, NOON + 2 * MINUTE, changed=NOON - MINUTE)
    assert paused_until(rejected(state, NOON + 3 * MINUTE), NOON + 4 * MINUTE, changed=NOON + MINUTE)


def test_a_clock_set_back_makes_no_pause_longer() -> None:
    state = after(5, NOON + timedelta(days=365))
    assert not paused_until(state, NOON)


@pytest.mark.parametrize("state", [NONE, Rejections(3, "when", "never"), Rejections(3, "", "2026-11-23T12:00:00Z")])
def test_what_makes_no_sense_makes_no_pause(state: Rejections) -> None:
    assert not paused_until(state, NOON)


def test_pauses_grow() -> None:
    assert list(PAUSES) == sorted(PAUSES)
