"""A server that has taken mail by BDAT is remembered for a week, so that several letters may leave at once."""

from __future__ import annotations

import json

import pytest

from tests.poll.world import SmtpFaults, World


@pytest.fixture
def far(world: World) -> World:
    """A server that is 50 ms away, which is time for the next message to come, and takes 4 messages at once."""
    world.smtp.faults = SmtpFaults(latency=0.05)
    world.smtp_lines = "max_in_flight = 4"
    return world


def proof(world: World) -> dict[str, object]:
    status = json.loads((world.state / "office.status.json").read_text("utf-8"))
    found: dict[str, object] = status.get("chunking", {})
    return found


def batch_of_second(world: World) -> int:
    """Return how many round trips after the first message the second one left."""
    first, second = [command.batch for command in world.smtp.sessions[-1].commands if command.verb == "MAIL"][:2]
    return second - first


def test_the_first_pass_learns_it(far: World) -> None:
    far.letters(6)
    far.poll().ended(0)
    assert batch_of_second(far) == 1
    assert str(proof(far)["server"]).startswith(far.smtp.address.replace("localhost", "127.0.0.1"))
    far.letters(6)
    far.poll().ended(0)
    assert batch_of_second(far) == 0
    assert far.arrived == far.sent


def test_for_a_week_after_the_last_time(far: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POPREP_TESTING", "1")
    for moment, batches in (
        ("2026-11-02T09:00:00Z", 1),
        ("2026-11-09T08:59:59Z", 0),
        ("2026-11-16T08:59:58Z", 0),
        ("2026-11-23T08:59:58Z", 1),
        ("2026-11-01T09:00:00Z", 1),
    ):
        monkeypatch.setenv("POPREP_TEST_CLOCK", moment)
        far.letters(4)
        far.poll().ended(0)
        assert batch_of_second(far) == batches, moment


def test_a_break_forgets_it(far: World) -> None:
    far.letters(2)
    far.poll().ended(0)
    assert proof(far)
    far.letters(8)
    far.smtp.faults = SmtpFaults(latency=0.01, drop="bdat", only={"bdat": (4,)})
    assert far.poll().code == 1
    assert proof(far) == {}
    far.recovers(repeated=len(far.kept("held")))


def test_a_server_that_has_forgotten_bdat(far: World) -> None:
    """Nothing is refused for good by a server that only does not know the command."""
    far.letters(2)
    far.poll().ended(0)
    far.letters(8)
    far.smtp.faults = SmtpFaults(latency=0.01, replies={"bdat": b"500 5.5.2 what?\r\n"})
    done = far.poll()
    assert done.code in (0, 1), done
    assert far.kept("badmail") == []
    assert proof(far) == {}
    far.recovers(repeated=len(far.kept("held")))


def test_quit_is_answered_while_the_mailbox_is_left(world: World) -> None:
    world.letters(3)
    world.poll().ended(0)
    assert [session.verbs[-1] for session in (*world.smtp.sessions, *world.pop3.sessions)] == ["QUIT", "QUIT"]


@pytest.mark.parametrize("reply", [b"421 4.3.2 closing\r\n", b"500 what?\r\n", b""])
def test_whatever_quit_is_answered(world: World, reply: bytes) -> None:
    world.smtp.faults = SmtpFaults(replies={"quit": reply}) if reply else SmtpFaults(drop="quit")
    world.letters(3)
    world.poll().ended(0)
    assert world.left == []
    assert world.arrived == world.sent
