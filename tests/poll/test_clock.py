"""A clock that jumps, back, to 1970, or a year ahead: nothing is deleted early, and the pass says why, and for how long."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.poll.outcome import Done
from tests.poll.world import Pop3Faults, World

Pass = Callable[..., Done]
BEHIND = r"the clock is behind: it says {}, but the last record is of {}; .* kept for 14 days from then on"
MASS = r"{} kept messages became due at once \(remove_after_days = 14\): none is deleted before {}, in case the clock"


@pytest.fixture
def at(world: World, monkeypatch: pytest.MonkeyPatch) -> Pass:
    """Run a pass at this time, with a fortnight's retention."""
    monkeypatch.setenv("POPREP_TESTING", "1")
    world.leave_copy = True
    world.write()
    text = world.config.read_text("utf-8")
    world.config.write_text(text.replace("leave_copy = true", "leave_copy = true\nremove_after_days = 14"), "utf-8")

    def run(moment: str, *arguments: str) -> Done:
        monkeypatch.setenv("POPREP_TEST_CLOCK", moment)
        return world.poll(*arguments)

    return run


def status(world: World) -> dict[str, object]:
    found: dict[str, object] = json.loads((world.state / "office.status.json").read_text("utf-8"))
    return found


def first_seen(world: World, uidl: str) -> str:
    lines = (json.loads(line) for line in (world.state / "office.jsonl").read_text("utf-8").splitlines())
    found: str = [line for line in lines if line.get("uidl") == uidl][-1]["first_seen"]
    return found


# ---------------------------------------------------------------------- back


def test_a_clock_set_back_to_1970_makes_no_mail_old(world: World, at: Pass) -> None:
    world.letters(1)
    at("2026-11-01T09:00:00Z").ended(0)
    world.letters(1)
    at("1970-01-01T00:05:00Z").ended(0, BEHIND.format("1970-01-01T00:05:00Z", "2026-11-01T09:00:00Z"))
    assert first_seen(world, "u2") == "2026-11-01T09:00:00Z"
    world.letters(1)
    at("1970-01-01T00:10:00Z").ended(0)  # said once is enough
    at("2026-11-15T09:00:00Z").ended(0)
    assert world.left == ["u2", "u3"]  # how long they have been there, nobody knows
    assert first_seen(world, "u2") == first_seen(world, "u3") == "2026-11-15T09:00:00Z"
    at("2026-11-29T08:59:59Z").ended(0)
    assert world.left == ["u2", "u3"]
    at("2026-11-29T09:00:00Z").ended(0)
    assert world.left == []
    assert world.arrived == world.sent


def test_a_first_pass_in_1970(world: World, at: Pass) -> None:
    world.letters(1)
    at("1970-01-01T00:00:10Z").ended(0, BEHIND.format("1970-01-01T00:00:10Z", "2020-01-01T00:00:00Z"))
    at("2026-11-01T09:00:00Z").ended(0)
    at("2026-11-15T08:59:59Z").ended(0)
    assert world.left == ["u1"]
    at("2026-11-15T09:00:00Z").ended(0)
    assert world.left == []


def test_what_was_held_meanwhile_is_not_old_either(world: World, at: Pass) -> None:
    at("2026-11-01T09:00:00Z").ended(0)
    world.letters(1)
    world.smtp.stop()
    assert at("1970-01-01T00:05:00Z").code == 75
    world.smtp.start()
    world.config.unlink()
    world.write()  # the port is another one
    text = world.config.read_text("utf-8")
    world.config.write_text(text.replace("leave_copy = true", "leave_copy = true\nremove_after_days = 14"), "utf-8")
    assert at("2026-11-20T09:00:00Z").code == 0
    assert world.left == ["u1"]
    assert world.arrived == world.sent


def test_no_purge_takes_it_for_old(world: World, at: Pass) -> None:
    at("2026-11-01T09:00:00Z").ended(0)
    world.letters(1)
    at("1970-01-01T00:05:00Z")
    at("2026-11-15T09:00:00Z", "--dry-run")
    assert world.command("purge").code == 0
    assert world.command("purge", "--older-than", "1").code == 0
    assert world.left == ["u1"]


def test_a_correction_by_seconds_is_not_worth_a_word(world: World, at: Pass) -> None:
    world.letters(1)
    at("2026-11-01T09:00:00Z").ended(0)
    world.letters(1)
    at("2026-11-01T08:59:58Z").ended(0)
    assert first_seen(world, "u2") == "2026-11-01T09:00:00Z"
    before = (world.state / "office.jsonl").read_bytes()
    at("2026-11-01T09:05:00Z").ended(0)
    assert (world.state / "office.jsonl").read_bytes() != before  # dated anew, once
    before = (world.state / "office.jsonl").read_bytes()
    at("2026-11-01T09:10:00Z").ended(0)
    assert (world.state / "office.jsonl").read_bytes() == before


def test_without_retention_by_days_the_clock_is_nobodys_business(world: World, at: Pass) -> None:
    world.config.write_text(world.config.read_text("utf-8").replace("remove_after_days = 14", ""), "utf-8")
    world.letters(1)
    at("2026-11-01T09:00:00Z").ended(0)
    world.letters(1)
    at("1970-01-01T00:05:00Z").ended(0)
    assert world.left == ["u1", "u2"]


# ---------------------------------------------------------------------- ahead


