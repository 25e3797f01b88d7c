"""Delivered is what was received, octet by octet, behind our own lines; only stray CRs and LFs are mended, and NULs if told."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from poprep_cli.config.model import Address, Smtp
from poprep_cli.embedded.deliveries import Delivered
from poprep_cli.embedded.pop3 import Maildrop
from poprep_cli.engine.envelope import Letter
from poprep_cli.engine.message import receive
from poprep_cli.net.stop import Stop
from poprep_cli.net.submission import Submission
from poprep_cli.protocol.wire import TERMINATOR, mend_parts
from tests.corpus import corpus, uncanonical_corpus
from tests.engine.test_content import SMUGGLING
from tests.engine.test_envelope import STAMP
from tests.poll.world import SmtpFaults, World, letter

CORPUS = (*corpus(2), *uncanonical_corpus())
LINE_END = re.compile(rb"\r+\n|\r|\n")

NOTES = {
    "bare_newlines": r"\d+ messages with stray CRs or LFs, each sent as a line end \(delivery.bare_newlines\)",
    "long_lines": r"\d+ messages with lines of more than 998 octets, sent as they are \(delivery.long_lines\)",
    "nul": r"\d+ messages with NULs, sent as they are \(delivery.nul\)",
}


def received(content: bytes) -> bytes:
    """Return what POP3 makes of a message: its last line is ended by CRLF."""
    return content if content.endswith(b"\r\n") or not content else content + b"\r\n"


def is_stray(content: bytes) -> bool:
    """Tell whether there is a CR or an LF outside of a CRLF."""
    return not content.count(b"\r\n") == content.count(b"\r") == content.count(b"\n")


def mended(content: bytes) -> bytes:
    return LINE_END.sub(b"\r\n", content) if is_stray(content) else content


def has_long_lines(content: bytes) -> bool:
    return any(len(line) > 998 for line in content.replace(b"\r", b"\n").split(b"\n"))


def ours(message: Delivered) -> bytes:
    """Return a delivered message without our lines, having looked at them."""
    stamp = STAMP.match(message.content)
    assert stamp
    assert stamp[0].startswith(b"Received: from [127.0.0.1] ([127.0.0.1]) by ")
    return message.content[stamp.end() :]


def filled(world: World) -> None:
    """Put the corpus into the mailbox."""
    world.timeout = 20
    world.leave_copy = True
    world.mail(*(sample.content for sample in CORPUS))


def assert_as_received(world: World) -> None:
    """Assert that what is in badmail is exactly what was in the mailbox."""
    for slip in world.kept("badmail"):
        number = int(slip["uidl"].removeprefix("u")) - 1
        assert slip["content"] == received(CORPUS[number].content), CORPUS[number].name
        assert slip["forward_paths"] == ["office@corp.example"]


@pytest.mark.parametrize("nul", ["send", "remove"])
def test_the_corpus_arrives_as_it_is(world: World, nul: str) -> None:
    filled(world)
    world.more = f'[connector.office.delivery]\nnul = "{nul}"'
    done = world.poll("--json")
    assert (done.code, done.err) == (0, "")
    arrived = [ours(message) for message in world.smtp.delivered]
    assert len(arrived) == len(CORPUS)
    for sample, content in zip(CORPUS, arrived, strict=True):
        wanted = received(sample.content)
        assert content == mended(wanted.replace(b"\0", b"") if nul == "remove" else wanted), sample.name
        if sample.canonical and not (nul == "remove" and b"\0" in sample.content):
            assert content == sample.content, sample.name
    (office,) = done.document["connectors"]
    stray = sum(is_stray(received(sample.content)) for sample in CORPUS)
    long_lines = sum(has_long_lines(sample.content) for sample in CORPUS)
    nuls = sum(b"\0" in sample.content for sample in CORPUS)
    fate = "which were removed" if nul == "remove" else "sent as they are"
    assert sorted(office["notes"]) == sorted(
        [
            f"{stray} messages with stray CRs or LFs, each sent as a line end (delivery.bare_newlines)",
            f"{long_lines} messages with lines of more than 998 octets, sent as they are (delivery.long_lines)",
            f"{nuls} messages with NULs, {fate} (delivery.nul)",
        ]
    )
    assert (office["messages"], office["advice"]) == ([], [])


def test_the_corpus_with_every_policy_strict(world: World) -> None:
    filled(world)
    world.more = '[connector.office.delivery]\nbare_newlines = "badmail"\nlong_lines = "badmail"\nnul = "badmail"'
    done = world.poll("--json")
    assert done.code == 1
    clean = [
        sample
        for sample in CORPUS
        if not is_stray(received(sample.content)) and not has_long_lines(sample.content) and b"\0" not in sample.content
    ]
    for sample, message in zip(clean, world.smtp.delivered, strict=True):
        assert ours(message) == received(sample.content), sample.name
    assert len(world.kept("badmail")) == len(CORPUS) - len(clean)
    assert_as_received(world)
    (office,) = done.document["connectors"]
    assert (office["rejected"], office["notes"]) == (len(CORPUS) - len(clean), [])
    assert world.kept("held") == []


@pytest.mark.parametrize("policy", ["bare_newlines", "long_lines", "nul"])
def test_each_policy_alone(world: World, policy: str) -> None:
    bodies = {"bare_newlines": b"one\ntwo\r\n", "long_lines": b"x" * 999 + b"\r\n", "nul": b"one\0two\r\n"}
    world.mail(*(letter(1, body) for body in bodies.values()), letter(4))
    world.more = f'[connector.office.delivery]\n{policy} = "badmail"'
    done = world.poll("--json")
    assert done.code == 1
    (slip,) = world.kept("badmail")
    assert slip["content"] == letter(1, bodies[policy])
    assert f"delivery.{policy}" in slip["why"]
    wanted = [letter(1, mended(body)) for name, body in bodies.items() if name != policy]
    assert world.arrived == [*wanted, letter(4)]
    assert world.left == [slip["uidl"]]
    (office,) = done.document["connectors"]
    said = sorted(what for name, what in NOTES.items() if name != policy)
    for note, what in zip(sorted(office["notes"], key=lambda note: note[10:]), said, strict=True):
        assert re.fullmatch(what.replace("messages", "message"), note)
    # Whoever wants it sent all the same can have that, and it is mended as ever.
    world.command("badmail", "retry", "--all").ended(0)
    assert world.arrived[-1] == letter(1, mended(bodies[policy]))
    assert world.kept("badmail") == []


@pytest.mark.parametrize("nul", ["send", "remove"])
def test_held_mail_is_mended_when_it_is_sent(world: World, nul: str) -> None:
    content = letter(1, b"one\ntwo\r\r\nthree\0\r\n.\r\n" + b"x" * 999 + b"\r\n")
    world.mail(content)
    world.more = f'[connector.office.delivery]\nnul = "{nul}"'
    world.smtp.faults = SmtpFaults(replies={"end-of-data": b"451 4.3.0 later\r\n"})
    assert world.poll("--json").document["connectors"][0]["notes"] == []
    assert [slip["content"] for slip in world.kept("held")] == [content]
    world.heal()
    (office,) = world.poll("--json").document["connectors"]
    assert len(office["notes"]) == 3
    sent = mended(content)
    assert world.arrived == [sent.replace(b"\0", b"") if nul == "remove" else sent]


def test_8_bit_mail_to_a_server_of_1982(world: World) -> None:
    world.mail(letter(1, b"\xff\r\n"), "Subject: Grüße\r\n\r\nbody\r\n".encode(), letter(3))
    world.smtp.faults = SmtpFaults(announce=(b"PIPELINING",))
    done = world.poll("--json")
    assert (done.code, done.err) == (0, "")
    assert world.arrived == world.sent
    assert {message.parameters for message in world.smtp.delivered} == {()}
    assert done.document["connectors"][0]["notes"] == [
        "2 messages with octets over 127, sent as they are to a server that does not announce 8BITMIME",
        "1 message with a header that is not ASCII, sent as it is to a server that does not announce SMTPUTF8",
    ]


def test_8_bit_mail_is_announced(world: World) -> None:
    world.mail(letter(1, b"\xff\r\n"), "Subject: Grüße\r\n\r\nbody\r\n".encode(), letter(3))
    done = world.poll("--json")
    assert done.document["connectors"][0]["notes"] == []
    assert [b"BODY=8BITMIME" in message.parameters for message in world.smtp.delivered] == [True, True, False]


def test_notes_are_in_the_log_and_not_on_stderr(world: World) -> None:
    world.mail(letter(1, b"one\ntwo\r\n"), letter(2, b"one\rtwo\r\n"))
    world.poll().ended(0)
    (log,) = (world.state / "log").glob("*.log")
    assert "office: 2 messages with stray CRs or LFs, each sent as a line end" in log.read_text(encoding="utf-8")


# Smuggling

FORGED = b"MAIL FROM:<evil@example.com>\r\nRCPT TO:<x@example.com>\r\nDATA\r\nSubject: forged\r\n\r\nforged\r\n"


@pytest.mark.parametrize("announced", [None, (b"PIPELINING", b"8BITMIME"), (b"8BITMIME",)])
def test_a_message_is_one_message(world: World, announced: tuple[bytes, ...] | None) -> None:
    """In a pass: whatever stands in front of the forged commands, they stay text."""
    world.smtp.faults = SmtpFaults(announce=announced)
    bodies = [b"one" + end + FORGED.replace(b"\r\n", line) for end in SMUGGLING for line in (b"\r\n", b"\n", b"\r")]
    world.mail(*(letter(number, body) for number, body in enumerate(bodies)))
    world.poll().ended(0)
    assert len(world.smtp.delivered) == len(bodies)
    assert world.arrived == [mended(received(content)) for content in world.sent]
    for message in world.smtp.delivered:
        assert not is_stray(message.content)
        assert message.forward_paths == (b"office@corp.example",)
    (session,) = world.smtp.sessions
    assert Counter(session.verbs)["MAIL"] == len(bodies)
    # The very octets on the wire, of all that was said.
    assert session.octets == len(session.clear)
    assert not is_stray(bytes(session.clear))
    if announced is not None:  # by DATA
        assert session.clear.count(TERMINATOR) == len(bodies)


@pytest.mark.parametrize("chunking", [False, True])
def test_a_message_is_one_message_by_data_and_by_bdat(world: World, chunking: bool) -> None:
    folder = world.folder
    smtp = Smtp(addresses=(Address("127.0.0.1", world.smtp.port),), tls="off", timeout=5)
    session = Submission.open(smtp, Stop(), chunking=chunking)
    assert session.chunking is chunking
    wanted = []
    for number, end in enumerate(SMUGGLING):
        content = letter(number, b"one" + end + FORGED)
        block = (b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n"
        one = receive(b"u", iter([block[:200], block[200:]]) if number % 2 else iter([block]), folder / "x.part")
        outcome = session.deliver(Letter(one, b"", (b"a@b.example",), b"X: front\r\n"), lambda: None)
        assert len(outcome.accepted) == 1
        wanted.append(b"X: front\r\n" + b"".join(mend_parts([content])))
    session.quit()
    assert [message.content for message in world.smtp.delivered] == wanted
    (record,) = world.smtp.sessions
    assert record.octets == len(record.clear)
    assert not is_stray(bytes(record.clear))


def test_what_pop3_servers_do_to_dots_changes_nothing(world: World) -> None:
    """A server that is asked for a message of dots, first and last, in memory and by way of a file."""
    small = b".\r\n..\r\n.\r\n"
    large = b".x\r\n" * 400_000 + b"."
    world.pop3.maildrop = Maildrop()
    world.mail(small, large)
    world.poll().ended(0)
    assert world.arrived == [small, large + b"\r\n"]
