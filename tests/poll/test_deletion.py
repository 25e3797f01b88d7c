"""Deletion and QUIT go wrong: what was delivered is never sent again, and is deleted as soon as the server lets us."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from tests.poll.world import Pop3Faults, World, letter


class Trouble(NamedTuple):
    """A faulty server, the exit code, what is said, and whether the mail is still there afterwards."""

    faults: Pop3Faults
    code: int
    patterns: tuple[str, ...]
    stays: bool = True


ERR = tuple(f"message u{number}: delivered, not yet deleted: -ERR can't delete" for number in (1, 2))
TROUBLES = {
    "dele-err": Trouble(Pop3Faults(dele="err"), 0, ERR),
    "dele-drop": Trouble(Pop3Faults(dele="drop"), 75, ("closed the connection",)),
    "dele-empty-line": Trouble(Pop3Faults(dele="empty-line"), 76, ("the answer to DELE 1 is not POP3: an empty line",)),
    "quit-err": Trouble(Pop3Faults(quit="err"), 69, ("did not commit 2 deletions: -ERR some deleted messages",)),
    "quit-hang": Trouble(Pop3Faults(quit="hang"), 75, ("no answer came in time",)),
    "quit-drop-before": Trouble(Pop3Faults(quit="drop-before-commit"), 75, ("closed the connection",)),
    "quit-drop-after": Trouble(Pop3Faults(quit="drop-after-commit"), 75, ("closed the connection",), stays=False),
}


@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=list(TROUBLES))
def test_deletion_goes_wrong(world: World, trouble: Trouble) -> None:
    world.timeout = 0.5
    world.letters(2)
    world.pop3.faults = trouble.faults
    world.poll().ended(trouble.code, *trouble.patterns)
    assert world.arrived == world.sent
    assert world.left == (["u1", "u2"] if trouble.stays else [])
    assert world.statuses() == dict.fromkeys(("u1", "u2"), "delivered")
    world.poll()
    assert world.arrived == world.sent  # as faulty as before: nothing is repeated
    read = world.pop3.retrieved
    world.heal()
    world.poll().ended(0)
    assert world.left == []
    assert world.arrived == world.sent
    assert world.pop3.retrieved == read


def test_a_server_that_only_says_that_it_deletes(world: World) -> None:
    world.letters(2)
    world.pop3.faults = Pop3Faults(dele="ignore")
    world.poll().ended(0)
    assert world.statuses() == dict.fromkeys(("u1", "u2"), "deleted")
    for _ in range(3):
        said = world.poll()
        said.ended(0, *(f"message u{number}: not sent again: the server lists it still" for number in (1, 2)))
        assert world.arrived == world.sent
    world.heal()
    world.poll()
    assert world.left == []
    assert world.arrived == world.sent


def test_a_uidl_that_is_used_again_for_other_mail(world: World) -> None:
    for number in range(1, 4):
        world.sent.append(letter(number))
        world.pop3.maildrop.add(world.sent[-1], b"1")
        world.poll().ended(0)
        assert world.left == []
        assert world.arrived == world.sent


def test_quit_goes_wrong_as_a_user_sees_it(world: World) -> None:
    world.letters(2)
    world.pop3.faults = Pop3Faults(quit="drop-before-commit")
    world.run().ended(75, f"office: {world.pop3.address} closed the connection")
    world.recovers()
    assert world.arrived == world.sent


def test_a_quit_without_deletions_may_fail(world: World) -> None:
    world.leave_copy = True
    world.letters(2)
    world.pop3.faults = Pop3Faults(quit="err")
    world.poll().ended(0)
    assert world.arrived == world.sent
    world.heal()
    world.poll().ended(0)
    assert world.arrived == world.sent
    assert world.left == ["u1", "u2"]


@pytest.mark.parametrize(
    ("lines", "left"), [("", 2), ("remove_after_delivered = true", 0), ("remove_after_days = 3", 2)]
)
def test_the_server_copy(world: World, lines: str, left: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POPREP_TESTING", "1")
    monkeypatch.setenv("POPREP_TEST_CLOCK", "2026-11-01T09:00:00Z")
    world.leave_copy = True
    world.letters(2)
    world.write()
    text = world.config.read_text().replace("leave_copy = true", f"leave_copy = true\n{lines}")
    world.config.write_text(text)
    world.poll().ended(0)
    assert len(world.left) == left
    monkeypatch.setenv("POPREP_TEST_CLOCK", "2026-11-04T08:59:59Z")
    world.poll().ended(0)
    assert len(world.left) == left
    monkeypatch.setenv("POPREP_TEST_CLOCK", "2026-11-04T09:00:00Z")
    world.poll().ended(0)
    assert len(world.left) == (0 if "days" in lines else left)
    assert world.arrived == world.sent
