"""Servers that list only so much at a time and hide what was read: all of it is moved in one run, once, and none is lost."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, Literal

import pytest

from poprep_cli.engine import rounds
from tests.poll.world import Pop3Faults, SmtpFaults, World, letter

COMMON = (b"TOP", b"UIDL", b"USER", b"RESP-CODES", b"PIPELINING")
GMAIL = (*COMMON, b"EXPIRE 0", b"LOGIN-DELAY 300")


def capped(limit: int | None = 250, **more: Any) -> Pop3Faults:
    return Pop3Faults(list_limit=limit, hide_read=True, **more)


def arrives_once(world: World) -> None:
    """Assert that the rest arrives once SMTP is back. What is hidden by now can't be deleted any more."""
    world.smtp.faults = SmtpFaults()
    world.poll().ended(0)
    assert Counter(world.arrived) == Counter(world.sent)
    assert world.kept("held") == []
    world.poll().ended(0)
    assert len(world.arrived) == len(world.sent)


@pytest.mark.parametrize("leave_copy", [False, True])
def test_all_of_it_in_one_run(world: World, leave_copy: bool) -> None:
    world.leave_copy = leave_copy
    world.timeout = 5
    world.letters(1000)
    world.pop3.faults = capped()
    (connector,) = world.poll("--json").document["connectors"]
    assert (connector["exit_code"], connector["messages"], len(connector["advice"])) == (0, [], leave_copy)
    counts = (connector["listed"], connector["new"], connector["delivered"], connector["deleted"])
    assert counts == (1000, 1000, 1000, 0 if leave_copy else 1000)
    assert Counter(world.arrived) == Counter(world.sent)
    assert len(world.left) == (1000 if leave_copy else 0)
    assert len(world.pop3.sessions) == 5  # the last one to see that there is no more
    assert [session.verbs.count("QUIT") for session in world.pop3.sessions] == [1] * 5


def test_a_small_pass_logs_in_once(world: World) -> None:
    world.letters(rounds.FULL - 1)
    world.poll().ended(0)
    assert len(world.pop3.sessions) == 1


def status(world: World) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((world.state / "office.status.json").read_bytes())
    return found


def sessions_of(world: World, letters: int) -> int:
    """Put so much mail into the mailbox, run a pass, and return how many sessions it had."""
    before = len(world.pop3.sessions)
    world.letters(letters)
    world.poll("office").ended(0)
    assert Counter(world.arrived) == Counter(world.sent)
    return len(world.pop3.sessions) - before


