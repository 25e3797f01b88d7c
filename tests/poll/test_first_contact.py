"""What is in a mailbox before its first pass, and what is to be taken for known or for new on demand."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter

import pytest

from poprep_cli.engine import files
from poprep_cli.errors import StateError
from tests.poll.world import Pop3Faults, SmtpFaults, World, letter

IGNORED = r"messages were there before and are ignored \(ignore_existing\)"


@pytest.fixture
def cautious(world: World) -> World:
    world.connector_lines = "ignore_existing = true"
    world.letters(3)
    return world


def header(world: World) -> dict:
    return json.loads((world.state / "office.jsonl").read_text(encoding="utf-8").splitlines()[0])


def test_what_is_there_is_ignored_and_what_comes_is_not(cautious: World) -> None:
    cautious.poll().ended(0, f"^office: 3 {IGNORED}")
    assert cautious.statuses() == dict.fromkeys(("u1", "u2", "u3"), "ignored")
    assert cautious.pop3.retrieved == 0
    assert cautious.smtp.sessions == []
    assert "since" in header(cautious)
    before = (cautious.state / "office.jsonl").read_bytes()
    cautious.poll().ended(0)
    assert (cautious.state / "office.jsonl").read_bytes() == before
    cautious.letters(1)
    cautious.poll().ended(0)
    assert cautious.arrived == cautious.sent[3:]
    assert cautious.left == ["u1", "u2", "u3"]  # leave_copy is false, and still


def test_one_message(world: World) -> None:
    world.connector_lines = "ignore_existing = true"
    world.letters(1)
    world.poll().ended(0, r"1 message was there before and is ignored \(ignore_existing\)")


def test_an_empty_mailbox_counts(world: World) -> None:
    world.connector_lines = "ignore_existing = true"
    world.poll().ended(0)
    assert "since" in header(world)
    world.letters(2)
    world.poll().ended(0)
    assert len(world.arrived) == 2


@pytest.mark.parametrize(
    "faults",
    [
        Pop3Faults(refuse_user=b"-ERR [AUTH] no\r\n", refuse_apop=b"-ERR [AUTH] no\r\n"),
        Pop3Faults(replies={"LIST": "drop"}),
        Pop3Faults(replies={"LIST": b"+OK\r\n1 xx"}),
        Pop3Faults(no_greeting=True),
    ],
    ids=["login", "drop", "cut", "silence"],
)
def test_a_pass_that_fails_leaves_it_open(cautious: World, faults: Pop3Faults) -> None:
    cautious.pop3.faults = faults
    assert cautious.poll().code != 0
    assert cautious.statuses() == {}
    cautious.heal()
    cautious.poll("--force").ended(0, f"3 {IGNORED}")
    assert cautious.arrived == []


@pytest.mark.parametrize("step", ["write", "rename"])
def test_a_crash_while_it_is_recorded_leaves_it_open(
    cautious: World, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    real = files.replace

    def dies(path, data: bytes, *, durable: bool = True) -> None:
        if path.suffix == ".jsonl":
            if step == "rename":
                path.with_name(path.name + ".new").write_bytes(data if isinstance(data, bytes) else b"".join(data))
            raise StateError("the power went")
        real(path, data, durable=durable)

    with monkeypatch.context() as patched:
        patched.setattr(files, "replace", dies)
        cautious.poll().ended(74, "the power went")
    assert cautious.statuses() == {}
    cautious.poll().ended(0, f"3 {IGNORED}")
    assert cautious.arrived == []


def test_a_drop_before_quit_is_none_of_its_business(cautious: World) -> None:
    cautious.pop3.faults = Pop3Faults(quit="drop-before-commit")
    cautious.poll()
    cautious.heal()
    cautious.letters(1)
    cautious.poll().ended(0)
    assert len(cautious.arrived) == 1


def test_the_status_file_has_no_say(cautious: World) -> None:
    cautious.poll()
    (cautious.state / "office.status.json").unlink()
    cautious.letters(2)
    cautious.poll().ended(0)
    assert len(cautious.arrived) == 2


def test_what_was_forgotten_is_new_mail(cautious: World) -> None:
    cautious.poll()
    place = ("--config", str(cautious.config), "--state-dir", str(cautious.state))
    done = subprocess.run(
        [sys.executable, "-m", "poprep_cli", *place, "state", "forget", "office", "--all"],
        capture_output=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done
    cautious.poll().ended(0)
    assert len(cautious.arrived) == 3


def test_switched_on_later_it_changes_nothing(world: World) -> None:
    world.leave_copy = True
    world.letters(1)
    world.poll().ended(0)
    world.connector_lines = "ignore_existing = true"
    world.write()
    world.letters(2)
    world.poll().ended(0)
    assert len(world.arrived) == 3


def test_mail_that_is_held_says_that_it_is_no_first_contact(world: World) -> None:
    world.letters(1)
    world.smtp.faults = SmtpFaults(replies={"rcpt": b"451 4.3.0 later\r\n"})
    assert world.poll().code == 1
    (world.state / "office.jsonl").unlink()
    world.connector_lines = "ignore_existing = true"
    world.write()
    world.letters(1)
    world.poll()
    assert "ignored" not in world.statuses().values()


def test_a_dry_run_ignores_nothing_yet(cautious: World) -> None:
    done = cautious.poll("--dry-run")
    done.ended(0, r"3 messages were there before and would be ignored \(ignore_existing\)", out=done.out)
    assert "would fetch 0" in done.out
    assert not cautious.state.exists()
    cautious.poll().ended(0, f"3 {IGNORED}")


def test_messages_that_only_their_content_tells_apart(cautious: World) -> None:
    cautious.pop3.faults = Pop3Faults(uidl={1: b"", 2: b""}, top_refused=True)
    cautious.poll()
    lines = (cautious.state / "office.jsonl").read_text(encoding="utf-8").splitlines()[1:]
    assert [json.loads(line)["status"] for line in lines] == ["ignored"] * 3
    cautious.mail(letter(4))
    cautious.poll()
    assert cautious.arrived == [cautious.sent[3]]
    assert len(cautious.left) == 3


# --mark-seen


def test_mark_seen(world: World) -> None:
    world.smtp.faults = SmtpFaults(replies={"greeting": b"421 later\r\n"})
    world.letters(2)
    assert world.poll().code == 75  # one may be held, the rest is only listed
    held = [slip["uidl"] for slip in world.kept("held")]
    world.letters(1)
    sessions = len(world.smtp.sessions)
    world.poll("--mark-seen", "--dry-run").ended(0, r"of 3 listed messages would be marked as seen")
    assert "u3" not in world.statuses()
    done = world.poll("--mark-seen")
    done.ended(0, rf"{3 - len(held)} of 3 listed messages are marked as seen: they are never forwarded nor deleted")
    assert len(world.smtp.sessions) == sessions
    assert {uidl for uidl, status in world.statuses().items() if status != "ignored"} == set(held)
    world.poll("--mark-seen").ended(0, "0 of 3")
    world.heal()
    world.letters(1)
    world.poll().ended(0)
    assert Counter(world.arrived) == Counter([world.sent[int(uidl[1:]) - 1] for uidl in held] + world.sent[3:])
    assert "u3" in world.left


def test_mark_seen_completes_the_first_contact(cautious: World) -> None:
    cautious.poll("--mark-seen").ended(0, "3 of 3")
    cautious.letters(1)
    cautious.poll().ended(0)
    assert len(cautious.arrived) == 1


def test_mark_seen_as_json(world: World) -> None:
    world.letters(1)
    (connector,) = world.poll("--mark-seen", "--json").document["connectors"]
    assert (connector["listed"], connector["exit_code"], connector["delivered"]) == (1, 0, 0)


# --rescan

TOLD = r"all that is in the mailbox is sent again, whatever was delivered before \(--rescan\)"


def test_rescan(world: World) -> None:
    world.leave_copy = True
    world.letters(2)
    world.poll().ended(0)
    world.poll("--mark-seen")
    world.letters(1)
    done = world.poll("--rescan", "--dry-run", "office")
    assert "would fetch 3" in done.out
    assert set(world.statuses().values()) == {"delivered"}
    world.poll("--rescan", "office").ended(0, TOLD)
    assert Counter(world.arrived) == Counter(world.sent + world.sent[:2])
    world.poll().ended(0)
    assert len(world.arrived) == 5


def test_rescan_of_what_was_ignored(cautious: World) -> None:
    cautious.poll()
    cautious.poll("--rescan", "office").ended(0, TOLD)
    assert cautious.arrived == cautious.sent
    assert cautious.left == []


def test_a_rescan_that_is_cut_short_goes_on_at_the_next_pass(world: World) -> None:
    world.leave_copy = True
    world.letters(5)
    world.poll().ended(0)
    world.smtp.faults = SmtpFaults(replies={"greeting": b"421 later\r\n"})
    assert world.poll("--rescan", "office").code == 75
    assert "delivered" not in world.statuses().values()
    world.heal()
    world.poll().ended(0)
    assert Counter(world.arrived) == Counter(world.sent * 2)
    world.poll().ended(0)
    assert len(world.arrived) == 10


def test_what_is_held_is_not_fetched_by_a_rescan(world: World) -> None:
    world.letters(1)
    world.smtp.faults = SmtpFaults(replies={"rcpt": b"451 4.3.0 later\r\n"})
    assert world.poll().code == 1
    assert world.poll("--rescan", "office").code == 1
    assert len(world.kept("held")) == 1
    world.recovers()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--rescan",), "name the connectors"),
        (("--rescan", "--mark-seen", "office"), "exclude each other"),
    ],
)
def test_usage(world: World, arguments: tuple[str, ...], said: str) -> None:
    done = world.poll(*arguments)
    assert done.code == 2
    assert said in done.err
    assert len(world.pop3.sessions) == 0
