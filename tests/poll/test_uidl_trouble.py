"""UIDLs that are missing, blank, listed twice or strange: each message is forwarded once, and none is lost."""

from __future__ import annotations

import json

import pytest

from poprep_cli.embedded.pop3 import Mail
from tests.poll.world import DUPLICATE, Pop3Faults, World, letter

ONE, TWO, THREE = letter(1), letter(2), letter(3, b"Another body.\r\n")
NO_TOP = (b"UIDL", b"USER", b"PIPELINING")


def put(world: World, *mail: Mail) -> None:
    """Make this the content of the mailbox; what is new in it has been sent."""
    world.sent += [one.content for one in mail if one.content not in world.sent]
    world.pop3.maildrop.replace(mail)


def same(uidl: bytes, *contents: bytes) -> list[Mail]:
    """Return messages that share a UIDL."""
    return [Mail(uidl, content) for content in contents]


def known(world: World) -> list[tuple[str, bool, str]]:
    """Return UIDL, whether there is a digest, and status of each message in the journal, sorted."""
    path = world.state / "office.jsonl"
    found = {}
    for line in map(json.loads, path.read_text(encoding="utf-8").splitlines() if path.exists() else ()):
        if "status" in line:
            found[line.get("uidl", line.get("uidl_b64")), line.get("digest", "")] = line["status"]
    return sorted((uidl, bool(digest), status) for (uidl, digest), status in found.items())


def arrived_once(world: World) -> None:
    assert sorted(world.arrived) == sorted(world.sent)
    assert not any(DUPLICATE in message.content for message in world.smtp.delivered)


def read(mail: bytes) -> bytes:
    """Return a message as it is after the server has noted in it that it was read."""
    return b"Status: RO\r\nX-UID: 7\r\n" + mail.replace(b"\r\n\r\n", b"\r\nX-Keywords:\r\nContent-Length: 8\r\n\r\n", 1)


TROUBLES: dict[str, tuple[list[Mail], Pop3Faults]] = {
    "refused": (same(b"", ONE, TWO, THREE), Pop3Faults(uidl="err")),
    "all blank": (same(b"", ONE, TWO, THREE), Pop3Faults()),
    "one blank": ([Mail(b"u1", ONE), Mail(b"", TWO), Mail(b"u3", THREE)], Pop3Faults()),
    "duplicate": ([Mail(b"u1", ONE), *same(b"u2", TWO, THREE)], Pop3Faults()),
    "passed over": (
        [Mail(b"u1", ONE), Mail(b"", TWO), Mail(b"u3", THREE)],
        Pop3Faults(uidl={}),
    ),
    "case": ([Mail(b"abc", ONE), Mail(b"ABC", TWO), Mail(b"aBc", THREE)], Pop3Faults()),
    "long": (
        [Mail(b"x" * 399 + end, mail) for end, mail in zip((b"a", b"b", b"c"), (ONE, TWO, THREE), strict=True)],
        Pop3Faults(),
    ),
    "8-bit": ([Mail(b"\xe9", ONE), Mail("é".encode(), TWO), Mail(b"\xff\x80", THREE)], Pop3Faults()),
    "spaces": ([Mail(b"a b", ONE), Mail(b"a  b", TWO), Mail(b" a b ", THREE)], Pop3Faults()),
}


@pytest.mark.parametrize("pipelined", [True, False], ids=["pipelined", "one by one"])
@pytest.mark.parametrize("leave_copy", [True, False], ids=["keep", "delete"])
@pytest.mark.parametrize("name", list(TROUBLES))
def test_each_is_forwarded_once(world: World, name: str, leave_copy: bool, pipelined: bool) -> None:
    mail, faults = TROUBLES[name]
    if name == "passed over":
        faults = Pop3Faults(replies={"UIDL": lambda argument: None if argument else b"+OK\r\n1 u1\r\n3 u3\r\n.\r\n"})
    world.leave_copy = leave_copy
    put(world, *mail)
    world.pop3.faults = (
        faults if pipelined else Pop3Faults(uidl=faults.uidl, replies=faults.replies, announce_pipelining=False)
    )
    world.poll().ended(0)
    assert world.arrived == world.sent
    assert len(world.pop3.maildrop.mail()) == (3 if leave_copy else 0)
    assert [status for _, _, status in known(world)] == ["delivered" if leave_copy else "deleted"] * 3
    retrieved = world.pop3.retrieved
    for _ in range(2):
        world.poll().ended(0)
    arrived_once(world)
    if leave_copy:
        assert world.pop3.retrieved == retrieved


@pytest.mark.parametrize("name", ["refused", "one blank", "duplicate"])
def test_the_line_drops_before_the_deletion(world: World, name: str) -> None:
    mail, faults = TROUBLES[name]
    put(world, *mail)
    world.pop3.faults = Pop3Faults(uidl=faults.uidl, dele="drop")
    world.poll().ended(75, "closed the connection")
    assert len(world.pop3.maildrop.mail()) == 3
    world.pop3.maildrop.replace([Mail(one.uidl, read(one.content)) for one in mail])
    world.pop3.faults = faults
    retrieved = world.pop3.retrieved
    world.poll().ended(0)
    arrived_once(world)
    assert world.pop3.maildrop.mail() == ()
    assert world.pop3.retrieved == retrieved


