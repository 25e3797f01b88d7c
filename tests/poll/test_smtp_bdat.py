"""Mail by BDAT, several messages in flight: what a break leaves in doubt is what had left, all else goes on at once."""

from __future__ import annotations

import json

import pytest

from poprep_cli.embedded.smtp_faults import Stage
from tests.poll.world import SmtpFaults, World, letter

DISTANT = 0.02  # seconds before each group of replies
IN_FLIGHT = pytest.mark.parametrize("limit", [1, 8, 64])


@pytest.fixture
def many(world: World, limit: int) -> World:
    """A mailbox with more messages than may be in flight."""
    world.smtp_lines = f"max_in_flight = {limit}"
    world.letters(limit + 22)
    return world


def steps(world: World) -> dict[str, list[str]]:
    """Return what the journal says of each message, line by line."""
    found: dict[str, list[str]] = {}
    for line in map(json.loads, (world.state / "office.jsonl").read_text("utf-8").splitlines()):
        if "status" in line:
            found.setdefault(line["uidl"], []).append(line["status"])
    return found


def in_doubt(world: World) -> list[str]:
    return [slip["uidl"] for slip in world.kept("held") if slip.get("in_doubt")]


def verbs(world: World, session: int = -1) -> list[str]:
    return world.smtp.sessions[session].verbs


@IN_FLIGHT
def test_all_arrive_in_order(many: World, limit: int) -> None:
    many.smtp.faults = SmtpFaults(latency=DISTANT)
    many.poll().ended(0)
    assert many.arrived == many.sent
    (session,) = many.smtp.sessions
    assert "DATA" not in session.verbs
    assert session.verbs.count("BDAT") == limit + 22
    many.recovers()


@IN_FLIGHT
@pytest.mark.parametrize("stage", ["mail", "rcpt", "bdat", "end-of-data", "after-accept"])
def test_one_break_with_several_in_flight(many: World, limit: int, stage: Stage) -> None:
    many.smtp.faults = SmtpFaults(latency=DISTANT, drop=stage, only={stage: (10,)})
    done = many.poll()
    assert done.code == 1, done
    doubt = in_doubt(many)
    assert 1 <= len(doubt) <= limit
    assert "u10" in doubt
    assert [slip["uidl"] for slip in many.kept("held")] == doubt
    # Nothing was in flight but what had its record, and all that was not in doubt has arrived by other sessions.
    for uidl, states in steps(many).items():
        assert "sending" in states, uidl
    assert many.left == doubt
    assert {uidl for uidl, state in many.statuses().items() if state == "held"} == set(doubt)
    for uidl, content in zip((f"u{number}" for number in range(1, limit + 23)), many.sent, strict=True):
        assert many.arrived.count(content) == 1 or uidl in doubt
    assert "DATA" in verbs(many)
    assert "BDAT" not in verbs(many)
    many.recovers(repeated=len(doubt))


@IN_FLIGHT
@pytest.mark.parametrize("reply", [b"451 4.3.0 not now\r\n", b"554 5.7.1 spam\r\n"], ids=["451", "554"])
def test_one_refusal_among_those_in_flight(many: World, limit: int, reply: bytes) -> None:
    many.smtp.faults = SmtpFaults(latency=DISTANT, replies={"end-of-data": reply}, only={"end-of-data": (10,)})
    store = "held" if reply.startswith(b"4") else "badmail"
    many.poll().ended(1, f"message u10: {store}: office@corp.example at end-of-data")
    assert limit
    assert many.arrived == [*many.sent[:9], *many.sent[10:]]
    assert len(many.smtp.sessions) == 1
    many.recovers(badmail=int(store == "badmail"))


@IN_FLIGHT
def test_a_session_that_takes_seven_messages(many: World, limit: int) -> None:
    many.smtp.faults = SmtpFaults(latency=DISTANT, max_messages=7)
    done = many.poll()
    # The 421 says that nothing after it was taken: where the line broke with it, at most what had left is in doubt.
    doubt = in_doubt(many)
    assert done.code == (1 if doubt else 0), done
    assert len(doubt) <= limit
    many.recovers(repeated=len(doubt))


@pytest.mark.parametrize("limit", [8, 64])
def test_all_refused_alike_gives_nothing_up(many: World, limit: int) -> None:
    """Those in flight behind the third are as little to blame as the first three."""
    many.smtp.faults = SmtpFaults(latency=DISTANT, replies={"mail": b"550 5.7.1 relaying denied\r\n"})
    done = many.poll()
    assert done.code == 69, done
    assert many.kept("badmail") == []
    assert len(many.left) == limit + 22
    assert set(many.statuses().values()) <= {"held", "seen"}
    assert many.smtp.delivered == []
    read = many.pop3.retrieved
    many.heal()
    many.poll().ended(0)
    assert sorted(many.arrived) == sorted(many.sent)
    assert read <= many.pop3.retrieved == limit + 22
    assert many.left == []


@pytest.mark.parametrize("limit", [8, 64])
def test_poison_takes_no_other_mail_into_doubt_again(many: World, limit: int) -> None:
    """What broke a session is sent alone afterwards: the others arrive, each marked once, and only the poison is left."""
    many.mail(letter(99, b"poison\r\n"))
    many.letters(5)
    poisonous = f"u{limit + 23}"
    poison = SmtpFaults(
        latency=DISTANT, replies={"end-of-data": lambda content: b"what?\r\n" if b"poison" in content else None}
    )
    many.smtp.faults = poison
    assert many.poll().code == 1
    doubt = in_doubt(many)
    assert poisonous in doubt
    assert len(doubt) <= limit
    done = many.poll("--json")
    assert done.code == 1, done
    (report,) = done.document["connectors"]
    told = {note["uidl"]: note["outcome"] for note in report["messages"]}
    assert told == {uidl: "held" if uidl == poisonous else "delivered again" for uidl in doubt}
    assert many.left == [poisonous]
    delivered = len(many.smtp.delivered)
    many.poll().ended(1, f"message {poisonous}: held: in doubt")
    assert len(many.smtp.delivered) == delivered
    many.heal()
    many.poll().ended(0, f"message {poisonous}: delivered again")
    assert many.left == []


def test_a_server_that_knows_no_bdat(world: World) -> None:
    world.smtp_lines = "max_in_flight = 8"
    world.letters(5)
    world.smtp.faults = SmtpFaults(knows_no_bdat=True)
    world.poll().ended(0)
    assert world.arrived == world.sent
    assert "DATA" in verbs(world)
    world.recovers()


def test_a_large_message_between_small_ones(world: World) -> None:
    world.smtp_lines = "max_in_flight = 8"
    world.letters(2)
    world.mail(letter(3, (b"y" * 70 + b"\r\n") * 50_000))
    world.letters(2)
    world.poll().ended(0)
    assert world.arrived == world.sent
    assert "DATA" not in verbs(world)
    world.recovers()


def test_a_large_message_is_in_doubt_only_once_its_end_left(world: World) -> None:
    world.mail(letter(1, (b"y" * 70 + b"\r\n") * 50_000))
    world.smtp.faults = SmtpFaults(drop="bdat", only={"bdat": (1,)})
    world.poll().ended(0)  # it broke at the first of several chunks
    assert world.arrived == world.sent
    world.recovers()
