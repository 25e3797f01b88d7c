"""The status file, and the clock."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from poprep_cli.engine import clock
from poprep_cli.engine.clock import parse, stamp
from poprep_cli.engine.status import Status, load, save
from poprep_cli.errors import StateError


def test_the_status_is_kept(tmp_path) -> None:
    path = tmp_path / "office.status.json"
    assert load(path) == Status()
    status = Status(last_attempt="a", last_success="b", reason="ok", method="apop")
    save(path, status)
    assert load(path) == status


@pytest.mark.parametrize("damage", [b"", b"\0\0", b"{", b"[]", b'{"method": 7}', b"\xff"])
def test_a_damaged_status_is_none(tmp_path, damage) -> None:
    path = tmp_path / "office.status.json"
    path.write_bytes(damage)
    assert load(path) == Status()


def test_a_status_that_is_a_link_is_refused(tmp_path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(StateError):
        save(tmp_path / "link", Status())
    assert not (tmp_path / "target").exists()


# The clock


def test_stamps_are_utc() -> None:
    assert stamp(parse("2026-11-23T10:41:00+01:00")) == "2026-11-23T09:41:00Z"
    assert parse("2026-11-23T09:41:00Z") == parse("2026-11-23T09:41:00") == datetime(2026, 11, 23, 9, 41, tzinfo=UTC)
    with pytest.raises(ValueError, match="isoformat"):
        parse("yesterday")


def test_the_clock_is_set_for_tests_only(monkeypatch) -> None:
    monkeypatch.setenv("POPREP_TEST_CLOCK", "2001-02-03T04:05:06Z")
    monkeypatch.delenv("POPREP_TESTING", raising=False)
    assert clock.now().year > 2001
    assert clock.now().microsecond == 0
    monkeypatch.setenv("POPREP_TESTING", "1")
    assert stamp(clock.now()) == "2001-02-03T04:05:06Z"


def test_ticks_are_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POPREP_TESTING", raising=False)
    ticks = clock.Ticks()
    before, found, after = clock.now(), ticks.now(), clock.now()
    assert before <= found <= after
    monkeypatch.setattr(time, "time", lambda: 1_000_000_000.9)
    assert stamp(ticks.now()) == "2001-09-09T01:46:40Z"
    assert ticks.now() is ticks.now()
    monkeypatch.setenv("POPREP_TESTING", "1")
    monkeypatch.setenv("POPREP_TEST_CLOCK", "2001-02-03T04:05:06Z")
    assert stamp(clock.Ticks().now()) == "2001-02-03T04:05:06Z"
