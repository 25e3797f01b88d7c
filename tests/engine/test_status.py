"""The status file, and when a connector is due."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from poprep_cli.engine import clock
from poprep_cli.engine.clock import parse, stamp
from poprep_cli.engine.status import Status, load, not_due_until, save
from poprep_cli.errors import StateError

LAST = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)


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
