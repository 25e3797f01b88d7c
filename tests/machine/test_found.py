"""What stories have found: each a fault that took several mishaps in a row, and is told here as short as it can be."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.poll.world import Pop3Faults, SmtpFaults, World, letter

TOP = pytest.mark.parametrize("top", [True, False], ids=["TOP", "no TOP"])


def no_answer_to_quit(world: World, *, top: bool, commits: bool = True) -> None:
    """Run a pass that delivers and deletes a message, and never sees the answer to QUIT."""
    world.letters(1)
    world.pop3.faults = Pop3Faults(
        quit="drop-after-commit" if commits else "drop-before-commit",
        top_refused=not top,
    )
    world.poll().ended(75, "closed the connection")
    world.pop3.faults = replace(world.pop3.faults, quit=None)


@TOP
def test_a_uidl_used_again_after_a_quit_without_answer_is_new_mail(world: World, *, top: bool) -> None:
    no_answer_to_quit(world, top=top)
    world.sent.append(letter(7))
    world.pop3.maildrop.add(letter(7), b"u1")
    world.poll().ended(0)
    assert world.arrived == world.sent
    assert world.left == []


@TOP
def test_a_quit_that_did_nothing_is_made_good_without_a_repeat(world: World, *, top: bool) -> None:
    no_answer_to_quit(world, top=top, commits=False)
    assert world.left == ["u1"]
    world.poll().ended(0, *(() if top else ("message u1: not sent again",)))
    assert world.arrived == world.sent
    assert world.left == []


@TOP
def test_a_purge_deletes_nothing_unseen_after_a_quit_without_answer(world: World, *, top: bool) -> None:
    no_answer_to_quit(world, top=top)
    world.sent.append(letter(7))
    world.pop3.maildrop.add(letter(7), b"u1")
    assert world.command("purge").code == 0
    assert world.left == ["u1"]
    world.poll().ended(0)
    assert world.arrived == world.sent


@pytest.mark.parametrize("deferred", [False, True], ids=["dropped", "deferred"])
def test_half_a_message_that_was_held_does_not_have_the_whole_one_deleted(world: World, *, deferred: bool) -> None:
    world.letters(1)
    world.pop3.faults = Pop3Faults(retr={1: "cut"})
    world.smtp.faults = SmtpFaults(replies={"mail": b"451 later\r\n"}) if deferred else SmtpFaults(drop="mail")
    assert world.poll().code in (1, 75)
    assert len(world.kept("held")) == 1
    world.heal()
    for _ in range(3):
        world.poll()
        assert world.kept("held") == []
        assert world.left == ["u1"]
