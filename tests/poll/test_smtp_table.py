"""Every answer at every stage, by DATA, by BDAT and by LMTP: what the pass ends with, keeps and has sent, and the next pass."""

from __future__ import annotations

from typing import Literal, NamedTuple

import pytest

from poprep_cli.embedded.smtp_faults import Stage
from tests.poll.world import DUPLICATE, SmtpFaults, World

Wire = Literal["data", "bdat", "lmtp"]
KINDS = ("4yz", "5yz", "421", "drop", "garbage", "timeout")
REPLIES = {
    "4yz": b"451 4.3.0 not now\r\n",
    "5yz": b"554 5.7.1 never\r\n",
    "421": b"421 4.3.2 closing down\r\n",
    "garbage": b"how do you do\r\n",
}

# For each stage and kind: the exit code, and a letter for each of two messages, all of whose recipients are concerned:
#   h: held, the server does not have it     b: in badmail     .: delivered and deleted
#   d: held, in doubt, the server does not have it     s: held, in doubt, the server has it
# By BDAT the end of a message leaves with its envelope, so a break leaves it in doubt early; after a break DATA is used.
AT_THE_DOOR = """
greeting      75 hh   69 hh   75 hh   75 hh   76 hh   75 hh
"""
SMTP_HELLO = """
ehlo          75 hh    0 ..   75 hh   75 hh   76 hh   75 hh
"""
LMTP_HELLO = """
ehlo          75 hh   69 hh   75 hh   75 hh   76 hh   75 hh
"""
BY_DATA = """
mail           1 hh    1 bb    1 hh    1 hh    1 hh    1 hh
rcpt           1 hh    1 bb    1 hh    1 hh    1 hh    1 hh
data           1 hh    1 bb    1 hh    1 hh    1 hh    1 hh
end-of-data    1 hh    1 bb    1 hh    1 dd    1 dd    1 dd
after-accept   -       -       -       1 ss    -       1 ss
"""
BY_BDAT = """
mail           1 hh    1 bb    1 hh    1 dh    1 dh    1 dh
rcpt           1 hh    1 bb    1 hh    1 dh    1 dh    1 dh
bdat           1 hh    1 bb    1 hh    1 d.    1 d.    1 d.
end-of-data    1 hh    1 bb    1 hh    1 dd    1 dd    1 dd
after-accept   -       -       -       1 ss    -       1 ss
"""
TABLES: dict[Wire, str] = {
    "data": AT_THE_DOOR + SMTP_HELLO + BY_DATA,
    "bdat": AT_THE_DOOR + SMTP_HELLO + BY_BDAT,
    "lmtp": AT_THE_DOOR + LMTP_HELLO + BY_DATA,
}


class Row(NamedTuple):
    """One cell of a table."""

    wire: Wire
    stage: Stage
    kind: str
    code: int
    fates: str


def rows() -> list[Row]:
    found = []
    for wire, table in TABLES.items():
        for line in filter(None, table.splitlines()):
            stage, *cells = line.replace(" - ", " - - ").split()
            for kind, code, fates in zip(KINDS, cells[::2], cells[1::2], strict=True):
                if code != "-":
                    found.append(Row(wire, stage, kind, int(code), fates))  # type: ignore[arg-type]
    return found


def test_the_tables_are_read_whole() -> None:
    assert len(rows()) == 3 * (6 * 6 + 2)


def faults(stage: Stage, kind: str) -> SmtpFaults:
    if kind == "drop":
        return SmtpFaults(drop=stage)
    if kind == "timeout":
        return SmtpFaults(hang=stage)
    return SmtpFaults(replies={stage: REPLIES[kind]})


def speak(world: World, wire: Wire) -> None:
    world.timeout = 0.3
    world.smtp.chunking = wire == "bdat"
    world.smtp.lmtp = wire == "lmtp"
    world.smtp_lines = 'protocol = "lmtp"' if wire == "lmtp" else ""


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row.wire}-{row.stage}-{row.kind}")
def test_all_recipients(world: World, row: Row) -> None:
    speak(world, row.wire)
    world.letters(2)
    world.smtp.faults = faults(row.stage, row.kind)
    done = world.poll()
    assert done.code == row.code, done
    fates = dict(zip(("u1", "u2"), row.fates, strict=True))
    status = {"h": "held", "d": "held", "s": "held", "b": "badmail", ".": "deleted"}
    assert world.statuses() == {uidl: status[fate] for uidl, fate in fates.items()}
    assert world.left == [uidl for uidl, fate in fates.items() if fate != "."]
    held = {slip["uidl"]: slip for slip in world.kept("held")}
    badmail = {slip["uidl"]: slip for slip in world.kept("badmail")}
    assert set(held) == {uidl for uidl, fate in fates.items() if fate in "hds"}
    assert set(badmail) == {uidl for uidl, fate in fates.items() if fate == "b"}
    for uidl, slip in (held | badmail).items():
        assert slip["content"] == world.sent[int(uidl[1:]) - 1]
        assert slip["forward_paths"] == ["office@corp.example"]
        assert slip.get("in_doubt", False) == (fates[uidl] in "ds")
    assert world.arrived == [world.sent[int(uidl[1:]) - 1] for uidl, fate in fates.items() if fate in "s."]
    read = world.pop3.retrieved
    world.recovers(repeated=sum(fate in "ds" for fate in row.fates), badmail=row.fates.count("b"))
    assert world.pop3.retrieved == read


