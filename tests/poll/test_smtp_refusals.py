"""The SMTP server says no: before the mail, at each stage of it, to some recipients, to one message or to all."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from poprep_cli.embedded.smtp_faults import Stage
from tests.poll.world import SmtpFaults, World, letter

pytestmark = pytest.mark.usefixtures("by_data")  # by BDAT: test_smtp_bdat.py

A, B, C = "a@corp.example", "b@corp.example", "c@corp.example"


class Refusal(NamedTuple):
    """A reply at a stage, and what a pass over two messages makes of it: exit code, what is held, what is given up."""

    stage: Stage
    reply: bytes
    code: int
    held: int
    badmail: int = 0


AT_THE_DOOR = [
    Refusal("greeting", b"421 4.3.2 closing down", 75, 2),
    Refusal("greeting", b"450 4.7.1 not now", 75, 2),
    Refusal("greeting", b"554 5.7.1 no mail from you", 69, 2),
    Refusal("ehlo", b"421 4.3.2 closing down", 75, 2),
]

OF_A_MESSAGE = [
    Refusal("mail", b"452 4.3.1 no room", 1, 2),
    Refusal("mail", b"550 5.7.1 bad sender", 1, 0, 2),
    Refusal("rcpt", b"450 4.2.1 greylisted", 1, 2),
    Refusal("rcpt", b"550 5.1.1 no such user", 1, 0, 2),
    Refusal("data", b"451 4.3.0 later", 1, 2),
    Refusal("data", b"554 5.5.1 no", 1, 0, 2),
    Refusal("end-of-data", b"451 4.3.0 scanner is down", 1, 2),
    Refusal("end-of-data", b"554 5.7.1 spam", 1, 0, 2),
]


def name(row: Refusal) -> str:
    return f"{row.stage}-{row.reply[:3].decode()}"


@pytest.mark.parametrize("row", AT_THE_DOOR, ids=name)
def test_refused_before_any_mail(world: World, row: Refusal) -> None:
    world.letters(2)
    world.smtp.faults = SmtpFaults(replies={row.stage: row.reply + b"\r\n"})
    done = world.poll()
    reply = row.reply.decode()
    done.ended(row.code, rf"office: {world.smtp.address} refuses .*: {reply}$", *held(reply, ("u1", "u2")))
    assert world.smtp.delivered == []
    assert [slip["content"] for slip in world.kept("held")] == world.sent
    assert world.kept("badmail") == []
    assert world.statuses() == {"u1": "held", "u2": "held"}
    assert world.left == ["u1", "u2"]
    read = world.pop3.retrieved
    world.poll().ended(row.code, f"refuses .*{reply}")
    assert world.pop3.retrieved == read
    world.recovers()
    assert world.pop3.retrieved == read


def held(reply: str, uidls: tuple[str, ...]) -> list[str]:
    return [f"office: message {uidl}: held: .*{reply}$" for uidl in uidls]


@pytest.mark.parametrize("row", OF_A_MESSAGE, ids=name)
def test_refused_message_by_message(world: World, row: Refusal) -> None:
    world.letters(2)
    world.smtp.faults = SmtpFaults(replies={row.stage: row.reply + b"\r\n"})
    done = world.poll()
    what = "held" if row.held else "badmail"
    told = [
        f"office: message {uidl}: {what}: office@corp.example at {row.stage}: {row.reply.decode()}"
        for uidl in ("u1", "u2")
    ]
    done.ended(row.code, *told)
    assert world.smtp.delivered == []
    assert (len(world.kept("held")), len(world.kept("badmail"))) == (row.held, row.badmail)
    for slip, content in zip(world.kept(what), world.sent, strict=True):
        assert slip["content"] == content
        assert slip["forward_paths"] == ["office@corp.example"]
        assert slip["reverse_path"] == "ada@example.net"
        assert [(refusal["stage"], refusal["reply"]) for refusal in slip["refusals"]] == [
            (row.stage, row.reply.decode())
        ]
    assert world.statuses() == dict.fromkeys(("u1", "u2"), what)
    assert world.left == ["u1", "u2"]
    world.recovers(badmail=row.badmail)


def test_a_refusal_as_a_user_sees_it(world: World) -> None:
    world.letters(1)
    world.smtp.faults = SmtpFaults(replies={"end-of-data": b"554 5.7.1 spam\r\n"})
    world.run().ended(1, "office: message u1: badmail: .*554 5.7.1 spam .*badmail")
    assert [slip["content"] for slip in world.kept("badmail")] == world.sent
    world.recovers(badmail=1)


def test_helo_where_ehlo_is_refused(world: World) -> None:
    world.letters(2)
    world.smtp.faults = SmtpFaults(refuse_ehlo=True)
    world.poll().ended(0)
    assert world.arrived == world.sent
    assert world.left == []
    assert "HELO" in world.smtp.sessions[0].verbs
    world.recovers()


def test_neither_ehlo_nor_helo(world: World) -> None:
    world.letters(2)
    world.smtp.faults = SmtpFaults(refuse_ehlo=True, replies={"helo": b"550 5.7.1 go away\r\n"})
    world.poll().ended(69, "refuses EHLO and HELO: 550 5.7.1 go away", *held("550 5.7.1 go away", ("u1", "u2")))
    assert len(world.kept("held")) == 2
    assert world.kept("badmail") == []
    world.recovers()


def test_accepted_deferred_and_rejected_recipients(world: World) -> None:
    world.send_to = (A, B, C)
    world.letters(2)
    world.smtp.faults = SmtpFaults(
        recipients={B.encode(): b"450 4.2.1 greylisted\r\n", C.encode(): b"550 5.1.1 nobody\r\n"}
    )
    world.poll().ended(1, "message u1: held: .*450 4.2.1 greylisted", "message u2: held: .*450 4.2.1 greylisted")
    assert [message.forward_paths for message in world.smtp.delivered] == [(A.encode(),)] * 2
    assert world.left == ["u1", "u2"]
    for slip in world.kept("held"):
        assert slip["forward_paths"] == [B, C]
    world.smtp.faults = SmtpFaults(recipients={C.encode(): b"550 5.1.1 nobody\r\n"})
    world.poll().ended(1, "message u1: badmail: .*c@.*550 5.1.1 nobody", "message u2: badmail: .*c@.*550 5.1.1 nobody")
    assert [message.forward_paths for message in world.smtp.delivered[2:]] == [(B.encode(),)] * 2
    assert [slip["forward_paths"] for slip in world.kept("badmail")] == [[C], [C]]
    assert world.kept("held") == []
    before = len(world.smtp.delivered)
    world.heal()
    world.poll().ended(0)
    assert len(world.smtp.delivered) == before


@pytest.mark.parametrize(("reply", "store"), [(b"450 4.2.1 later\r\n", "held"), (b"550 5.1.1 nobody\r\n", "badmail")])
def test_one_recipient_of_three(world: World, reply: bytes, store: str) -> None:
    world.send_to = (A, B, C)
    world.letters(1)
    world.smtp.faults = SmtpFaults(recipients={B.encode(): reply})
    world.poll().ended(1, f"message u1: {store}: b@corp.example at rcpt: {reply[:-2].decode()}")
    assert [message.forward_paths for message in world.smtp.delivered] == [(A.encode(), C.encode())]
    (slip,) = world.kept(store)
    assert slip["forward_paths"] == [B]
    world.heal()
    world.poll().ended(0)
    told = [message.forward_paths for message in world.smtp.delivered[1:]]
    assert told == ([(B.encode(),)] if store == "held" else [])
    assert world.left == ([] if store == "held" else ["u1"])


def test_all_refused_alike_is_the_servers_fault(world: World) -> None:
    world.letters(12)
    world.smtp.faults = SmtpFaults(replies={"mail": b"550 5.7.1 relaying denied\r\n"})
    done = world.run()
    assert done.code == 69
    assert "Traceback" not in done.err
    assert "refuses every message alike: office@corp.example at mail: 550 5.7.1 relaying denied" in done.sentences[0]
    assert len(done.sentences) <= 7
    assert world.kept("badmail") == []
    assert len(world.kept("held")) >= 3
    assert world.left == [f"u{number}" for number in range(1, 13)]
    assert world.smtp.delivered == []
    mails = sum(session.verbs.count("MAIL") for session in world.smtp.sessions)
    assert mails <= 4
    read = world.pop3.retrieved
    again = world.poll()
    assert again.code == 69
    assert world.pop3.retrieved == read
    world.recovers()
    assert world.pop3.retrieved == 12
    assert sorted(world.arrived) == sorted(world.sent)  # what was refused comes last


def test_one_poison_message_among_good_ones(world: World) -> None:
    world.letters(3)
    world.mail(letter(99, b"poison\r\n"))
    world.letters(3)
    world.smtp.faults = SmtpFaults(
        replies={"end-of-data": lambda content: b"554 5.6.0 poison\r\n" if b"poison" in content else None}
    )
    world.poll().ended(1, "message u4: badmail: office@corp.example at end-of-data: 554 5.6.0 poison")
    assert world.arrived == [content for content in world.sent if b"poison" not in content]
    assert [slip["content"] for slip in world.kept("badmail")] == [world.sent[3]]
    assert world.left == ["u4"]
    world.poll().ended(0)
    world.recovers(badmail=1)


def test_poison_in_front(world: World) -> None:
    world.mail(letter(98, b"poison\r\n"), letter(99, b"poison\r\n"))
    world.letters(3)
    world.smtp.faults = SmtpFaults(
        replies={"end-of-data": lambda content: b"554 5.6.0 poison\r\n" if b"poison" in content else None}
    )
    world.poll().ended(1, "message u1: badmail", "message u2: badmail")
    assert world.arrived == world.sent[2:]
    assert world.left == ["u1", "u2"]
    world.recovers(badmail=2)


def test_the_servers_size_limit_is_one_messages_matter(world: World) -> None:
    world.mail(letter(1), letter(2, b"x" * 70 + b"\r\n" + b"long line\r\n" * 2000), letter(3))
    world.smtp.size_limit = 10_000
    world.poll().ended(1, "message u2: badmail: office@corp.example at size: 552 5.3.4 the message has")
    assert world.arrived == [world.sent[0], world.sent[2]]
    world.recovers(badmail=1)


def test_a_session_that_takes_two_messages(world: World) -> None:
    world.letters(5)
    world.smtp.faults = SmtpFaults(max_messages=2)
    world.poll().ended(0)
    assert world.arrived == world.sent
    assert len([session for session in world.smtp.sessions if "MAIL" in session.verbs]) == 3
    world.recovers()


@pytest.mark.parametrize("trouble", ["drop", "discard"])
def test_a_server_that_announces_pipelining_and_breaks_on_it(world: World, trouble: str) -> None:
    world.letters(4)
    world.smtp.faults = SmtpFaults(breaks_when_pipelined=trouble)  # type: ignore[arg-type]
    world.poll().ended(0)
    assert world.arrived == world.sent
    assert world.left == []
    world.recovers()
