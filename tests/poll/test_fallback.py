"""Servers that announce methods and then refuse, hang up or hang: what a pass costs, what it advises, what it remembers."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest

from tests.poll.world import Pop3Faults, World

ANNOUNCED = (b"TOP", b"UIDL", b"USER", b"SASL SCRAM-SHA-256 CRAM-MD5")
REFUSED = b"-ERR not here\r\n"
DETECT = 'detect = ["capa", "welcome"]'


class Case(NamedTuple):
    """What is wrong with the server, what the first pass asks it on each connection, and what it advises."""

    faults: dict[str, Any]
    asked: list[list[str]]
    advice: list[str]
    again: list[str]  # what the second pass asks, on its one connection


SCRAM = "AUTH SCRAM-SHA-256"
CRAM = "AUTH CRAM-MD5"
AFRESH = "whenever all methods are tried, at least once a week: remove it from pop3.auth"
COSTS = f"scram-sha-256 is announced but fails and costs a reconnect {AFRESH}"
COSTS_TOO = f"cram-md5 is announced but fails and costs a reconnect {AFRESH}"
CASES = {
    "refuses": Case(
        {"replies": {"AUTH": REFUSED}},
        [["CAPA", SCRAM, CRAM, "APOP"]],
        [r"scram-sha-256 is announced but fails and costs 1 round trip .*not here", "cram-md5 is .*not here"],
        ["APOP"],
    ),
    "hangs up": Case(
        {"replies": {"AUTH": "drop"}},
        [["CAPA", SCRAM], ["CAPA", CRAM], ["CAPA", "APOP"]],
        [COSTS, COSTS_TOO],
        ["APOP"],
    ),
    "hangs": Case(
        {"replies": {"AUTH": "hang"}},
        [["CAPA", SCRAM], ["CAPA", CRAM], ["CAPA", "APOP"]],
        [f"{COSTS}.*no answer came in time", f"{COSTS_TOO}.*no answer came in time"],
        ["APOP"],
    ),
    "talks nonsense": Case(
        {"replies": {"AUTH": b"what?\r\n"}},
        [["CAPA", SCRAM], ["CAPA", CRAM], ["CAPA", "APOP"]],
        [COSTS, COSTS_TOO],
        ["APOP"],
    ),
    "refuses, and APOP too": Case(
        {"replies": {"AUTH": REFUSED}, "refuse_apop": REFUSED},
        [["CAPA", SCRAM, CRAM, "APOP", "USER", "PASS"]],
        ["scram-sha-256 is", "cram-md5 is", "apop is announced but fails and costs 1 round trip "],
        ["USER", "PASS"],
    ),
    "refuses, and hangs up after APOP": Case(
        {"replies": {"AUTH": REFUSED}, "refuse_apop": REFUSED, "drop_after_failed_login": True},
        [["CAPA", SCRAM, CRAM, "APOP"], ["CAPA", "USER", "PASS"]],
        ["scram-sha-256 is", "cram-md5 is", "apop is announced but fails"],
        ["USER", "PASS"],
    ),
    "hangs up at APOP": Case(
        # After a refusal a dropped line may be about that: APOP gets its chance on a line of its own.
        {"replies": {"AUTH": REFUSED, "APOP": "drop"}},
        [["CAPA", SCRAM, CRAM, "APOP"], ["CAPA", "APOP"], ["CAPA", "USER", "PASS"]],
        ["scram-sha-256 is", "cram-md5 is", "apop is announced but fails and costs a reconnect"],
        ["USER", "PASS"],
    ),
    "hangs at CAPA": Case(
        {"replies": {"CAPA": "hang"}},
        [["CAPA"], ["APOP"]],
        [],
        ["APOP"],
    ),
    "hangs up at CAPA": Case(
        {"replies": {"CAPA": "drop"}},
        [["CAPA"], ["APOP"]],
        [],
        ["APOP"],
    ),
}


def asked(world: World, since: int = 0) -> list[list[str]]:
    """Return what each connection was asked until it was in, initial responses left out."""
    told = []
    for session in world.pop3.sessions[since:]:
        login = [command for command in session.commands if command.verb in ("CAPA", "AUTH", "APOP", "USER", "PASS")]
        told.append([" ".join(one.line.decode().split()[: 2 if one.verb == "AUTH" else 1]) for one in login])
    return told


def prepared(world: World, faults: dict[str, Any]) -> None:
    world.pop3_lines = DETECT
    world.timeout = 0.4
    world.pop3.faults = Pop3Faults(**({"capa": ANNOUNCED} | faults))


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that sets the clock to a day of November 2026, at noon."""
    monkeypatch.setenv("POPREP_TESTING", "1")

    def day(number: int) -> None:
        monkeypatch.setenv("POPREP_TEST_CLOCK", f"2026-11-{number:02}T12:00:00Z")

    return day


