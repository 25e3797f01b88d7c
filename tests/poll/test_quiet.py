"""A quiet pass over a large mailbox leaves a memo: while listing, journal, rules and time are such, the next one needs nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from poprep_cli.config.load import load
from poprep_cli.embedded.pop3 import Mail, Maildrop
from poprep_cli.engine import files, quiet, visit
from poprep_cli.engine.state import Entry, Journal
from poprep_cli.errors import StateError
from poprep_cli.net import maildrop
from tests.poll.outcome import Done
from tests.poll.world import Pop3Faults, World

Pass = Callable[..., Done]
MORNING = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
CADENCE = timedelta(minutes=10)


@pytest.fixture(autouse=True)
def journals(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Take every journal for a large one, and return the paths of those that were read."""
    read: list[Path] = []

    class Noted(Journal):
        def __init__(self, path: Path, mailbox: str) -> None:
            read.append(path)
            super().__init__(path, mailbox)

    monkeypatch.setattr(quiet, "LARGE", 1)
    monkeypatch.setattr(visit, "Journal", Noted)
    return read


@pytest.fixture
def at(world: World, monkeypatch: pytest.MonkeyPatch) -> Pass:
    """Run a pass so long after the first morning."""
    monkeypatch.setenv("POPREP_TESTING", "1")
    world.leave_copy = True

    def run(after: timedelta, *arguments: str) -> Done:
        monkeypatch.setenv("POPREP_TEST_CLOCK", f"{MORNING + after:%Y-%m-%dT%H:%M:%SZ}")
        return world.poll(*arguments)

    return run


@pytest.fixture
def quiet_mailbox(world: World, at: Pass, journals: list[Path]) -> World:
    """A mailbox of three kept messages, after a pass that moved them and one that was quiet, 10 minutes later."""
    world.letters(3)
    at(timedelta(0)).ended(0)
    at(CADENCE).ended(0)
    journals.clear()
    return world


def failing(replace: Callable[..., None], path: Path) -> Callable[..., None]:
    """Return what replaces files but this one, for which there is no room."""

    def replace_another(target: Path, *arguments: Any, **options: Any) -> None:
        if target == path:
            raise StateError("no space left")
        replace(target, *arguments, **options)

    return replace_another


def memo(world: World) -> dict[str, object]:
    found: dict[str, object] = json.loads((world.state / "office.status.json").read_text("utf-8")).get("quiet", {})
    return found


def test_the_next_pass_reads_no_journal(quiet_mailbox: World, at: Pass, journals: list[Path]) -> None:
    journal = quiet_mailbox.state / "office.jsonl"
    before = (journal.read_bytes(), journal.stat().st_mtime_ns)
    for number in range(2, 5):
        done = at(number * CADENCE, "--json")
        (told,) = json.loads(done.out)["connectors"]
        assert (done.code, told["listed"], told["new"], told["advice"]) == (0, 3, 0, [])
    assert journals == []
    assert (journal.read_bytes(), journal.stat().st_mtime_ns) == before
    commands = quiet_mailbox.pop3.sessions[-1].commands
    assert [command.verb for command in commands[-3:]] == ["UIDL", "LIST", "QUIT"]


def test_a_pass_that_did_something_leaves_none(world: World, at: Pass, journals: list[Path]) -> None:
    world.letters(3)
    at(timedelta(0)).ended(0)
    assert memo(world) == {}
    at(CADENCE).ended(0)
    assert memo(world)["listed"] == 3


def test_new_mail_is_moved(quiet_mailbox: World, at: Pass, journals: list[Path]) -> None:
    quiet_mailbox.letters(1)
    at(2 * CADENCE).ended(0)
    assert quiet_mailbox.arrived == quiet_mailbox.sent
    assert len(journals) == 1
    at(3 * CADENCE).ended(0)
    assert len(journals) == 2
    at(4 * CADENCE).ended(0)
    assert len(journals) == 2


def test_other_mail_of_the_same_number_is_moved(quiet_mailbox: World, at: Pass) -> None:
    box = quiet_mailbox.pop3.maildrop
    first, second, third = box.mail()
    box.replace([first, second, Mail(b"u9", third.content.replace(b"Number 3", b"Number 9"))])
    at(2 * CADENCE).ended(0)
    assert len(quiet_mailbox.arrived) == 4


def test_mail_that_goes_is_noted(quiet_mailbox: World, at: Pass, journals: list[Path]) -> None:
    box = quiet_mailbox.pop3.maildrop
    box.replace(box.mail()[:2])
    at(2 * CADENCE).ended(0)
    assert len(journals) == 1
    assert b'"gone":"2026-11-02T09:20:00Z"' in (quiet_mailbox.state / "office.jsonl").read_bytes()