@pytest.mark.parametrize("name", ["refused", "all blank", "duplicate"])
def test_a_status_line_after_reading_makes_no_new_mail(world: World, name: str) -> None:
    mail, faults = TROUBLES[name]
    world.leave_copy = True
    put(world, *mail)
    world.pop3.faults = faults
    world.poll().ended(0)
    world.pop3.maildrop.replace([Mail(one.uidl, read(one.content)) for one in mail])
    world.poll().ended(0)
    arrived_once(world)


# ------------------------------------------------------------------ without TOP


def without_top(faults: Pop3Faults, *, announced: bool, **more: object) -> Pop3Faults:
    """Return faults of a server that has no TOP, and says so in CAPA or only when it is asked."""
    capa = None if announced else NO_TOP
    return Pop3Faults(uidl=faults.uidl, top_refused=True, capa=capa, **more)  # type: ignore[arg-type]


both = pytest.mark.parametrize("announced", [True, False], ids=["refused", "not announced"])


@both
def test_no_uidl_and_no_top_where_mail_stays(world: World, announced: bool) -> None:
    world.leave_copy = True
    put(world, *TROUBLES["refused"][0])
    world.pop3.faults = without_top(Pop3Faults(uidl="err"), announced=announced)
    for _ in range(2):
        done = world.poll()
        done.ended(76, "has neither UIDL nor TOP")
        assert "leave_copy = false" in done.err
    assert world.smtp.sessions == []
    assert known(world) == []


def test_an_empty_mailbox_without_uidl_and_top(world: World) -> None:
    world.leave_copy = True
    world.pop3.faults = without_top(Pop3Faults(uidl="err"), announced=True)
    world.poll().ended(0)


@both
@pytest.mark.parametrize("name", ["refused", "all blank", "duplicate"])
def test_without_top_where_nothing_stays(world: World, name: str, announced: bool) -> None:
    mail, faults = TROUBLES[name]
    put(world, *mail)
    world.pop3.faults = without_top(faults, announced=announced, dele="drop")
    world.poll().ended(75, "closed the connection")
    assert len(world.pop3.maildrop.mail()) == 3
    world.pop3.maildrop.replace([Mail(one.uidl, read(one.content)) for one in mail])
    world.pop3.faults = without_top(faults, announced=announced)
    world.poll().ended(0)
    arrived_once(world)
    assert world.pop3.maildrop.mail() == ()
    assert {status for _, _, status in known(world)} == {"deleted"}


@both
@pytest.mark.parametrize("name", ["one blank", "duplicate"])
def test_without_top_where_mail_stays(world: World, name: str, announced: bool) -> None:
    mail, faults = TROUBLES[name]
    world.leave_copy = True
    put(world, *mail)
    world.pop3.faults = without_top(faults, announced=announced)
    for number in range(3):
        done = world.poll("--json")
        (office,) = done.document["connectors"]
        assert (done.code, office["delivered"], office["new"]) == (0, 0 if number else 3, 0 if number else 3)
        assert any("read at every pass" in advice for advice in office["advice"])
    arrived_once(world)
    assert len(world.pop3.maildrop.mail()) == 3


def test_in_doubt_without_top(world: World) -> None:
    put(world, Mail(b"", ONE))
    world.pop3.faults = without_top(Pop3Faults(uidl="err"), announced=True)
    world.poll().ended(0)
    path = world.state / "office.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(line for line in lines if '"delivered"' not in line and '"deleted"' not in line), "utf-8")
    put(world, Mail(b"", ONE))
    world.poll().ended(0, "delivered again")
    assert [DUPLICATE in message.content for message in world.smtp.delivered] == [False, True]


def test_a_line_that_drops_among_mail_without_uidl_and_top(world: World) -> None:
    put(world, *same(b"", *(letter(number) for number in range(1, 6))))
    world.pop3.faults = without_top(Pop3Faults(uidl="err"), announced=True, retr={3: "drop-mid"})
    world.poll().ended(75, "closed the connection while message 3 was read")
    assert sorted(world.arrived) == sorted(world.sent[:2] + world.sent[3:])
    world.pop3.faults = without_top(Pop3Faults(uidl="err"), announced=True)
    world.poll().ended(0)
    arrived_once(world)
    assert world.pop3.maildrop.mail() == ()


def test_mail_without_a_header_is_told_apart_by_what_it_says(world: World) -> None:
    world.pop3.faults = Pop3Faults(uidl="err", dele="drop")
    put(world, *same(b"", b"\r\nDisk full.\r\n", b"\r\nDisk gone.\r\n"))
    world.poll().ended(75, "closed the connection")
    world.pop3.faults = Pop3Faults(uidl="err")
    put(world, *same(b"", b"\r\nDisk gone.\r\n", b"\r\nDisk back.\r\n"))
    world.poll().ended(0)
    assert sorted(world.arrived) == sorted(world.sent)
    assert world.pop3.maildrop.mail() == ()


