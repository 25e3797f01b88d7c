"""Passes that log in by what CAPA answered at an earlier one: how many commands they take, and when it is asked again."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from poprep_cli.config.model import Address
from poprep_cli.net.stream import Stream
from tests.net.certificates import Pki
from tests.poll.world import Pop3Faults, World

COMMON = (b"TOP", b"UIDL", b"USER", b"RESP-CODES")
SHORT = ["APOP", "UIDL", "LIST", "QUIT"]
FULL = ["CAPA", *SHORT]

At = Callable[[str], None]


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> At:
    """A function that sets the test clock."""
    monkeypatch.setenv("POPREP_TESTING", "1")
    return lambda time: monkeypatch.setenv("POPREP_TEST_CLOCK", f"2026-11-{time}:00Z")


@pytest.fixture
def known(world: World, at: At) -> World:
    """A mailbox that was polled at 9:00 on the first."""
    at("01T09:00")
    assert said(world) == [["CAPA", "AUTH", *SHORT]]
    return world


def said(world: World, code: int = 0) -> list[list[str]]:
    """Run a pass and return the verbs of its sessions."""
    before = len(world.pop3.sessions)
    assert world.poll("office").code == code
    return [session.verbs for session in world.pop3.sessions[before:]]


def status(world: World) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((world.state / "office.status.json").read_bytes())
    return found


def test_a_day_long(known: World, at: At) -> None:
    for time in ("01T09:01", "01T21:00", "02T08:59"):
        at(time)
        assert said(known) == [SHORT]
        assert status(known)["answers"]["since"] == "2026-11-01T09:00:00Z"
    at("02T09:00")
    assert said(known) == [FULL]
    assert status(known)["answers"]["since"] == "2026-11-02T09:00:00Z"
    at("02T09:01")
    assert said(known) == [SHORT]


@pytest.mark.parametrize("time", ["01T08:59", "02T09:00", "30T00:00"])
def test_a_clock_that_jumps_leads_to_asking(known: World, at: At, time: str) -> None:
    at(time)
    assert [verb for verb in said(known)[0] if verb != "AUTH"] == FULL


@pytest.mark.parametrize("damage", [{"since": "yesterday"}, {"greeting": ""}, {"capabilities": []}])
def test_a_damaged_memory_leads_to_asking(known: World, damage: dict[str, Any]) -> None:
    found = status(known)
    found["answers"] |= damage
    (known.state / "office.status.json").write_text(json.dumps(found))
    assert [verb for verb in said(known)[0] if verb != "AUTH"] == FULL


def test_round_trips_of_a_quiet_pass(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As from a distance: the greeting, STLS, the handshake, the login with UIDL and LIST, QUIT."""
    monkeypatch.setattr(Address, "is_local", property(lambda _: False))
    monkeypatch.setattr(Stream, "is_loopback", property(lambda _: False))
    pki = Pki(tmp_path)
    world.pop3.context = pki.context("")
    world.pop3_lines = f'tls = "required"\ntls_ca_file = \'{pki.trusting.ca_file}\'\nauth = ["user"]'
    login = ["USER", "PASS", "UIDL", "LIST", "QUIT"]
    assert said(world) == [["CAPA", "STLS", "CAPA", *login]]
    assert said(world) == [["STLS", *login]]
    assert len({command.batch for command in world.pop3.sessions[0].commands}) == 7
    assert len({command.batch for command in world.pop3.sessions[1].commands}) == 3


def test_what_capa_announced_holds(world: World, at: At) -> None:
    at("01T09:00")
    world.pop3.faults = Pop3Faults(capa=(*COMMON, b"LOGIN-DELAY 60", b"EXPIRE 0"))
    world.leave_copy = True
    said(world)
    told = status(world)["told_expiry"]
    world.pop3.faults = Pop3Faults(capa=COMMON)
    at("01T10:00")
    assert said(world) == [[*SHORT]]
    assert (status(world)["login_delay"], status(world)["told_expiry"]) == (60, told)
    at("02T10:00")
    assert said(world) == [FULL]
    assert not {"login_delay", "told_expiry"} & set(status(world))


@pytest.mark.parametrize("breaks", ["drop", "discard"])
def test_a_server_that_has_lost_pipelining(known: World, breaks: Any) -> None:
    known.pop3.faults = Pop3Faults(breaks_when_pipelined=breaks, announce_pipelining=False)
    known.letters(3)
    sessions = said(known)
    assert sessions[0][0] == "APOP"
    assert sessions[1][:2] == ["CAPA", "APOP"]
    assert len(sessions) == 2
    assert Counter(known.arrived) == Counter(known.sent)
    known.letters(3)
    assert said(known) == [["APOP", "UIDL", "LIST", *["RETR"] * 3, *["DELE"] * 3, "QUIT"]]
    assert Counter(known.arrived) == Counter(known.sent)
    for session in known.pop3.sessions[-1:]:
        assert len({command.batch for command in session.commands}) == len(session.commands)


def test_a_pass_that_could_not_log_in_forgets_it(known: World) -> None:
    known.pop3.faults = Pop3Faults(refuse_apop=b"-ERR [AUTH] no\r\n", refuse_user=b"-ERR [AUTH] no\r\n")
    (verbs,) = said(known, 77)
    assert verbs == ["APOP", "UIDL", "LIST", "CAPA", "AUTH", "USER", "PASS"]
    assert "answers" not in status(known)
    known.heal()
    assert said(known)[0][0] == "CAPA"


def test_a_mailbox_in_use_forgets_nothing(known: World) -> None:
    known.pop3.faults = Pop3Faults(refuse_apop=b"-ERR [IN-USE] wait\r\n")
    assert said(known, 75) == [["APOP", "UIDL", "LIST"]]
    known.heal()
    assert said(known) == [SHORT]


def test_probe_and_test_auth_detect_in_full(known: World) -> None:
    before = len(known.pop3.sessions)
    known.command("probe", "office")
    assert known.pop3.sessions[before].verbs[0] == "CAPA"
    before = len(known.pop3.sessions)
    known.command("test-auth", "office")
    assert all(session.verbs[0] == "CAPA" for session in known.pop3.sessions[before:])
    assert len(known.pop3.sessions) > before
