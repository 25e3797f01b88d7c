"""When a pass is due: after a kill, and for a server that announces LOGIN-DELAY."""

from __future__ import annotations

import json
import signal

import pytest

from tests.poll.world import POSIX, Pop3Faults, World, settled

CAPA = (b"TOP", b"UIDL", b"USER", b"RESP-CODES", b"LOGIN-DELAY 600 USER")


def at(monkeypatch: pytest.MonkeyPatch, time: str) -> None:
    monkeypatch.setenv("POPREP_TESTING", "1")
    monkeypatch.setenv("POPREP_TEST_CLOCK", f"2026-11-01T{time}Z")


@pytest.fixture
def delayed(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    world.pop3.faults = Pop3Faults(capa=CAPA)
    at(monkeypatch, "09:00:00")
    world.letters(1)
    world.poll().ended(0)
    assert len(world.pop3.sessions) == 1
    return world


def test_login_delay_is_kept(delayed: World, monkeypatch: pytest.MonkeyPatch) -> None:
    at(monkeypatch, "09:09:59")
    delayed.poll().ended(0)
    document = delayed.poll("--json").document
    (connector,) = document["connectors"]
    assert (document["exit_code"], connector["reason"]) == (0, "not due")
    (advice,) = connector["advice"]
    assert advice == (
        "not due before 2026-11-01T09:10:01Z: the server wants 600 seconds between logins (LOGIN-DELAY); "
        "name the connector or use --force"
    )
    assert len(delayed.pop3.sessions) == 1
    at(monkeypatch, "09:10:01")
    delayed.poll().ended(0)
    assert len(delayed.pop3.sessions) == 2


@pytest.mark.parametrize("argument", ["--force", "office"])
def test_it_is_overridden(delayed: World, monkeypatch: pytest.MonkeyPatch, argument: str) -> None:
    at(monkeypatch, "09:00:01")
    delayed.poll(argument).ended(0)
    assert len(delayed.pop3.sessions) == 2


def test_a_delay_that_is_announced_no_more_is_over(delayed: World, monkeypatch: pytest.MonkeyPatch) -> None:
    delayed.heal()
    monkeypatch.setenv("POPREP_TEST_CLOCK", "2026-11-02T09:00:00Z")  # what it announces is asked once a day
    delayed.poll().ended(0)
    monkeypatch.setenv("POPREP_TEST_CLOCK", "2026-11-02T09:00:01Z")
    delayed.poll().ended(0)
    assert len(delayed.pop3.sessions) == 3


def test_a_clock_set_back_stops_no_mail(delayed: World, monkeypatch: pytest.MonkeyPatch) -> None:
    at(monkeypatch, "08:00:00")
    delayed.poll().ended(0)
    assert len(delayed.pop3.sessions) == 2


def test_a_login_that_is_too_early(delayed: World, monkeypatch: pytest.MonkeyPatch) -> None:
    at(monkeypatch, "09:05:00")
    early = b"-ERR [LOGIN-DELAY] minimum time between mail checks violation\r\n"
    delayed.pop3.faults = Pop3Faults(capa=CAPA, refuse_user=early, refuse_apop=early)
    done = delayed.poll("office")
    done.ended(75, r"can't let us in for now: .*LOGIN-DELAY")
    assert "wants 600 seconds between logins (LOGIN-DELAY): not before 2026-11-01T09:10:01Z" in done.err
    assert len(delayed.pop3.sessions) == 2  # tried once


def test_a_dry_run_waits_too_and_notes_nothing(delayed: World, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (delayed.state / "office.status.json").read_bytes()
    at(monkeypatch, "09:05:00")
    delayed.poll("--dry-run").ended(0)
    assert len(delayed.pop3.sessions) == 1
    assert delayed.poll("--dry-run", "office").code == 0
    assert (delayed.state / "office.status.json").read_bytes() == before


@pytest.mark.skipif(not POSIX, reason="there is no SIGKILL on Windows")
def test_a_pass_that_is_killed_counts(world: World) -> None:
    world.connector_lines = "poll_every = 60"
    world.timeout = 30
    world.letters(1)
    world.pop3.faults = Pop3Faults(replies={"UIDL": "hang"})
    running = world.start()
    settled(world, running)
    running.send_signal(signal.SIGKILL)
    running.communicate(timeout=10)
    assert json.loads((world.state / "office.status.json").read_bytes())["last_attempt"]
    world.heal()
    (connector,) = world.poll("--json").document["connectors"]
    assert connector["reason"] == "not due"
    world.poll("--force").ended(0)
    assert len(world.arrived) == 1