def test_a_journal_that_was_edited_is_read(quiet_mailbox: World, at: Pass, journals: list[Path]) -> None:
    path = quiet_mailbox.state / "office.jsonl"
    lines = path.read_text("utf-8").splitlines(keepends=True)
    path.write_text("".join(line for line in lines if '"uidl":"u2"' not in line), "utf-8")
    at(2 * CADENCE).ended(0)
    assert len(quiet_mailbox.arrived) == 4
    assert quiet_mailbox.arrived[3] == quiet_mailbox.sent[1]


def test_a_journal_that_was_touched_is_read(quiet_mailbox: World, at: Pass, journals: list[Path]) -> None:
    os.utime(quiet_mailbox.state / "office.jsonl")
    at(2 * CADENCE).ended(0)
    assert len(journals) == 1


def test_a_journal_that_is_gone_is_not_remembered(quiet_mailbox: World, at: Pass) -> None:
    (quiet_mailbox.state / "office.jsonl").unlink()
    at(2 * CADENCE).ended(0)
    assert len(quiet_mailbox.arrived) == 6  # as without a memo: nothing is known


@pytest.mark.parametrize("option", ["--force", "--rescan", "--dry-run"])
def test_options_that_want_a_whole_pass(quiet_mailbox: World, at: Pass, journals: list[Path], option: str) -> None:
    assert at(2 * CADENCE, option, "office").code == 0
    assert len(journals) == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("leave_copy = true", "leave_copy = false"),
        ("leave_copy = true", "leave_copy = true\nremove_after_days = 9"),
        ('user = "office"', 'user = "office"\nuse_top = true'),
        (
            "[connector.office.routing]",
            "[connector.office.limits]\nmax_message_size = 1000\n[connector.office.routing]",
        ),
    ],
)
def test_other_rules_want_a_whole_pass(
    quiet_mailbox: World, at: Pass, journals: list[Path], old: str, new: str
) -> None:
    text = quiet_mailbox.config.read_text("utf-8")
    assert old in text
    quiet_mailbox.config.write_text(text.replace(old, new), "utf-8")
    at(2 * CADENCE).ended(0)
    assert len(journals) == 1


@pytest.mark.parametrize(
    ("after", "reads"),
    [
        (timedelta(days=1), False),  # of the memo's, 10 minutes less than a day
        (CADENCE + timedelta(days=1), True),
        (timedelta(minutes=5), True),  # the clock went back
        (timedelta(days=-400), True),
    ],
)
def test_it_holds_for_a_day(
    quiet_mailbox: World, at: Pass, journals: list[Path], after: timedelta, *, reads: bool
) -> None:
    at(after - timedelta(seconds=1) if not reads else after).ended(0)
    assert bool(journals) == reads


def test_mail_is_deleted_when_it_is_due(world: World, at: Pass, journals: list[Path]) -> None:
    world.write()
    text = world.config.read_text("utf-8")
    world.config.write_text(text.replace("leave_copy = true", "leave_copy = true\nremove_after_days = 2"), "utf-8")
    world.letters(3)
    at(timedelta(0)).ended(0)
    at(timedelta(days=1, hours=12)).ended(0)
    journals.clear()
    at(timedelta(days=2, seconds=-1)).ended(0)
    assert journals == []
    assert len(world.left) == 3
    at(timedelta(days=2)).ended(0)
    assert world.left == []


def test_mail_that_vanished_before_it_was_due_costs_no_memo(world: World, at: Pass, journals: list[Path]) -> None:
    """It is remembered for 30 days, most of which it is past its days."""
    world.write()
    text = world.config.read_text("utf-8")
    world.config.write_text(text.replace("leave_copy = true", "leave_copy = true\nremove_after_days = 2"), "utf-8")
    world.letters(1)
    at(timedelta(0)).ended(0)
    world.letters(3)
    at(timedelta(days=1)).ended(0)
    world.pop3.maildrop = Maildrop(world.pop3.maildrop.mail()[1:])
    at(timedelta(days=2)).ended(0)
    at(timedelta(days=2) + CADENCE).ended(0)
    journals.clear()
    at(timedelta(days=2) + 2 * CADENCE).ended(0)
    assert journals == []
    at(timedelta(days=3, seconds=-1)).ended(0)
    assert (journals, len(world.left)) == ([], 3)
    at(timedelta(days=3)).ended(0)
    assert world.left == []


def test_what_is_told_at_each_pass_is_told_at_the_next(quiet_mailbox: World, at: Pass) -> None:
    path = quiet_mailbox.state / "office.jsonl"
    path.write_bytes(path.read_bytes() + b"garbage\n")
    for number in range(2, 5):
        at(number * CADENCE).ended(0, "1 unreadable lines were skipped")


