"""A pass whose journal is large logs in while it reads that. Whatever comes of either, it is as if one came after the other."""

from __future__ import annotations

import threading

import pytest

from poprep_cli.engine import access, quiet
from tests.poll.world import World


@pytest.fixture(autouse=True)
def logins(monkeypatch) -> list[threading.Thread]:
    """Take every journal for a large one, and return the threads that log in ahead."""
    begun: list[threading.Thread] = []
    begin = access._Ahead.__init__

    def noting(self, log_in) -> None:
        begin(self, log_in)
        begun.append(self._thread)

    monkeypatch.setattr(quiet, "LARGE", 1)
    monkeypatch.setattr(access._Ahead, "__init__", noting)
    return begun


def test_what_is_new_is_moved_and_the_rest_is_known(world: World, logins) -> None:
    world.leave_copy = True
    world.letters(2)
    world.poll().ended(0)
    assert not logins  # there was no journal
    world.letters(1)
    world.poll().ended(0)
    world.poll().ended(0)
    assert len(logins) == 2
    assert world.arrived == world.sent
    assert len(world.left) == 3


def test_a_journal_that_can_not_be_read_ends_the_pass_and_the_session(world: World, logins) -> None:
    world.leave_copy = True
    world.letters(2)
    world.poll().ended(0)
    (world.state / "office.jsonl").write_bytes(b"\0" * 4096 + b"\n")
    world.letters(1)
    world.poll().ended(74, "holds nothing that this poprep can read")
    logins[0].join()
    assert world.pop3.retrieved == 2
    assert len(world.left) == 3


def test_a_login_that_is_refused_is_told_as_ever(world: World, logins) -> None:
    world.leave_copy = True
    world.letters(1)
    world.poll().ended(0)
    world.password = "wrong"
    world.write()
    world.poll().ended(77, "refused the login of")
    assert len(logins) == 1


def test_held_mail_comes_before_any_login(world: World, logins) -> None:
    world.smtp.faults.replies["mail"] = b"452 4.3.1 no room\r\n"
    world.letters(1)
    world.poll().ended(1, "held")
    world.smtp.faults.replies.clear()
    world.poll().ended(0)
    assert not logins
    assert world.arrived == world.sent