def test_a_clock_a_year_ahead(world: World, at: Pass) -> None:
    world.letters(25)
    at("2026-11-01T09:00:00Z").ended(0)
    at("2026-11-02T09:00:00Z").ended(0)
    at("2027-11-02T09:00:00Z").ended(0, MASS.format("25 of 25", "2027-11-02T10:00:00Z"))
    at("2027-11-02T09:05:00Z").ended(0)  # said once is enough
    (told,) = at("2027-11-02T09:10:00Z", "--dry-run").sentences  # who asks is answered
    assert "none is deleted before 2027-11-02T10:00:00Z" in told
    assert status(world)["mass"] == {
        "since": "2027-11-02T09:00:00Z",
        "seen": "2027-11-02T09:05:00Z",
        "due": 25,
        "days": 14,
    }
    at("2026-11-02T10:10:00Z")  # right again
    assert "mass" not in status(world)
    at("2026-11-14T10:00:00Z").ended(0)
    assert len(world.left) == 25


def test_new_mail_after_a_year_ahead_is_kept_and_that_is_said(world: World, at: Pass) -> None:
    world.letters(1)
    at("2027-11-01T09:00:00Z").ended(0)
    world.letters(1)
    at("2026-11-01T09:05:00Z").ended(0, BEHIND.format("2026-11-01T09:05:00Z", "2027-11-01T09:00:00Z"))
    at("2026-12-01T09:05:00Z").ended(0)
    assert world.left == ["u1", "u2"]


def test_a_mass_is_deleted_an_hour_later(world: World, at: Pass) -> None:
    world.letters(20)
    at("2026-11-01T09:00:00Z").ended(0)
    at("2026-11-16T09:00:00Z").ended(0, MASS.format("20 of 20", "2026-11-16T10:00:00Z"))
    at("2026-11-16T09:59:59Z").ended(0)
    assert len(world.left) == 20
    at("2026-11-16T10:00:00Z").ended(0)
    assert world.left == []
    assert "mass" not in status(world)


def test_a_clock_that_goes_back_while_a_mass_waits_begins_anew(world: World, at: Pass) -> None:
    world.letters(20)
    at("2026-11-01T09:00:00Z").ended(0)
    at("2026-11-16T09:00:00Z").ended(0, MASS.format("20 of 20", "2026-11-16T10:00:00Z"))
    at("2026-11-16T09:30:00Z").ended(0)
    at("2026-11-16T09:10:00Z").ended(0, MASS.format("20 of 20", "2026-11-16T10:10:00Z"))
    at("2026-11-16T10:05:00Z").ended(0)
    assert len(world.left) == 20
    at("2026-11-16T10:10:00Z").ended(0)
    assert world.left == []


def test_fewer_or_less_than_half_do_not_wait(world: World, at: Pass) -> None:
    world.letters(19)
    at("2026-11-01T09:00:00Z").ended(0)
    at("2026-11-16T09:00:00Z").ended(0)
    assert world.left == []
    world.letters(20)
    at("2026-11-20T09:00:00Z").ended(0)
    world.letters(20)
    at("2026-11-25T09:00:00Z").ended(0)
    at("2026-12-05T09:00:00Z").ended(0)
    assert len(world.left) == 20


def test_a_mass_that_the_server_would_not_delete_waits_no_second_time(world: World, at: Pass) -> None:
    world.letters(20)
    at("2026-11-01T09:00:00Z").ended(0)
    at("2026-11-16T09:00:00Z").ended(0, MASS.format("20 of 20", "2026-11-16T10:00:00Z"))
    world.pop3.faults = Pop3Faults(quit="err")
    assert at("2026-11-16T10:00:00Z").code == 69
    world.heal()
    at("2026-11-16T10:05:00Z").ended(0)
    assert world.left == []


@pytest.mark.parametrize("rule", ["leave_copy = false", "leave_copy = true\nremove_after_delivered = true"])
def test_other_rules_wait_for_nothing(world: World, at: Pass, rule: str) -> None:
    world.letters(25)
    at("2026-11-01T09:00:00Z").ended(0)
    text = world.config.read_text("utf-8")
    world.config.write_text(text.replace("leave_copy = true\nremove_after_days = 14", rule), "utf-8")
    at("2026-11-01T09:05:00Z").ended(0)
    assert world.left == []


def test_after_0_days_means_at_the_next_pass(world: World, at: Pass) -> None:
    world.config.write_text(world.config.read_text("utf-8").replace("days = 14", "days = 0"), "utf-8")
    world.letters(25)
    at("2026-11-01T09:00:00Z").ended(0)
    assert len(world.left) == 25
    at("2026-11-01T09:00:01Z").ended(0)
    assert world.left == []


# ---------------------------------------------------------------------- what the server deletes by itself


def test_a_server_that_expires_mail_sooner_is_told_once(world: World, at: Pass) -> None:
    def capabilities(expire: bytes) -> Pop3Faults:
        return Pop3Faults(capa=(b"USER", b"UIDL", expire))

    world.letters(1)  # what the server announces is asked once a day
    sooner = r"deletes mail by itself after 7 days \(EXPIRE 7\), sooner than remove_after_days = 14 does"
    world.pop3.faults = capabilities(b"EXPIRE 7")
    at("2026-11-01T09:00:00Z").ended(0, sooner)
    at("2026-11-01T09:05:00Z").ended(0)
    world.pop3.faults = capabilities(b"EXPIRE 0 USER")
    at("2026-11-02T09:10:00Z").ended(0, r"may delete mail as soon as it was read \(EXPIRE 0 USER\)")
    at("2026-11-02T09:15:00Z").ended(0)
    world.pop3.faults = capabilities(b"EXPIRE NEVER")
    at("2026-11-03T09:20:00Z").ended(0)
    world.pop3.faults = capabilities(b"EXPIRE 7")
    at("2026-11-04T09:25:00Z").ended(0, sooner)
    assert world.left == ["u1"]