def test_held_mail_is_tried_first(quiet_mailbox: World, at: Pass, journals: list[Path]) -> None:
    quiet_mailbox.smtp.faults.replies["mail"] = b"452 4.3.1 no room\r\n"
    quiet_mailbox.letters(1)
    at(2 * CADENCE).ended(1, "held")
    assert at(3 * CADENCE).code == 1
    quiet_mailbox.smtp.faults.replies.clear()
    at(4 * CADENCE).ended(0)
    assert quiet_mailbox.arrived == quiet_mailbox.sent


def test_a_session_that_breaks_on_grouped_commands_is_had_again(
    quiet_mailbox: World, at: Pass, journals: list[Path]
) -> None:
    sessions = len(quiet_mailbox.pop3.sessions)
    quiet_mailbox.pop3.faults = Pop3Faults(breaks_when_pipelined="drop")
    at(2 * CADENCE).ended(0)
    assert len(quiet_mailbox.pop3.sessions) == sessions + 2
    assert len(journals) == 1
    quiet_mailbox.pop3.faults = Pop3Faults()
    at(3 * CADENCE).ended(0)
    assert len(journals) == 1


@pytest.mark.parametrize("verb", ["UIDL", "LIST"])
@pytest.mark.parametrize("reply", [b"-ERR not now\r\n", b"+OK\r\n1 u1\r\n", "drop"])
def test_a_listing_that_fails_is_told_as_ever(
    quiet_mailbox: World, at: Pass, journals: list[Path], verb: str, reply: bytes | Any
) -> None:
    quiet_mailbox.pop3.faults = Pop3Faults(replies={verb: reply})
    first = at(2 * CADENCE)
    journals.clear()
    (quiet_mailbox.state / "office.status.json").unlink()
    second = at(3 * CADENCE)
    assert (first.code, first.err) == (second.code, second.err)
    assert first.code in (69, 75)
    quiet_mailbox.pop3.faults = Pop3Faults()
    at(4 * CADENCE).ended(0)
    assert len(quiet_mailbox.arrived) == 3


def test_a_listing_without_end(quiet_mailbox: World, at: Pass, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maildrop, "MAX_LISTING", 5000)
    lines = b"".join(b"%d u%d\r\n" % (number, number) for number in range(1, 1000))
    quiet_mailbox.pop3.faults = Pop3Faults(replies={"UIDL": b"+OK\r\n" + lines + b".\r\n"})
    sessions = len(quiet_mailbox.pop3.sessions)
    assert (
        at(2 * CADENCE).code == 0
    )  # taken for a server that can't have commands in a group, and then read line by line
    assert len(quiet_mailbox.pop3.sessions) == sessions + 2


def test_no_memo_where_messages_have_keys_of_their_own(world: World, at: Pass, journals: list[Path]) -> None:
    world.letters(2)
    box = world.pop3.maildrop
    box.replace([Mail(b"", one.content) for one in box.mail()])
    at(timedelta(0)).ended(0)
    at(CADENCE).ended(0)
    at(2 * CADENCE).ended(0)
    assert memo(world) == {}
    assert len(world.arrived) == 2


@pytest.mark.parametrize(
    ("first_seen", "until"),
    [
        ("2026-11-02T09:00:00Z", "2026-11-03T09:00:00Z"),
        ("2026-10-20T10:00:00Z", "2026-11-03T09:00:00Z"),
        ("2026-10-19T09:00:00Z", "2026-11-03T09:00:00Z"),
        ("2026-10-19T11:00:00Z", "2026-11-02T11:00:00Z"),
        ("2026-10-19T12:00:00+02:00", "2026-11-02T10:00:00Z"),
        ("yesterday", ""),
        ("9999-12-31T00:00:00Z", ""),
    ],
)
def test_until_when_nothing_is_due(world: World, first_seen: str, until: str) -> None:
    world.write()
    text = world.config.read_text("utf-8")
    world.config.write_text(text.replace("leave_copy = false", "leave_copy = true\nremove_after_days = 14"), "utf-8")
    (connector,) = load(world.config).connectors
    others = {b"o": Entry("2026-11-01T00:00:00Z", "delivered", ""), b"i": Entry("2001-01-01T00:00:00Z", "ignored", "")}
    entries = others | {b"u": Entry(first_seen, "delivered", "")}
    assert quiet.lasts_until(entries, connector, MORNING) == until


def test_a_compaction_that_failed_is_made_up_for(
    quiet_mailbox: World, at: Pass, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = quiet_mailbox.state / "office.jsonl"
    header, _, lines = path.read_bytes().partition(b"\n")
    path.write_bytes(header + b"\n" + lines * 200)
    before = path.stat().st_size
    with monkeypatch.context() as patch:
        patch.setattr(files, "replace", failing(files.replace, path))
        at(2 * CADENCE).ended(74, "no space")
    at(3 * CADENCE).ended(0)
    assert path.stat().st_size < before // 100