@pytest.mark.parametrize("name", CASES)
def test_the_pass_succeeds_by_the_next_method(world: World, name: str) -> None:
    case = CASES[name]
    prepared(world, case.faults)
    world.letters(2)
    done = world.poll()
    done.ended(0, *case.advice)
    assert all("remove it from pop3.auth" in sentence for sentence in done.sentences)
    assert asked(world) == case.asked
    assert world.left == []

    world.letters(1)
    before = len(world.pop3.sessions)
    world.poll().ended(0)  # on one connection, and nothing to advise: nothing failed
    assert asked(world, before) == [case.again]
    assert len(world.smtp.delivered) == 3


def test_the_advice_is_in_the_report(world: World) -> None:
    prepared(world, {"replies": {"AUTH": "drop"}})
    (report,) = world.poll("--json").document["connectors"]
    assert [advice.split(" is announced")[0] for advice in report["advice"]] == ["scram-sha-256", "cram-md5"]
    assert report["exit_code"] == 0


def test_the_advice_is_good(world: World) -> None:
    prepared(world, {"replies": {"AUTH": "drop"}})
    world.pop3_lines += '\nauth = ["apop", "user"]'
    world.poll().ended(0)
    assert asked(world) == [["CAPA", "APOP"]]


def test_after_a_week_the_stronger_ones_are_tried_again(world: World, at: Any) -> None:
    prepared(world, {"replies": {"AUTH": REFUSED}, "refuse_apop": REFUSED})
    at(1)
    world.poll()
    for number in (2, 7):
        at(number)
        world.poll().ended(0)
    assert asked(world, 1) == [["CAPA", "USER", "PASS"]] * 2
    prepared(world, {"replies": {"AUTH": REFUSED}})  # APOP works again, which nobody has noticed
    at(8)
    world.poll()
    assert asked(world, 3) == [["CAPA", SCRAM, CRAM, "APOP"]]
    at(9)
    world.poll().ended(0)
    assert asked(world, 4) == [["CAPA", "APOP"]]
    status = json.loads((world.state / "office.status.json").read_bytes())
    assert status["method"] == "apop"


def test_a_clock_that_was_set_back_is_no_reason_to_stay_with_the_weaker(world: World, at: Any) -> None:
    prepared(world, {"replies": {"AUTH": REFUSED}})
    at(20)
    world.poll()
    at(10)
    world.poll()
    assert asked(world) == [["CAPA", SCRAM, CRAM, "APOP"]] * 2


CHANGES: dict[str, tuple[dict[str, Any], str, list[str]]] = {
    "CAPA": ({"capa": (*ANNOUNCED[:3], b"SASL SCRAM-SHA-256 CRAM-MD5 LOGIN")}, "", [SCRAM, CRAM, "APOP"]),
    "CAPA, less": ({"capa": (*ANNOUNCED[:3], b"SASL CRAM-MD5")}, "", [CRAM, "APOP"]),
    "the welcome": ({"apop": False}, "", [SCRAM, CRAM, "USER", "PASS"]),
    "auth": ({}, 'auth = ["cram-md5", "apop", "user"]', [CRAM, "APOP"]),
}


@pytest.mark.parametrize("what", CHANGES)
def test_when_something_changes_the_stronger_ones_are_tried_again(world: World, at: Any, what: str) -> None:
    changes, line, expected = CHANGES[what]
    replies: dict[str, Any] = {"replies": {"AUTH": REFUSED}}
    prepared(world, replies)
    at(1)
    world.poll()
    world.poll().ended(0)
    prepared(world, replies | changes)
    world.pop3_lines += f"\n{line}"
    world.write()
    at(2)  # CAPA is asked once a day
    world.poll()
    world.poll().ended(0)
    assert asked(world, 1)[0] == ["APOP"]
    assert asked(world, 2) == [["CAPA", *expected], expected[-1 if expected[-1] == "APOP" else -2 :]]


def test_what_is_remembered_and_breaks_falls_to_the_others(world: World) -> None:
    prepared(world, {"replies": {"AUTH": REFUSED}})
    world.poll()
    world.letters(1)
    prepared(world, {"replies": {"AUTH": REFUSED, "APOP": "drop"}})
    world.poll().ended(0, "apop is announced but fails and costs a reconnect", "scram-sha-256 is", "cram-md5 is")
    assert asked(world, 1) == [["APOP"], ["CAPA", SCRAM, CRAM, "USER", "PASS"]]
    assert world.left == []


@pytest.mark.parametrize("code", [b"IN-USE", b"LOGIN-DELAY", b"SYS/TEMP"])
def test_a_refusal_for_now_is_no_reason_for_a_weaker_method(world: World, code: bytes) -> None:
    prepared(world, {"replies": {"AUTH": b"-ERR [" + code + b"] later\r\n"}})
    done = world.poll()
    assert done.code == 75
    assert asked(world) == [["CAPA", SCRAM]]
    prepared(world, {})
    world.pop3.faults = Pop3Faults(capa=ANNOUNCED, replies={"AUTH": REFUSED})
    world.poll("--force")
    assert asked(world, 1) == [["CAPA", SCRAM, CRAM, "APOP"]]