# ------------------------------------------------------------------ what comes and goes


def test_twins_are_each_forwarded(world: World) -> None:
    put(world, *same(b"", ONE, ONE))
    world.pop3.faults = Pop3Faults(uidl="err", dele="drop")
    world.poll().ended(75, "closed the connection")
    assert world.arrived == [ONE, ONE]
    world.pop3.faults = Pop3Faults(uidl="err")
    world.poll().ended(0)
    assert world.arrived == [ONE, ONE]
    assert world.pop3.maildrop.mail() == ()


def test_of_twins_none_is_deleted_before_all_are_delivered(world: World) -> None:
    put(world, *same(b"", ONE, ONE, TWO))
    world.pop3.faults = Pop3Faults(uidl="err", retr={2: "err"})
    world.poll().ended(1, "left on the server")
    assert world.arrived == [ONE, TWO]
    assert [mail.content for mail in world.pop3.maildrop.mail()] == [ONE, ONE]
    world.pop3.faults = Pop3Faults(uidl="err")
    world.poll().ended(0)
    assert sorted(world.arrived) == sorted([ONE, ONE, TWO])
    assert world.pop3.maildrop.mail() == ()


def test_a_third_copy_after_twins_were_deleted(world: World) -> None:
    world.pop3.faults = Pop3Faults(uidl="err")
    put(world, *same(b"", ONE, ONE))
    world.poll().ended(0)
    put(world, *same(b"", ONE))
    world.poll().ended(0)
    assert world.arrived == [ONE, ONE, ONE]
    assert world.pop3.maildrop.mail() == ()


@pytest.mark.parametrize("top", [True, False])
def test_a_uidl_that_becomes_a_duplicate(world: World, top: bool) -> None:
    world.leave_copy = True
    put(world, *same(b"u1", ONE))
    world.pop3.faults = Pop3Faults() if top else without_top(Pop3Faults(), announced=True)
    world.poll().ended(0)
    assert known(world) == [("u1", False, "delivered")]
    for mail in (
        same(b"u1", ONE, TWO),
        same(b"u1", TWO, ONE),
        same(b"u1", TWO),
        same(b"u1", ONE),
        same(b"u1", ONE, TWO),
    ):
        put(world, *mail)
        world.poll()
        arrived_once(world)


def test_a_refusal_of_uidl_by_a_server_that_had_it(world: World) -> None:
    world.leave_copy = True
    world.letters(2)
    world.poll().ended(0)
    world.pop3.faults = Pop3Faults(uidl="err")
    world.poll().ended(69, "refused UIDL")
    arrived_once(world)
    world.heal()
    world.letters(1)
    world.poll().ended(0)
    arrived_once(world)


def test_a_server_without_uidl_that_only_says_that_it_deletes(world: World) -> None:
    put(world, *same(b"", ONE, TWO))
    for top in (True, False):
        world.pop3.faults = Pop3Faults(uidl="err", dele="ignore", top_refused=not top)
        for _ in range(2):
            world.poll()
            arrived_once(world)


def test_a_short_message_without_uidl_is_confirmed_by_its_header(world: World) -> None:
    put(world, *same(b"", ONE, TWO, THREE))
    world.pop3.faults = Pop3Faults(uidl="err", list_sizes={2: len(TWO) + 50}, announce_pipelining=False)
    world.poll().ended(0, "delivered, kept on the server")
    arrived_once(world)
    assert len(world.pop3.sessions) == 1
    world.poll().ended(0)
    arrived_once(world)
    assert world.pop3.maildrop.mail() == ()


def test_only_mail_without_a_header_in_a_mailbox_without_uidl(world: World) -> None:
    world.leave_copy = True
    world.pop3.faults = Pop3Faults(uidl="err")
    put(world, *same(b"", b"\r\nDisk full.\r\n"))
    for _ in range(3):
        assert world.poll().code == 0
    assert world.arrived == world.sent


def test_without_top_a_twin_that_was_not_read_is_not_taken_for_the_deleted_one(world: World) -> None:
    put(world, *same(b"", ONE, ONE))
    world.pop3.faults = without_top(Pop3Faults(uidl="err"), announced=True, retr={1: "err"})
    world.poll().ended(1, "left on the server")
    assert len(world.pop3.maildrop.mail()) == 1
    world.pop3.faults = without_top(Pop3Faults(uidl="err"), announced=True)
    world.poll().ended(0)
    assert world.arrived == [ONE, ONE]
    assert world.pop3.maildrop.mail() == ()


def test_a_twin_under_the_uidl_of_mail_that_is_known(world: World) -> None:
    world.leave_copy = True
    first, second = letter(1), letter(2)
    world.mail(first, second)
    world.poll().ended(0)
    world.pop3.maildrop.replace([Mail(b"u1", first), Mail(b"u2", second), Mail(b"u1", first)])
    world.sent.append(first)
    world.poll().ended(0)
    assert world.arrived == [first, second, first]
    world.poll().ended(0)
    assert len(world.arrived) == 3