A, B, C = "a@corp.example", "b@corp.example", "c@corp.example"
PATHS = {"a": A, "b": B, "c": C}


class Part(NamedTuple):
    """What one recipient of three, b, gets at a stage, and who of them then has the message, waits, and is given up."""

    wire: Wire
    stage: Stage
    kind: str
    has: str = ""
    held: str = ""
    badmail: str = ""
    in_doubt: bool = False


ONE_OF_THREE = [
    *(
        part
        for wire in ("data", "lmtp")
        for part in (
            Part(wire, "rcpt", "4yz", has="ac", held="b"),
            Part(wire, "rcpt", "5yz", has="ac", badmail="b"),
            Part(wire, "rcpt", "421", held="abc"),
            Part(wire, "rcpt", "drop", held="abc"),
            Part(wire, "rcpt", "garbage", held="abc"),
            Part(wire, "rcpt", "timeout", held="abc"),
        )
    ),
    # The end of the message left with the envelope.
    Part("bdat", "rcpt", "4yz", has="ac", held="b"),
    Part("bdat", "rcpt", "5yz", has="ac", badmail="b"),
    Part("bdat", "rcpt", "421", has="ac", held="b"),
    Part("bdat", "rcpt", "drop", held="abc", in_doubt=True),
    Part("bdat", "rcpt", "garbage", has="ac", held="abc", in_doubt=True),
    Part("bdat", "rcpt", "timeout", held="abc", in_doubt=True),
    # LMTP answers the end of data once for each recipient (RFC 2033 4.2).
    Part("lmtp", "end-of-data", "4yz", has="ac", held="b"),
    Part("lmtp", "end-of-data", "5yz", has="ac", badmail="b"),
    Part("lmtp", "end-of-data", "421", has="ac", held="b"),
    Part("lmtp", "end-of-data", "drop", held="abc", in_doubt=True),
    Part("lmtp", "end-of-data", "garbage", has="ac", held="bc", in_doubt=True),
    Part("lmtp", "end-of-data", "timeout", held="abc", in_doubt=True),
]


@pytest.mark.parametrize("part", ONE_OF_THREE, ids=lambda part: f"{part.wire}-{part.stage}-{part.kind}")
def test_one_recipient_of_three(world: World, part: Part) -> None:
    speak(world, part.wire)
    world.send_to = (A, B, C)
    world.letters(1)
    world.smtp.faults = of_the_second(part)
    done = world.poll()
    store = "badmail" if part.badmail else "held"
    done.ended(1, f"office: message u1: {store}: ")
    assert recipients(world) == [PATHS[name] for name in part.has]
    assert world.statuses() == {"u1": store}
    assert world.left == ["u1"]
    (slip,) = world.kept(store)
    assert slip["forward_paths"] == [PATHS[name] for name in part.held + part.badmail]
    assert slip.get("in_doubt", False) == part.in_doubt
    assert len(world.kept("held")) + len(world.kept("badmail")) == 1
    before = len(world.smtp.delivered)
    world.heal()
    assert world.poll().code == 0
    assert recipients(world)[len(part.has) :] == [PATHS[name] for name in part.held]
    for message in world.smtp.delivered[before:]:
        assert (DUPLICATE in message.content) == part.in_doubt
    assert world.left == (["u1"] if part.badmail else [])
    assert world.pop3.retrieved == 1
    after = len(world.smtp.delivered)
    world.poll().ended(0)
    assert len(world.smtp.delivered) == after


def of_the_second(part: Part) -> SmtpFaults:
    """Return the fault for the second of three recipients, in a second session too."""
    second = {part.stage: (2, 4)}
    if part.kind == "drop":
        return SmtpFaults(drop=part.stage, only=second)
    if part.kind == "timeout":
        return SmtpFaults(hang=part.stage, only=second)
    replies = {B.encode(): REPLIES[part.kind]}
    if part.stage == "rcpt":
        return SmtpFaults(recipients=replies)
    return SmtpFaults(recipients_after_data=replies)


def recipients(world: World) -> list[str]:
    return [path.decode() for message in world.smtp.delivered for path in message.forward_paths]
