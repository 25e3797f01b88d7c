"""UIDLs change, vanish and come back: nothing is sent twice, nothing is lost, and honest mail is not held up."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from poprep_cli.embedded.pop3 import Mail
from poprep_cli.engine import files
from poprep_cli.errors import StateError
from tests.poll.world import Pop3Faults, SmtpFaults, World, letter

NO_TOP = Pop3Faults(top_refused=True)
STORM = "new by their UIDLs while .* known ones are missing"
RECOGNISED = "messages were recognised under new UIDLs: the server was probably migrated"


@pytest.fixture
def kept(world: World) -> World:
    """A mailbox in which mail stays."""
    world.smtp.chunking = False
    world.leave_copy = True
    return world


def rename(world: World, *, first: int = 0, count: int = 1000) -> None:
    """Give messages other UIDLs."""
    mail = list(world.pop3.maildrop.mail())
    world.pop3.maildrop.replace(
        Mail(b"new-" + one.uidl, one.content) if first <= place < first + count else one
        for place, one in enumerate(mail)
    )


def entries(world: World) -> dict[str, dict[str, Any]]:
    """Return the last line of each message in the journal, as far as it is still in there."""
    lines = (world.state / "office.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    return {line["uidl"]: line for line in found if "uidl" in line}


def ignore(world: World, uidl: str, **more: Any) -> None:
    """Write into the journal that a message is ignored."""
    line = {
        "uidl": uidl,
        "first_seen": "2026-11-01T00:00:00Z",
        "status": "ignored",
        "at": "2026-11-01T00:00:00Z",
        **more,
    }
    path = world.state / "office.jsonl"
    path.write_text(path.read_text(encoding="utf-8") + json.dumps(line) + "\n", encoding="utf-8")


def test_all_uidls_change(kept: World) -> None:
    kept.letters(60)
    kept.poll().ended(0)
    before = entries(kept)
    rename(kept)
    kept.letters(2)
    kept.poll().ended(0, f"60 {RECOGNISED}")
    assert Counter(kept.arrived) == Counter(kept.sent)
    after = entries(kept)
    assert set(after) == {*(f"new-u{number}" for number in range(1, 61)), "u61", "u62"}
    assert all(after[f"new-{uidl}"] == line | {"uidl": f"new-{uidl}"} for uidl, line in before.items())
    journal = (kept.state / "office.jsonl").read_bytes()
    kept.poll().ended(0)
    assert (kept.state / "office.jsonl").read_bytes() == journal
    assert Counter(kept.arrived) == Counter(kept.sent)


def test_a_look_adopts_nothing(kept: World) -> None:
    kept.letters(12)
    kept.poll().ended(0)
    journal = (kept.state / "office.jsonl").read_bytes()
    rename(kept)
    done = kept.poll("--dry-run", "--json")
    assert done.code == 0
    (report,) = done.document["connectors"]
    assert report["plan"]["fetch"] == []
    assert "12 messages were recognised" in report["advice"][0]
    assert (kept.state / "office.jsonl").read_bytes() == journal


@pytest.mark.parametrize("renamed", [20, 16])
def test_some_uidls_change(kept: World, renamed: int) -> None:
    kept.letters(30)
    kept.poll().ended(0)
    rename(kept, first=30 - renamed)
    kept.poll().ended(0, f"{renamed} {RECOGNISED}")
    assert Counter(kept.arrived) == Counter(kept.sent)


def test_a_migration_that_takes_days(kept: World) -> None:
    kept.letters(30)
    kept.poll().ended(0)
    old = kept.pop3.maildrop.mail()
    kept.pop3.maildrop.replace([])
    kept.letters(1)
    kept.poll().ended(0)  # the new server has new mail only, and it is honest
    kept.pop3.maildrop.replace([*(Mail(b"new-" + one.uidl, one.content) for one in old), *kept.pop3.maildrop.mail()])
    kept.poll().ended(0, f"30 {RECOGNISED}")
    assert Counter(kept.arrived) == Counter(kept.sent)


def test_honest_mass_mail_beside_known_mail(kept: World) -> None:
    kept.letters(5)
    kept.poll().ended(0)
    kept.letters(60)
    kept.poll().ended(0)
    assert kept.arrived == kept.sent
    assert not any("TOP" in session.verbs for session in kept.pop3.sessions)


def test_an_emptied_mailbox_with_new_mail(kept: World) -> None:
    kept.letters(30)
    kept.poll().ended(0)
    kept.pop3.maildrop.replace([])
    kept.poll().ended(0)
    kept.letters(60)
    kept.poll().ended(0)
    assert kept.arrived == kept.sent


def test_copies_of_one_message_are_adopted_once_each(kept: World) -> None:
    kept.mail(letter(1), letter(1), letter(2))
    kept.poll().ended(0)
    rename(kept)
    kept.mail(letter(1))
    kept.poll().ended(0, f"3 {RECOGNISED}")
    assert Counter(kept.arrived) == Counter(kept.sent)


def test_without_top_it_stops_until_somebody_decides(kept: World) -> None:
    kept.letters(12)
    kept.poll().ended(0)
    rename(kept)
    kept.pop3.faults = NO_TOP
    journal = (kept.state / "office.jsonl").read_bytes()
    for _ in range(2):
        done = kept.poll()
        done.ended(75, STORM)
        assert "poprep state adopt office" in done.err
        assert "poprep state forget office --all" in done.err
        assert (kept.state / "office.jsonl").read_bytes() == journal
    (report,) = kept.poll("--json").document["connectors"]
    assert report["reason"] == "uidl-storm"
    assert Counter(kept.arrived) == Counter(kept.sent)
    kept.heal()
    kept.poll().ended(0, f"12 {RECOGNISED}")
    assert Counter(kept.arrived) == Counter(kept.sent)


def test_without_top_a_few_of_other_sizes_are_new(kept: World) -> None:
    kept.letters(4)
    kept.poll().ended(0)
    kept.pop3.maildrop.replace([])
    kept.pop3.faults = NO_TOP
    kept.mail(*(letter(number, b"x" * 50 * number + b"\r\n") for number in range(20, 24)))
    kept.poll().ended(0)
    assert kept.arrived == kept.sent


def test_without_top_sizes_tell(kept: World) -> None:
    kept.letters(4)
    kept.poll().ended(0)
    kept.pop3.faults = NO_TOP
    rename(kept)
    kept.poll().ended(75, STORM)


def test_a_server_that_breaks_on_top(kept: World) -> None:
    kept.letters(12)
    kept.poll().ended(0)
    rename(kept)
    kept.pop3.faults = Pop3Faults(replies={"TOP": "drop"})
    kept.poll().ended(75, STORM)
    assert Counter(kept.arrived) == Counter(kept.sent)


@pytest.mark.parametrize("count", [12, 3])
def test_ignored_mail_without_fingerprints(kept: World, count: int) -> None:
    kept.letters(count)
    kept.write()
    kept.state.mkdir(mode=0o700)
    (kept.state / "office.jsonl").touch(mode=0o600)
    for number in range(1, count + 1):
        ignore(kept, f"u{number}", octets=len(kept.sent[number - 1]))
    kept.poll().ended(0)
    rename(kept)
    kept.poll().ended(75, STORM)
    assert kept.arrived == []


def test_one_ignored_message_less_holds_nothing_up(kept: World) -> None:
    kept.letters(1)
    kept.write()
    kept.state.mkdir(mode=0o700)
    (kept.state / "office.jsonl").touch(mode=0o600)
    ignore(kept, "u1")
    kept.poll().ended(0)
    kept.pop3.maildrop.replace([])
    kept.letters(60)
    kept.poll().ended(0)
    assert Counter(kept.arrived) == Counter(kept.sent[1:])


def test_another_mailbox(kept: World) -> None:
    kept.letters(12)
    kept.poll().ended(0)
    path = kept.state / "office.jsonl"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"mailbox":"office@', '"mailbox":"sales@'), encoding="utf-8")
    old = kept.pop3.maildrop.mail()
    kept.pop3.maildrop.replace([])
    kept.letters(12)
    kept.pop3.faults = NO_TOP
    kept.poll().ended(75, f"{STORM}.*its state is that of sales@127.0.0.1:\\d+, another mailbox")
    kept.heal()
    kept.poll().ended(0, "the state of sales@.* is that of office@.* from now on")
    assert kept.arrived == kept.sent
    kept.pop3.maildrop.replace([*kept.pop3.maildrop.mail(), *old])
    kept.poll().ended(0)
    assert kept.arrived == kept.sent


def test_held_mail_under_new_uidls(kept: World) -> None:
    kept.letters(3)
    kept.smtp.faults = SmtpFaults(replies={"data": b"451 4.7.1 later\r\n"})
    kept.poll().ended(1, "held", "held", "held")
    rename(kept)
    kept.poll()
    assert {slip["uidl"] for slip in kept.kept("held")} == {"new-u1", "new-u2", "new-u3"}
    kept.smtp.faults = SmtpFaults()
    kept.poll().ended(0)
    assert Counter(kept.arrived) == Counter(kept.sent)
    assert set(entries(kept)) == {"new-u1", "new-u2", "new-u3"}
    assert set(kept.statuses().values()) == {"delivered"}


# ---------------------------------------------------------------------- mail that is away for a while


def at(monkeypatch: pytest.MonkeyPatch, day: str) -> None:
    monkeypatch.setitem(os.environ, "POPREP_TESTING", "1")
    monkeypatch.setitem(os.environ, "POPREP_TEST_CLOCK", f"{day}T12:00:00Z")


def test_what_vanished_is_noted_once(kept: World) -> None:
    kept.letters(3)
    kept.poll().ended(0)
    mail = kept.pop3.maildrop.mail()
    kept.pop3.maildrop.remove(mail[:1])
    kept.poll().ended(0)
    assert entries(kept)["u1"]["gone"]
    assert "gone" not in entries(kept)["u2"]
    journal = (kept.state / "office.jsonl").read_bytes()
    kept.poll().ended(0)
    assert (kept.state / "office.jsonl").read_bytes() == journal
    kept.pop3.maildrop.replace([])
    kept.poll().ended(0)
    assert (kept.state / "office.jsonl").read_bytes() == journal


def test_it_is_forgotten_after_thirty_days(kept: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def is_known() -> bool:
        done = kept.command("state", "show", "--json", "office")
        return "u1" in [message["uidl"] for message in done.document["connectors"][0]["messages"]]

    at(monkeypatch, "2026-11-01")
    kept.letters(3)
    kept.poll().ended(0)
    kept.pop3.maildrop.remove(kept.pop3.maildrop.mail()[:1])
    for day in ("2026-11-02", "2026-12-01"):
        at(monkeypatch, day)
        kept.poll().ended(0)
    assert is_known()
    at(monkeypatch, "2036-12-01")  # a jump
    kept.poll().ended(0)
    assert is_known()
    at(monkeypatch, "2026-12-02")
    kept.poll()
    assert not is_known()
    journal = (kept.state / "office.jsonl").read_bytes()
    kept.poll()
    assert (kept.state / "office.jsonl").read_bytes() == journal


@pytest.mark.parametrize("faults", [Pop3Faults(), NO_TOP])
@pytest.mark.parametrize("same", [True, False])
def test_it_comes_back(kept: World, faults: Pop3Faults, same: bool) -> None:
    kept.letters(3)
    kept.poll().ended(0)
    (first, *rest) = kept.pop3.maildrop.mail()
    kept.pop3.maildrop.remove([first])
    kept.poll().ended(0)
    content = first.content if same else letter(99)
    kept.sent += [] if same else [content]
    kept.pop3.maildrop.replace([Mail(b"u1", content), *rest])
    kept.pop3.faults = faults
    kept.leave_copy = False  # what is deleted now was delivered
    kept.write()
    read = kept.pop3.retrieved
    done = kept.poll()
    assert done.code == 0
    assert Counter(kept.arrived) == Counter(kept.sent)
    assert kept.pop3.retrieved - read == int(not same or faults is NO_TOP)
    kept.poll().ended(0)
    assert kept.left == []
    assert Counter(kept.arrived) == Counter(kept.sent)


def test_it_is_not_deleted_before_it_was_compared(kept: World) -> None:
    kept.letters(2)
    kept.poll().ended(0)
    first, second = kept.pop3.maildrop.mail()
    kept.pop3.maildrop.remove([first])
    kept.poll().ended(0)
    kept.pop3.maildrop.replace([Mail(b"u1", letter(99)), second])
    kept.leave_copy = False
    kept.write()
    kept.pop3.faults = Pop3Faults(top_refused=True, retr={1: "err"})
    kept.poll().ended(1, "RETR was refused")
    assert kept.left == ["u1"]
    kept.sent.append(letter(99))
    kept.recovers()


def test_ignored_mail_comes_back(kept: World) -> None:
    kept.letters(3)
    kept.write()
    kept.state.mkdir(mode=0o700)
    (kept.state / "office.jsonl").touch(mode=0o600)
    ignore(kept, "u1", gone="2026-11-20T00:00:00Z")
    ignore(kept, "u2", gone="2026-11-20T00:00:00Z", octets=len(kept.sent[1]))
    ignore(kept, "u3", gone="2026-11-20T00:00:00Z", octets=5)
    kept.poll().ended(0)
    assert kept.arrived == kept.sent[2:]
    assert {uidl: line.get("gone") for uidl, line in entries(kept).items()} == {"u1": None, "u2": None, "u3": None}
    assert kept.statuses() == {"u1": "ignored", "u2": "ignored", "u3": "delivered"}


@pytest.mark.parametrize("failing", ["office.jsonl", ".json"])
def test_adoption_is_interrupted(kept: World, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    kept.letters(12)
    kept.poll().ended(0)
    kept.letters(2)
    kept.smtp.faults = SmtpFaults(replies={"data": b"451 4.7.1 later\r\n"})
    kept.poll().ended(1, "held", "held")
    rename(kept)
    real = files.replace

    def replace(path: Path, data: bytes, *, durable: bool = True) -> None:
        if path.name.endswith(failing):
            raise StateError(f"can't write {path}: no space left on device")
        real(path, data, durable=durable)

    with monkeypatch.context() as patch:
        patch.setattr(files, "replace", replace)
        assert kept.poll().code == 74
    kept.smtp.faults = SmtpFaults()
    assert kept.poll().code == 0
    assert kept.poll().code == 0
    assert Counter(kept.arrived) == Counter(kept.sent)
    assert kept.kept("held") == []