@pytest.fixture
def days(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that sets the day of the test clock, for passes that are full with five messages."""
    monkeypatch.setattr(rounds, "FULL", 5)
    monkeypatch.setenv("POPREP_TESTING", "1")
    return lambda day: monkeypatch.setenv("POPREP_TEST_CLOCK", f"2026-11-{day:02}T09:00:00Z")


@pytest.mark.parametrize("leave_copy", [False, True])
def test_a_mailbox_that_was_listed_as_a_whole(world: World, leave_copy: bool) -> None:
    world.leave_copy = leave_copy
    world.letters(rounds.FULL)
    (connector,) = world.poll("--json").document["connectors"]
    assert (connector["listed"], connector["new"], connector["delivered"]) == (rounds.FULL,) * 3
    assert len(world.pop3.sessions) == 1  # the server says nothing that makes it suspect
    assert Counter(world.arrived) == Counter(world.sent)


def test_a_second_full_pass_makes_a_server_suspect(world: World, days: Any) -> None:
    days(1)
    assert [sessions_of(world, letters) for letters in (5, 4, 5)] == [1, 1, 1]
    assert "capped" not in status(world)
    assert sessions_of(world, 5) == 2
    assert (status(world)["capped"], status(world)["capped_since"]) == ("no", "2026-11-01T09:00:00Z")
    assert [sessions_of(world, letters) for letters in (5, 5)] == [1, 1]
    days(8)  # a week later that is forgotten
    assert sessions_of(world, 5) == 2
    assert status(world)["capped_since"] == "2026-11-08T09:00:00Z"


def test_a_limit_of_ours_makes_no_server_suspect(world: World, days: Any) -> None:
    days(1)
    world.more = "[connector.office.limits]\nmax_messages = 5"
    world.letters(15)
    for _ in range(3):
        world.poll().ended(0)
    assert (len(world.arrived), len(world.pop3.sessions)) == (15, 3)
    assert "full" not in status(world)


def test_a_server_that_was_found_to_list_a_part(world: World, days: Any) -> None:
    """It announces nothing of it: two full passes, then what was found holds for a week."""
    days(1)
    world.letters(40)
    world.pop3.faults = Pop3Faults(list_limit=10)
    world.poll().ended(0)
    assert (len(world.arrived), len(world.pop3.sessions)) == (10, 1)
    world.poll().ended(0)
    assert Counter(world.arrived) == Counter(world.sent)
    assert len(world.pop3.sessions) == 5  # three that found more, one that found none: that was not the first
    assert status(world)["capped"] == "yes"
    assert sessions_of(world, 2) == 1
    assert sessions_of(world, 12) == 2
    days(9)
    assert sessions_of(world, 3) == 1
    assert sessions_of(world, 7) == 1
    assert status(world)["capped"] == "yes"  # since the first: it counts for nothing any more


def test_gmail_is_followed_up_in_spite_of_its_delay(world: World, days: Any) -> None:
    days(1)
    world.letters(44)
    world.pop3.faults = capped(10, capa=GMAIL)
    world.poll().ended(0)
    assert Counter(world.arrived) == Counter(world.sent)
    assert len(world.pop3.sessions) == 5
    assert status(world)["capped"] == "yes"


def test_a_listing_as_a_whole_is_remembered_of_gmail_too(world: World, days: Any) -> None:
    days(1)
    world.pop3.faults = capped(None, capa=GMAIL)
    assert [sessions_of(world, 6) for _ in range(3)] == [2, 1, 1]
    days(8)
    assert sessions_of(world, 6) == 2


@pytest.mark.parametrize("refusal", [b"-ERR [LOGIN-DELAY] too soon\r\n", b"-ERR too soon\r\n"])
def test_a_delay_that_is_kept_is_tried_once_a_week(world: World, days: Any, refusal: bytes) -> None:
    world.letters(40)
    first = [1]

    def later(_: bytes) -> bytes | None:
        return None if len(world.pop3.sessions) in first else refusal

    world.pop3.faults = capped(10, capa=GMAIL, apop=False, replies={"PASS": later})
    for day, sessions in ((1, 2), (3, 1), (8, 2)):
        days(day)
        before = len(world.pop3.sessions)
        first[0] = before + 1
        world.poll().ended(0)
        assert len(world.pop3.sessions) - before == sessions
        assert status(world)["capped"] == "delayed"
        assert status(world)["reason"] == "ok"
        assert "pop3_login" not in status(world)
    assert len(world.arrived) == 30


def test_a_server_without_capa_is_followed_up(world: World, days: Any) -> None:
    days(1)
    world.letters(23)
    world.pop3.faults = capped(10, capa="err")
    world.poll().ended(0)
    assert Counter(world.arrived) == Counter(world.sent)
    assert len(world.pop3.sessions) == 3


@pytest.mark.parametrize("expire", [b"EXPIRE NEVER", b"EXPIRE 30", b"EXPIRE"])
def test_other_lifetimes_are_no_reason(world: World, days: Any, expire: bytes) -> None:
    days(1)
    world.pop3.faults = Pop3Faults(capa=(*COMMON, expire))
    assert sessions_of(world, 6) == 1


def test_a_server_that_shows_the_same_mail_for_ever(world: World) -> None:
    world.letters(150)
    world.pop3.faults = Pop3Faults(list_limit=120, dele="ignore", capa=(*COMMON, b"EXPIRE 0"))
    world.poll().ended(0)
    assert len(world.pop3.sessions) == 2
    assert len(world.arrived) == 120


def test_a_server_that_never_runs_dry(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "FULL", 5)
    monkeypatch.setattr(rounds, "ROUNDS", 3)
    world.letters(40)
    world.pop3.faults = capped(10)
    world.poll().ended(0)
    assert (len(world.arrived), len(world.pop3.sessions)) == (30, 3)
    world.poll().ended(0)
    assert Counter(world.arrived) == Counter(world.sent)


@pytest.mark.parametrize("limits", ["max_messages = 25", f"max_octets = {25 * len(letter(10))}"])
def test_limits_are_those_of_the_run(world: World, monkeypatch: pytest.MonkeyPatch, limits: str) -> None:
    monkeypatch.setattr(rounds, "FULL", 5)
    world.more = f"[connector.office.limits]\n{limits}"
    world.mail(*(letter(10 + number) for number in range(40)))
    world.pop3.faults = capped(10)
    world.poll().ended(0)
    assert len(world.arrived) == 25


def test_the_time_is_that_of_the_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "FULL", 5)
    world.more = "[connector.office.limits]\nmax_seconds = 1"
    world.letters(40)
    world.pop3.faults = capped(10, latency=0.15)
    world.poll().ended(0)
    assert 0 < len(world.arrived) < 40


def test_login_delay_is_no_invitation(world: World) -> None:
    world.letters(110)
    world.pop3.faults = capped(105, capa=(*COMMON, b"LOGIN-DELAY 60"))
    world.poll().ended(0)
    assert (len(world.arrived), len(world.pop3.sessions)) == (105, 1)
    world.letters(100)
    world.poll("office").ended(0)  # a second full one makes no difference
    assert (len(world.arrived), len(world.pop3.sessions)) == (210, 2)


def test_a_second_login_that_is_refused_is_no_failure(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "FULL", 5)
    world.letters(20)

    def once(argument: bytes) -> bytes | None:
        return None if len(world.pop3.sessions) == 1 else b"-ERR not again\r\n"

    world.pop3.faults = capped(10, apop=False, replies={"PASS": once})
    world.poll().ended(0)
    assert len(world.arrived) == 10
    world.heal()
    world.poll().ended(0)
    assert Counter(world.arrived) == Counter(world.sent)


@pytest.mark.usefixtures("by_data")
def test_smtp_that_fails_in_the_middle(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read and hidden by then is held; nothing more is read, and the next run has the rest."""
    monkeypatch.setattr(rounds, "FULL", 5)
    world.letters(40)
    world.pop3.faults = capped(10)

    def full(_: bytes) -> bytes | None:
        return b"421 4.3.2 going down\r\n" if len(world.smtp.delivered) >= 25 else None

    world.smtp.faults = SmtpFaults(replies={"data": full})
    done = world.poll()
    assert done.code in (1, 75), done
    assert len(world.arrived) == 25
    read = {mail.uidl for mail in world.pop3.maildrop.mail()} - {
        mail.uidl for mail in world.pop3.maildrop.mail(unread=True)
    }
    assert {slip["uidl"].encode() for slip in world.kept("held")} >= read
    arrives_once(world)


@pytest.mark.parametrize("stage", ["greeting", "mail"])
def test_what_was_read_and_hidden_arrives_later_once(world: World, stage: Literal["greeting", "mail"]) -> None:
    """SMTP is down when the first window has been read: QUIT hides that mail, so it must be held."""
    world.letters(60)
    world.pop3.faults = capped(None)
    world.smtp.faults = SmtpFaults(replies={stage: b"421 4.3.2 no\r\n"})
    done = world.poll()
    assert done.code in (1, 69, 75), done
    hidden = 60 - len(world.pop3.maildrop.mail(unread=True))
    assert 0 < hidden == len(world.kept("held"))
    assert world.arrived == []
    arrives_once(world)
