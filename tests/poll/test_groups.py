"""A server that breaks on commands in one write costs a connection at each pass, until that is remembered."""

from __future__ import annotations

import json
from typing import Literal

import pytest

from tests.poll.world import Pop3Faults, SmtpFaults, World

Break = Literal["drop", "discard"]


def count(world: World, side: str) -> int:
    found: int = (
        json.loads((world.state / "office.status.json").read_text("utf-8")).get(f"{side}_groups", {}).get("count", 0)
    )
    return found


@pytest.fixture(autouse=True)
def short_waits(world: World) -> None:
    world.timeout = 0.3


def smtp_pass(world: World) -> int:
    """Move three messages; return how many SMTP sessions that took."""
    world.letters(3)
    before = len(world.smtp.sessions)
    world.poll().ended(0)
    assert world.arrived == world.sent
    return len(world.smtp.sessions) - before


def test_smtp(world: World, by_data: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POPREP_TESTING", "1")
    world.smtp.faults = SmtpFaults(breaks_when_pipelined="drop")
    for moment, sessions, known in (
        ("2026-11-02T09:00:00Z", 2, 1),
        ("2026-11-02T09:10:00Z", 2, 2),
        ("2026-11-02T09:20:00Z", 1, 2),
        ("2026-11-09T09:09:59Z", 1, 2),
        ("2026-11-09T09:10:00Z", 2, 3),  # after a week it is tried afresh
        ("2026-11-09T09:20:00Z", 1, 3),
    ):
        monkeypatch.setenv("POPREP_TEST_CLOCK", moment)
        assert (smtp_pass(world), count(world, "smtp")) == (sessions, known), moment
    world.smtp.faults = SmtpFaults()
    monkeypatch.setenv("POPREP_TEST_CLOCK", "2026-11-20T09:00:00Z")
    assert (smtp_pass(world), count(world, "smtp")) == (1, 0)


def test_smtp_by_bdat(world: World) -> None:
    """What was on its way is in doubt, since it may have arrived; it is sent again once the server is understood."""
    world.smtp.faults = SmtpFaults(breaks_when_pipelined="drop")
    for known in (1, 2):
        world.letters(3)
        assert world.poll().code == 1
        assert count(world, "smtp") == known
    before = len(world.smtp.sessions)
    world.letters(3)
    world.poll().ended(0, "u4: delivered again")
    assert len(world.smtp.sessions) - before == 1
    assert set(world.arrived) == set(world.sent)
    assert world.kept("held") == []


def test_a_line_that_dropped_once_is_no_reason(world: World, by_data: None) -> None:
    world.smtp.faults = SmtpFaults(drop="mail", only={"mail": (1,)})
    assert (smtp_pass(world), count(world, "smtp")) == (2, 1)
    world.smtp.faults = SmtpFaults()
    assert (smtp_pass(world), count(world, "smtp")) == (1, 0)


def test_a_line_that_drops_amid_the_mail_is_no_reason(world: World, by_data: None) -> None:
    for _ in range(3):
        world.smtp.faults = SmtpFaults(drop="mail", only={"mail": (2,)})
        world.smtp._occurrences.clear()
        smtp_pass(world)
        assert count(world, "smtp") == 0


@pytest.mark.parametrize("how", ["drop", "discard"])
def test_pop3(world: World, how: Break) -> None:
    world.pop3.faults = Pop3Faults(breaks_when_pipelined=how)
    world.leave_copy = True
    for sessions, known in ((2, 1), (2, 2), (1, 2), (1, 2)):
        before = len(world.pop3.sessions)
        world.letters(1)
        world.poll().ended(0)
        assert (len(world.pop3.sessions) - before, count(world, "pop3")) == (sessions, known)
    assert world.arrived == world.sent


def test_pop3_that_broke_once(world: World) -> None:
    world.pop3.faults = Pop3Faults(breaks_when_pipelined="drop")
    world.letters(1)
    world.poll().ended(0)
    assert count(world, "pop3") == 1
    world.pop3.faults = Pop3Faults()
    world.letters(1)
    world.poll().ended(0)
    assert count(world, "pop3") == 0
