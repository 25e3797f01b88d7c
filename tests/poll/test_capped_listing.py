"""Servers that list only so much at a time and hide what was read: all of it is moved in one run, once, and none is lost."""

from __future__ import annotations

from collections import Counter
from typing import Literal

import pytest

from poprep_cli.engine import rounds
from tests.poll.world import Pop3Faults, SmtpFaults, World, letter


def capped(limit: int | None = 250, **more) -> Pop3Faults:
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
    assert (connector["exit_code"], connector["messages"], connector["advice"]) == (0, [], [])
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


def test_a_mailbox_that_was_listed_as_a_whole(world: World) -> None:
    world.leave_copy = True
    world.letters(rounds.FULL)
    (connector,) = world.poll("--json").document["connectors"]
    assert (connector["listed"], connector["new"], connector["delivered"]) == (rounds.FULL,) * 3
    assert len(world.pop3.sessions) == 2
    assert Counter(world.arrived) == Counter(world.sent)


def test_a_server_that_shows_the_same_mail_for_ever(world: World) -> None:
    world.letters(150)
    world.pop3.faults = Pop3Faults(list_limit=120, dele="ignore")
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
    world.pop3.faults = capped(105, capa=(b"UIDL", b"TOP", b"USER", b"PIPELINING", b"LOGIN-DELAY 60"))
    world.poll().ended(0)
    assert (len(world.arrived), len(world.pop3.sessions)) == (105, 1)


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
