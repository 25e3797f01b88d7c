"""The mail to the postmaster: new badmail once per pass, and when a connector starts and stops failing."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import cast

import pytest

from tests.poll.world import PASSWORD, Pop3Faults, SmtpFaults, World

POSTMASTER = "postmaster@corp.example"
START = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.fixture
def told(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    world.connector_lines = f'postmaster = "{POSTMASTER}"'
    monkeypatch.setenv("POPREP_TESTING", "1")
    monkeypatch.setenv("POPREP_TEST_CLOCK", START.isoformat())
    return world


def notices(world: World) -> list[EmailMessage]:
    """Return what the postmaster has got, checking what all of it has in common."""
    found = []
    for delivered in world.smtp.delivered:
        if delivered.forward_paths == (POSTMASTER.encode(),):
            assert delivered.reverse_path == b""
            mail = cast("EmailMessage", message_from_bytes(delivered.content, policy=policy.SMTP))
            assert mail["Auto-Submitted"] == "auto-generated"
            assert mail["To"] == POSTMASTER
            found.append(mail)
    return found


def at(monkeypatch: pytest.MonkeyPatch, minutes: float) -> None:
    monkeypatch.setenv("POPREP_TEST_CLOCK", (START + timedelta(minutes=minutes)).isoformat())


def refuse(world: World, *numbers: int) -> None:
    world.smtp.faults = SmtpFaults(replies={"rcpt": b"550 5.1.1 \x1b[31mno such user\r\n"}, only={"rcpt": numbers})


def test_nothing_to_tell(told: World) -> None:
    told.letters(2)
    told.poll().ended(0)
    assert notices(told) == []


def test_badmail_once_per_pass(told: World) -> None:
    told.letters(4)
    refuse(told, 2, 3)
    assert told.poll().code == 1
    (mail,) = notices(told)
    assert mail["Subject"] == "poprep: office: 2 undeliverable"
    body = mail.get_content()
    assert body.count("no such user") == 2
    assert "\\x1b[31m" in body
    told.heal()
    told.poll().ended(0)
    assert len(notices(told)) == 1


def test_it_starts_and_stops_failing(told: World, monkeypatch: pytest.MonkeyPatch) -> None:
    right, told.password = told.password, "not-this-one"
    for minute in (0, 1, 30):
        at(monkeypatch, minute)
        assert told.poll("--force").code == 77
    (mail,) = notices(told)
    assert mail["Subject"] == "poprep: office fails"
    assert "refused the login of office" in mail.get_content()
    assert "not-this-one" not in mail.as_string()
    told.password = right
    told.config.unlink()
    at(monkeypatch, 40)
    told.poll().ended(0)
    assert [mail["Subject"] for mail in notices(told)] == ["poprep: office fails", "poprep: office works again"]
    assert "failing since 2026-11-23T12:00:00Z" in notices(told)[1].get_content()
    told.poll().ended(0)
    assert len(notices(told)) == 2


def test_what_mends_itself_is_not_told_for_an_hour(told: World, monkeypatch: pytest.MonkeyPatch) -> None:
    told.pop3.faults = Pop3Faults(greeting=b"-ERR [SYS/TEMP] later\r\n")
    for minute in (0, 10, 59):
        at(monkeypatch, minute)
        assert told.poll().code == 75
    assert notices(told) == []
    at(monkeypatch, 60)
    assert told.poll().code == 75
    assert len(notices(told)) == 1
    told.heal()
    told.poll().ended(0)
    assert len(notices(told)) == 2


def test_a_hiccup_is_not_told_at_all(told: World) -> None:
    told.pop3.faults = Pop3Faults(greeting=b"-ERR [SYS/TEMP] later\r\n")
    assert told.poll().code == 75
    told.heal()
    told.poll().ended(0)
    assert notices(told) == []


def test_what_could_not_be_told_is_told_later(told: World) -> None:
    told.letters(3)
    state = told.state / "office.status.json"
    refuse(told, 2, 4, 5)  # the second message, and the notice
    done = told.poll()
    assert done.code == 1
    assert "the postmaster could not be told" in done.err
    assert len(json.loads(state.read_bytes())["untold_badmail"]) == 1
    told.heal()
    told.poll().ended(0)
    (mail,) = notices(told)
    assert "no such user" in mail.get_content()
    assert "untold_badmail" not in json.loads(state.read_bytes())


def test_no_secret_in_it(told: World) -> None:
    told.letters(2)
    told.smtp.faults = SmtpFaults(replies={"rcpt": b"550 5.1.1 %s\r\n" % PASSWORD.encode()}, only={"rcpt": (2,)})
    assert told.poll().code == 1
    (mail,) = notices(told)
    assert PASSWORD not in mail.as_string()
    assert "********" in mail.get_content()


def test_a_dry_run_tells_nobody(told: World) -> None:
    told.password = "not-this-one"
    assert told.poll("--dry-run").code == 77
    assert notices(told) == []
