"""TOP in place of RETR: mail is whole or had by RETR, and a server that refuses or cuts is remembered."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.poll.world import Pop3Faults, World, letter

LONG = letter(50, b"x" * 70 + b"\r\n") + (b"y" * 70 + b"\r\n") * 2000
LIMIT = 80 * 1024


@pytest.fixture
def world(world: World) -> World:
    world.pop3_lines = "use_top = true"
    return world


def verbs(world: World, since: int = 0) -> dict[str, int]:
    """Return how often TOP and RETR were used, in all sessions but the first `since`."""
    found = [verb for session in world.pop3.sessions[since:] for verb in session.verbs]
    return {"TOP": found.count("TOP"), "RETR": found.count("RETR")}


def status(world: World) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((world.state / "office.status.json").read_bytes())
    return found


def advice(world: World) -> list[str]:
    """Run a pass and return its advice."""
    done = world.poll("--json")
    assert done.code == 0, done
    found: list[str] = done.document["connectors"][0]["advice"]
    return [line for line in found if "use_top" in line]


pipelined = pytest.mark.parametrize("pipelining", [True, False], ids=["pipelined", "one by one"])


@pipelined
def test_mail_is_read_by_top(world: World, pipelining: bool) -> None:
    world.letters(100)
    world.mail(LONG, letter(7, b"..two dots\r\n.\xe9\r\n"), b"\r\nno header\r\n", b"no header at all")
    world.pop3.faults = Pop3Faults(announce_pipelining=pipelining)
    assert advice(world) == []
    assert world.arrived == [*world.sent[:-1], b"no header at all\r\n"]
    assert verbs(world) == {"TOP": 104, "RETR": 0}
    assert world.left == []


def test_it_is_off_unless_told(world: World) -> None:
    world.pop3_lines = ""
    world.letters(2)
    world.poll().ended(0)
    assert verbs(world) == {"TOP": 0, "RETR": 2}


def test_mail_that_reading_would_hide_stays_visible(world: World) -> None:
    world.leave_copy = True
    world.letters(3)
    world.pop3.faults = Pop3Faults(hide_read=True)
    world.poll().ended(0, "EXPIRE 0")
    assert len(world.pop3.maildrop.mail(unread=True)) == 3


@pipelined
def test_a_server_that_refuses_top(world: World, pipelining: bool) -> None:
    world.letters(5)
    world.pop3.faults = Pop3Faults(top_refused=True, announce_pipelining=pipelining)
    (said,) = advice(world)
    assert "the server refuses TOP" in said
    assert world.arrived == world.sent
    assert verbs(world) == {"TOP": 5 if pipelining else 1, "RETR": 5}
    assert status(world)["top"] == "refused"
    world.letters(2)
    before = len(world.pop3.sessions)
    (said,) = advice(world)
    assert verbs(world, before) == {"TOP": 0, "RETR": 2}
    assert world.arrived == world.sent


def test_a_server_that_does_not_announce_top(world: World) -> None:
    world.letters(2)
    world.pop3.faults = Pop3Faults(capa=(b"UIDL", b"USER"))
    (said,) = advice(world)
    assert "does not announce TOP" in said
    assert verbs(world) == {"TOP": 0, "RETR": 2}
    assert "top" not in status(world)


@pipelined
def test_a_server_that_cuts_what_top_gives(world: World, pipelining: bool) -> None:
    world.letters(3)
    world.mail(LONG)
    world.letters(3)
    world.pop3.faults = Pop3Faults(truncate_top=LIMIT, announce_pipelining=pipelining)
    (said,) = advice(world)
    assert "TOP gives less than the whole message" in said
    assert sorted(world.arrived) == sorted(world.sent)
    assert world.left == []
    assert status(world)["top"] == "short"
    world.mail(LONG.replace(b"Number", b"Again"))
    before = len(world.pop3.sessions)
    assert len(advice(world)) == 1
    assert verbs(world, before) == {"TOP": 0, "RETR": 1}
    assert sorted(world.arrived) == sorted(world.sent)


def test_a_cut_multipart_that_list_does_not_betray(world: World) -> None:
    content = b'Content-Type: multipart/mixed; boundary="x"\r\n' + LONG + b"--x--\r\n"
    world.mail(content)
    world.pop3.faults = Pop3Faults(truncate_top=LIMIT, list_sizes={1: 1000})
    assert len(advice(world)) == 1
    assert world.arrived == [content]


def test_a_list_that_says_too_much_is_not_held_against_top(world: World) -> None:
    world.letters(3)
    world.pop3.faults = Pop3Faults(list_sizes={2: 9999}, announce_pipelining=False)
    world.poll().ended(0, "delivered, kept on the server")
    assert sorted(world.arrived) == sorted(world.sent)
    assert verbs(world) == {"TOP": 3, "RETR": 1}
    assert "top" not in status(world)


def test_a_message_that_neither_gives(world: World) -> None:
    world.letters(3)

    def refused(argument: bytes) -> bytes | None:
        return b"-ERR no such message\r\n" if argument.split()[0] == b"2" else None

    world.pop3.faults = Pop3Faults(replies={"TOP": refused, "RETR": refused})
    world.poll().ended(1, "left on the server: RETR was refused")
    assert world.left == ["u2"]
    assert "top" not in status(world)
    world.recovers()


@pytest.mark.parametrize("how", ["a week", "off and on"])
def test_what_is_remembered_is_forgotten(world: World, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POPREP_TESTING", "1")
    monkeypatch.setenv("POPREP_TEST_CLOCK", "2026-11-01T00:00:00Z")
    world.letters(1)
    world.pop3.faults = Pop3Faults(top_refused=True)
    assert len(advice(world)) == 1
    world.heal()
    monkeypatch.setenv("POPREP_TEST_CLOCK", "2026-11-07T00:00:00Z")
    world.letters(1)
    assert len(advice(world)) == 1
    if how == "a week":
        monkeypatch.setenv("POPREP_TEST_CLOCK", "2026-11-08T00:00:01Z")
    else:
        world.pop3_lines = ""
        world.write()
        advice(world)
        world.pop3_lines = "use_top = true"
        world.write()
    world.letters(1)
    before = len(world.pop3.sessions)
    assert advice(world) == []
    assert verbs(world, before) == {"TOP": 1, "RETR": 0}
    assert "top" not in status(world)
