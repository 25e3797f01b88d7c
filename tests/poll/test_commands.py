"""What the command line says: which connectors, when, how it is told, and what a mere look must not touch."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.poll.world import PASSWORD, Pop3Faults, SmtpFaults, World, letter

FIELDS = {
    "connector": str,
    "exit_code": int,
    "reason": str,
    "listed": int,
    "new": int,
    "delivered": int,
    "deferred": int,
    "rejected": int,
    "deleted": int,
    "held": int,
    "octets": int,
    "seconds": float,
    "messages": list,
    "advice": list,
    "notes": list,
}


def test_all_well_is_silent(world: World) -> None:
    world.letters(3)
    world.run().ended(0)
    assert world.arrived == world.sent
    world.run().ended(0)
    world.poll(options=("-q",)).ended(0)


def test_verbosity(world: World) -> None:
    world.letters(2)
    done = world.poll(options=("-v",))
    assert done.code == 0
    assert done.out == ""
    assert "office: delivered u1 (" in done.err
    assert "logged in by apop, 2 listed, 2 to fetch" in done.err
    assert PASSWORD not in done.err


@pytest.mark.usefixtures("by_data")
def test_quiet_does_not_hide_what_is_wrong(world: World) -> None:
    world.letters(1)
    world.smtp.faults = SmtpFaults(replies={"data": b"554 5.7.1 spam\r\n"})
    world.poll(options=("-q",)).ended(1, "message u1: badmail")


def test_an_unknown_connector(world: World) -> None:
    done = world.run("nowhere")
    assert done.code == 2
    assert "there is no connector 'nowhere'" in done.err
    assert "office" in done.err
    assert done.out == ""
    assert world.pop3.sessions == world.smtp.sessions == []
    assert not world.state.exists()


def test_a_connector_that_is_switched_off(world: World) -> None:
    world.connector_lines = "enabled = false"
    world.letters(1)
    world.run("office").ended(78, "connector.office is switched off")
    world.poll().ended(0)
    assert world.pop3.sessions == world.smtp.sessions == []


def test_names_are_found_whatever_their_case(world: World) -> None:
    world.letters(1)
    world.poll("OFFICE", "office").ended(0)
    assert len(world.pop3.sessions) == 1
    assert world.left == []


def test_json(world: World) -> None:
    world.letters(3)
    world.smtp.faults = SmtpFaults(
        replies={"end-of-data": lambda content: b"451 4.3.0 later\r\n" if b"Number 2" in content else None}
    )
    done = world.run("--json")
    assert done.code == 1
    document = done.document
    assert document["exit_code"] == 1
    (office,) = document["connectors"]
    assert {name: type(office[name]) for name in FIELDS} == FIELDS
    expected = {
        "connector": "office", "exit_code": 1, "reason": "partial", "listed": 3, "new": 3, "delivered": 2,
        "deferred": 1, "rejected": 0, "deleted": 2, "held": 1, "advice": [], "notes": [],
        "octets": len(world.sent[0]) + len(world.sent[2]),
    }  # fmt: skip
    assert {name: office[name] for name in expected} == expected
    (message,) = office["messages"]
    assert message["uidl"] == "u2"
    assert message["outcome"] == "held"
    assert "451 4.3.0 later" in message["why"]
    world.heal()
    (office,) = world.poll("--json").document["connectors"]
    assert (office["exit_code"], office["reason"], office["delivered"], office["held"]) == (0, "ok", 1, 0)
    assert office["messages"] == []
    assert world.left == []


def test_json_tells_reasons(world: World) -> None:
    world.letters(1)
    world.pop3.faults = Pop3Faults(apop=False, refuse_user=b"-ERR [AUTH] no\r\n")
    document = world.poll("--json").document
    assert (document["exit_code"], document["connectors"][0]["reason"]) == (77, "authentication")
    world.write()
    world.heal()
    world.pop3.stop()
    document = world.poll("--json", "--force").document
    assert (document["exit_code"], document["connectors"][0]["reason"]) == (75, "connection")
    assert "connect" in document["connectors"][0]["errors"][0]["message"]


def test_a_dry_run_touches_nothing(world: World) -> None:
    world.letters(3)
    done = world.run("--dry-run")
    assert done.code == 0
    assert done.err == ""
    assert "office: 3 on the server; would fetch 3" in done.out
    assert all(f"u{number}" in done.out for number in (1, 2, 3))
    assert not world.state.exists()
    assert world.smtp.sessions == []
    assert world.left == ["u1", "u2", "u3"]
    assert world.pop3.retrieved == 0
    assert "DELE" not in world.pop3.sessions[0].verbs
    world.recovers()


def test_a_dry_run_with_state_leaves_it_as_it_is(world: World) -> None:
    world.leave_copy = True
    world.letters(2)
    world.poll().ended(0)
    world.letters(1)
    before = {path: path.read_bytes() for path in world.state.rglob("*") if path.is_file()}
    done = world.poll("--dry-run")
    assert "would fetch 1" in done.out
    assert {path: path.read_bytes() for path in world.state.rglob("*") if path.is_file()} == before
    (connector,) = world.poll("--dry-run", "--json").document["connectors"]
    assert [step["uidl"] for step in connector["plan"]["fetch"]] == ["u3"]
    assert len(world.smtp.delivered) == 2


def test_poll_every(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POPREP_TESTING", "1")
    monkeypatch.setenv("POPREP_TEST_CLOCK", "2026-11-01T09:00:00Z")
    world.connector_lines = "poll_every = 10"
    world.letters(1)
    world.poll().ended(0)
    assert len(world.pop3.sessions) == 1
    monkeypatch.setenv("POPREP_TEST_CLOCK", "2026-11-01T09:09:29Z")
    world.poll().ended(0)
    document = world.poll("--json").document
    assert (document["exit_code"], document["connectors"][0]["reason"]) == (0, "not due")
    assert len(world.pop3.sessions) == 1
    world.poll("--force").ended(0)
    assert len(world.pop3.sessions) == 2
    world.poll("office").ended(0)
    assert len(world.pop3.sessions) == 3
    monkeypatch.setenv("POPREP_TEST_CLOCK", "2026-11-01T09:19:00Z")  # 9:31 after the last attempt, with the tolerance
    world.poll().ended(0)
    assert len(world.pop3.sessions) == 4
    monkeypatch.setenv("POPREP_TEST_CLOCK", "2026-10-01T00:00:00Z")  # a clock set back does not stop the mail
    world.poll().ended(0)
    assert len(world.pop3.sessions) == 5


def test_the_environment_names_the_places(world: World) -> None:
    world.letters(1)
    world.write()
    places = {"POPREP_CONFIG": str(world.config), "POPREP_STATE_DIR": str(world.state)}
    done = subprocess.run(
        [sys.executable, "-m", "poprep_cli", "poll"],
        env=os.environ | places,
        capture_output=True,
        check=False,
        timeout=30,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert world.statuses() == {"u1": "deleted"}


def test_limits_of_a_pass(world: World) -> None:
    world.more = "[connector.office.limits]\nmax_messages = 2\nmax_message_size = 1000"
    world.letters(2)
    world.mail(letter(3, b"large\r\n" * 300))
    world.letters(2)
    world.poll().ended(1, "message u3: left on the server: 2,.* octets, more than limits.max_message_size")
    assert world.left == ["u3", "u4", "u5"]
    world.poll().ended(0)
    assert world.left == ["u3"]
    world.poll().ended(0)
    assert world.statuses()["u3"] == "oversize"


def test_a_full_spool_reads_no_more(world: World) -> None:
    world.more = "[connector.office.limits]\nmax_held = 200"
    world.letters(2)
    world.smtp.faults = SmtpFaults(replies={"mail": b"452 4.3.1 no room\r\n"})
    world.poll().ended(1, "message u1: held", "message u2: held", "the spool is full")
    world.letters(2)
    done = world.poll()
    assert done.code == 1
    assert any("the spool is full" in sentence for sentence in done.sentences)
    assert world.left == ["u1", "u2", "u3", "u4"]
    assert world.pop3.retrieved == 2
    world.recovers()
