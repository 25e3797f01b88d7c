"""The SMTP server is not there, hangs up, falls silent or talks nonsense: nothing is lost, and what is in doubt says so."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from poprep_cli.embedded.smtp import SmtpServer
from poprep_cli.embedded.smtp_faults import Stage
from tests.poll.world import SmtpFaults, World, closed_port, letter

pytestmark = pytest.mark.usefixtures("by_data")  # by BDAT: test_smtp_bdat.py


class Break(NamedTuple):
    """A stage at which the line breaks, the exit code of a pass over two messages, and how many are in doubt then."""

    stage: Stage
    code: int
    in_doubt: int = 0
    why: str = ""


BREAKS = [
    Break("greeting", 75),
    Break("ehlo", 75),
    Break("mail", 1),
    Break("rcpt", 1),
    Break("data", 1),
    Break("mid-data", 1, 2),
    Break("end-of-data", 1, 2),
    Break("after-accept", 1, 2),
]


@pytest.mark.parametrize("row", BREAKS, ids=lambda row: row.stage)
@pytest.mark.parametrize("kind", ["drop", "hang"])
def test_the_line_breaks(world: World, row: Break, kind: str) -> None:
    world.timeout = 0.3
    world.letters(2)
    world.smtp.faults = SmtpFaults(drop=row.stage) if kind == "drop" else SmtpFaults(hang=row.stage)
    done = world.poll()
    assert done.code == row.code, done
    why = "no answer came in time" if kind == "hang" else "(closed the connection|connection .* broke)"
    told = [f"office: message {uidl}: held: .*{why}" for uidl in ("u1", "u2")]
    done.ended(row.code, *([f"office: .*{world.smtp.address}.*{why}"] if row.code == 75 else []), *told)
    assert world.left == ["u1", "u2"]
    assert world.statuses() == {"u1": "held", "u2": "held"}
    slips = world.kept("held")
    assert [slip["content"] for slip in slips] == world.sent
    assert [slip.get("in_doubt", False) for slip in slips] == [bool(row.in_doubt)] * 2
    assert ("in doubt" in done.err) == bool(row.in_doubt)
    assert len(world.smtp.delivered) == (2 if row.stage == "after-accept" else 0)
    assert world.kept("badmail") == []
    after = world.recovers(repeated=row.in_doubt)
    told = [f"message {uidl}: delivered again: .*marked X-Poprep-Possible-Duplicate" for uidl in ("u1", "u2")]
    after.ended(0, *told[: row.in_doubt])


def test_the_line_breaks_as_a_user_sees_it(world: World) -> None:
    world.letters(1)
    world.smtp.faults = SmtpFaults(drop="after-accept")
    world.run().ended(1, "office: message u1: held: in doubt, .* may have it: .*closed the connection")
    assert len(world.smtp.delivered) == 1
    world.recovers(repeated=1)


GARBAGE = {
    "text": b"how do you do\r\n",
    "empty": b"\r\n",
    "code-of-999": b"999 eh\r\n",
    "code-of-150": b"150 working\r\n",
    "pop3": b"+OK\r\n",
    "nul": b"\0\0\0\0\r\n",
    "half": b"250-half\r\n",
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=list(GARBAGE))
@pytest.mark.parametrize("stage", ["greeting", "ehlo"])
def test_nonsense_at_the_door(world: World, stage: Stage, garbage: bytes) -> None:
    world.timeout = 0.3
    world.letters(2)
    world.smtp.faults = SmtpFaults(replies={stage: garbage})
    code = 75 if garbage == GARBAGE["half"] else 76
    world.poll().ended(code, f"office: .*{world.smtp.address}", "message u1: held", "message u2: held")
    assert world.smtp.delivered == []
    assert len(world.kept("held")) == 2
    world.recovers()


@pytest.mark.parametrize("garbage", [*GARBAGE.values(), b"354 go ahead\r\n"], ids=[*GARBAGE, "code-of-354"])
@pytest.mark.parametrize("stage", ["mail", "rcpt", "data", "end-of-data"])
def test_nonsense_in_a_transaction(world: World, stage: Stage, garbage: bytes) -> None:
    if (stage, garbage) == ("data", b"354 go ahead\r\n"):
        garbage = b"250 fine, and no data please\r\n"
    world.timeout = 0.3
    world.letters(2)
    # Half a reply is made whole by the reply to the next command, if that was sent ahead.
    world.smtp.faults = SmtpFaults(
        replies={stage: garbage}, announce=(b"SIZE",) if garbage == GARBAGE["half"] else None
    )
    world.poll().ended(1, "message u1: held", "message u2: held")
    assert world.smtp.delivered == []
    assert len(world.kept("held")) == 2
    assert world.kept("badmail") == []
    world.recovers(repeated=2 if stage == "end-of-data" else 0)


def test_a_silent_farewell_changes_nothing(world: World) -> None:
    world.letters(2)
    world.smtp.faults = SmtpFaults(drop="quit")
    world.poll().ended(0)
    assert world.left == []
    world.recovers()


def test_one_break_costs_nothing(world: World) -> None:
    world.letters(6)
    world.smtp.faults = SmtpFaults(drop="mail", only={"mail": (3,)})
    world.poll().ended(0)
    assert world.arrived == world.sent
    world.recovers()


def test_one_break_after_acceptance_costs_one_repeat(world: World) -> None:
    world.letters(6)
    world.smtp.faults = SmtpFaults(drop="after-accept", only={"after-accept": (3,)})
    world.poll().ended(1, "message u3: held: in doubt")
    assert world.left == ["u3"]
    assert world.arrived == world.sent
    world.recovers(repeated=1)
    assert world.arrived == [*world.sent, world.sent[2]]


@pytest.mark.parametrize("stage", ["mail", "data", "after-accept"])
def test_a_server_that_always_breaks_is_left_in_peace(world: World, stage: Stage) -> None:
    world.letters(10)
    world.smtp.faults = SmtpFaults(drop=stage)
    done = world.poll()
    assert done.code == 75, done
    in_doubt = stage == "after-accept"
    assert len(world.smtp.delivered) == (3 if in_doubt else 0)
    assert sum("MAIL" in session.verbs for session in world.smtp.sessions) == (3 if in_doubt else 6)
    assert len(world.left) == 10
    world.recovers(repeated=3 if in_doubt else 0)


def test_messages_that_break_the_line_do_not_stop_the_others(world: World) -> None:
    world.mail(*(letter(number, b"crash\r\n") for number in (1, 2)))
    world.letters(3)
    world.smtp.faults = SmtpFaults(
        replies={"end-of-data": lambda content: b"garbage\r\n" if b"crash" in content else None}
    )
    world.poll().ended(1, "message u1: held", "message u2: held")
    assert world.arrived == world.sent[2:]
    world.letters(2)
    world.poll().ended(1, "message u1: held", "message u2: held")
    assert world.arrived == world.sent[2:]
    assert world.left == ["u1", "u2"]
    world.recovers(repeated=2)


def test_nobody_listens(world: World) -> None:
    world.letters(20)
    world.write()
    world.smtp.stop()
    down = world.run()
    assert down.code == 75
    assert f"can't connect to {world.smtp.address}" in down.sentences[0]
    read = world.pop3.retrieved
    assert 0 < read <= 8
    assert [slip["content"] for slip in world.kept("held")] == world.sent[:read]
    assert len(world.left) == 20
    world.run().ended(75, f"can't connect to {world.smtp.address}")
    assert world.pop3.retrieved == read
    assert [slip["content"] for slip in world.kept("held")] == world.sent[:read]
    world.smtp = SmtpServer()
    with world.smtp:
        world.config.unlink()
        world.recovers()
        assert world.pop3.retrieved == 20
        assert world.arrived == world.sent


def test_at_most_four_mebibytes_are_read_for_a_server_that_is_down(world: World) -> None:
    world.mail(*(letter(number, (b"y" * 70 + b"\r\n") * 21_000) for number in range(1, 6)))  # 1.5 MB each
    world.smtp.faults = SmtpFaults(hang="greeting")
    assert world.poll().code == 75
    assert world.pop3.retrieved == 2
    assert [slip["content"] for slip in world.kept("held")] == world.sent[:2]
    world.recovers()
    assert world.pop3.retrieved == 5
    assert world.arrived == world.sent


def test_the_second_address_is_tried(world: World) -> None:
    world.letters(2)
    world.smtp_lines = ""
    world.write()
    text = world.config.read_text().replace(
        f'host = "{world.smtp.address}"', f'host = ["127.0.0.1:{closed_port()}", "{world.smtp.address}"]'
    )
    world.config.write_text(text)
    world.poll().ended(0)
    world.recovers()
