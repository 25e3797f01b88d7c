"""`poprep state`: shown, forgotten, exported, imported, compacted, adopted; under the lock, and on disabled connectors."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from poprep_cli.embedded.pop3 import Mail
from poprep_cli.engine.files import Lock
from tests.poll.outcome import PASSWORD, Done
from tests.poll.world import POSIX, Pop3Faults, SmtpFaults, World, letter

COMMANDS = [
    ("show",),
    ("compact",),
    ("adopt", "office"),
    ("forget", "office", "--all"),
    ("export", "office"),
    ("import", "office", "empty"),
]


@pytest.fixture
def kept(world: World) -> World:
    """A mailbox with three delivered messages, which stay."""
    world.leave_copy = True
    world.letters(3)
    world.poll().ended(0)
    return world


def state(world: World, *arguments: str) -> Done:
    done = world.command("state", *arguments)
    assert PASSWORD not in done.out + done.err
    return done


def journal(world: World) -> bytes:
    return (world.state / "office.jsonl").read_bytes()


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda arguments: arguments[0])
def test_the_lock(kept: World, arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").touch()
    before = journal(kept)
    lock = Lock(kept.state / "office.lock", "connector office")
    try:
        done = state(kept, *arguments)
    finally:
        lock.release()
    assert done.code == 75
    assert "poprep: office: another run" in done.err or "poprep: another run" in done.err
    assert journal(kept) == before


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda arguments: arguments[0])
def test_a_disabled_connector(kept: World, arguments: tuple[str, ...], tmp_path: Path) -> None:
    kept.connector_lines = "enabled = false"
    kept.write()
    (tmp_path / "empty").touch()
    run = [str(tmp_path / "empty") if argument == "empty" else argument for argument in arguments]
    done = state(kept, *run, str(tmp_path / "out")) if arguments[0] == "export" else state(kept, *run)
    assert (done.code, done.err) == (0, "")


@pytest.mark.parametrize(
    "arguments", [("show",), ("compact",), ("forget", "office", "--all"), ("export", "office", "x")]
)
def test_no_state_yet(
    world: World, arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert state(world, *arguments).code == 0
    assert not world.state.exists()


def test_an_unknown_connector(world: World) -> None:
    assert state(world, "show", "nowhere").code == 2


def test_show(kept: World) -> None:
    done = state(kept, "show")
    assert (done.code, done.err) == (0, "")
    head, columns, *rows, total = done.out.splitlines()
    assert head == f"office: office@{kept.pop3.address}"
    assert columns.split() == ["UIDL", "STATUS", "FIRST", "SEEN", "SINCE", "OCTETS"]
    assert [row.split()[:2] for row in rows] == [[f"u{number}", "delivered"] for number in (1, 2, 3)]
    assert [int(row.split()[4]) for row in rows] == [len(content) for content in kept.sent]
    assert total == "  3 messages: 3 delivered"


def test_show_json(kept: World) -> None:
    document = state(kept, "show", "--json").document
    (connector,) = document["connectors"]
    assert document["exit_code"] == 0
    assert connector["counts"] == {"delivered": 3}
    assert connector["mailbox"] == f"office@{kept.pop3.address}"
    lines = [json.loads(line) for line in journal(kept).splitlines()]
    last = {line["uidl"]: line for line in lines if "uidl" in line}
    assert connector["messages"] == [line | {"shown": uidl} for uidl, line in last.items()]


def test_what_a_server_sent_can_not_drive_the_terminal(world: World) -> None:
    world.pop3.maildrop.replace([Mail(b"\x1b]0;x\x07[red]", letter(1)), Mail(b"\xff\xfe", letter(2))])
    world.leave_copy = True
    world.poll().ended(0)
    out = state(world, "show").out
    assert "\x1b" not in out
    assert "[red]" in out
    messages = state(world, "show", "--json").document["connectors"][0]["messages"]
    assert [set(message) & {"uidl", "uidl_b64"} for message in messages] == [{"uidl"}, {"uidl_b64"}]
    assert state(world, "forget", "office", *(message["shown"] for message in messages)).code == 0
    assert world.statuses() == {}


def test_one_state_that_can_not_be_read_does_not_stop_the_others(kept: World) -> None:
    kept.more = kept.tables("broken")
    kept.write()
    (kept.state / "broken.jsonl").write_bytes(b"garbage\n")
    done = state(kept, "show", "--json")
    assert done.code == 74
    found = {connector["connector"]: connector for connector in done.document["connectors"]}
    assert found["broken"]["exit_code"] == 74
    assert "holds nothing" in found["broken"]["errors"][0]["message"]
    assert "poprep state import broken FILE" in done.err
    assert len(found["office"]["messages"]) == 3


def test_forget(kept: World) -> None:
    done = state(kept, "forget", "office", "u2")
    assert done.out.startswith("office: 1 forgotten; what of it is still in the mailbox is new mail at the next poll")
    assert set(kept.statuses()) == {"u1", "u3"}
    kept.poll().ended(0)
    assert Counter(kept.arrived) == Counter([*kept.sent, kept.sent[1]])
    assert state(kept, "forget", "--json", "office", "--all").document["forgotten"] == 3
    assert kept.statuses() == {}


@pytest.mark.parametrize("arguments", [(), ("u1", "--all"), ("u1", "u9")])
def test_forget_something_else(kept: World, arguments: tuple[str, ...]) -> None:
    before = journal(kept)
    assert state(kept, "forget", "office", *arguments).code == 2
    assert journal(kept) == before


def test_compact(kept: World) -> None:
    assert journal(kept).count(b"\n") > 4
    assert state(kept, "compact", "--json", "office").document["connectors"][0]["lines"] == 4
    assert journal(kept).count(b"\n") == 4
    assert set(kept.statuses().values()) == {"delivered"}
    kept.poll().ended(0)
    assert kept.arrived == kept.sent


# ---------------------------------------------------------------------- from here to there


def test_export_and_import(kept: World, tmp_path: Path) -> None:
    out = tmp_path / "export"
    state(kept, "export", "office", str(out)).ended(0)
    if POSIX:
        assert out.stat().st_mode & 0o777 == 0o600
    (kept.state / "office.jsonl").unlink()
    done = state(kept, "import", "office", str(out))
    assert done.out == "office: 3 imported, 0 were known\n"
    assert journal(kept) == out.read_bytes()
    kept.poll().ended(0)
    assert kept.arrived == kept.sent
    assert state(kept, "import", "office", str(out)).out == "office: 0 imported, 3 were known\n"


def test_standard_output_and_input(kept: World) -> None:
    command = [sys.executable, "-m", "poprep_cli", *kept.arguments(("export", "office"), (), "state")]
    exported = subprocess.run(command, capture_output=True, check=True).stdout
    assert exported.count(b"\n") == 4
    (kept.state / "office.jsonl").unlink()
    command = [sys.executable, "-m", "poprep_cli", *kept.arguments(("import", "office", "-"), (), "state")]
    assert subprocess.run(command, input=exported, capture_output=True, check=True).stderr == b""
    assert journal(kept) == exported


def line(uidl: str, status: str, **more: str) -> str:
    return json.dumps({"uidl": uidl, "first_seen": "2026-11-01T00:00:00Z", "status": status, **more}) + "\n"


RANKS = [
    ("delivered", "seen", "delivered"),  # here, in the file -> afterwards
    ("seen", "delivered", "delivered"),
    ("delivered", "ignored", "delivered"),
    ("ignored", "delivered", "delivered"),
    ("deleted", "delivered", "deleted"),
    ("badmail", "ignored", "badmail"),
    ("sending", "seen", "sending"),
    ("sending", "delivered", "delivered"),
]


@pytest.mark.parametrize(("here", "there", "afterwards"), RANKS)
def test_the_more_final_status_stays(world: World, tmp_path: Path, here: str, there: str, afterwards: str) -> None:
    for status in (here, there):
        (tmp_path / "file").write_text(line("u1", status), encoding="utf-8")
        assert state(world, "import", "office", str(tmp_path / "file")).code == 0
    assert world.statuses() == {"u1": afterwards}


def test_held_is_what_waits_here(world: World, tmp_path: Path) -> None:
    world.letters(1)
    (tmp_path / "file").write_text(line("u1", "held"), encoding="utf-8")
    state(world, "import", "office", str(tmp_path / "file"))
    assert world.statuses() == {"u1": "seen"}
    world.smtp.faults = SmtpFaults(replies={"data": b"451 4.7.1 later\r\n"})
    world.poll()
    before = journal(world)
    state(world, "import", "office", str(tmp_path / "file"))
    assert journal(world) == before


GARBAGE = {
    "no line of ours": (line("u1", "seen") + "{}\n", "line 2"),
    "no status of ours": (line("u1", "lost"), "line 1"),
    "no time": (line("u1", "seen") + line("u2", "seen") + '{"uidl":"u3","first_seen":"x","status":"seen"}\n', "line 3"),
    "another version": ('{"format":"poprep-state","version":9}\n', "version 9"),
    "prose": ("# comment\nDear Sir\n", "line"),
    "fetchmail, cut": ("office@127.0.0.1 u1\noffice@127.0.0.1\n", "line 2"),
    "mpop, cut": (" 3 127.0.0.1 office\nu1\nu2\n", "1 UIDLs are missing"),
    "mpop, too many": (" 1 127.0.0.1 office\nu1\nu2\n", "line 3"),
    "somebody else's": ("joe@pop.example.net u1\n", "only of joe@pop.example.net: name one of them with --account"),
}


@pytest.mark.parametrize(("text", "why"), GARBAGE.values(), ids=list(GARBAGE))
def test_garbage_changes_nothing(kept: World, tmp_path: Path, text: str, why: str) -> None:
    before = journal(kept)
    (tmp_path / "file").write_text(text, encoding="utf-8")
    done = state(kept, "import", "office", str(tmp_path / "file"))
    assert done.code == 74
    assert why in done.err
    assert journal(kept) == before


def test_the_state_of_another_mailbox(kept: World, tmp_path: Path) -> None:
    out = tmp_path / "export"
    text = journal(kept).decode().replace('"mailbox":"office@', '"mailbox":"sales@')
    out.write_text(text, encoding="utf-8")
    state(kept, "import", "office", str(out)).ended(74, r"is the state of sales@.*, and connector office is office@")


def test_a_missing_file(kept: World) -> None:
    done = state(kept, "import", "office", "/nowhere/at/all")
    assert done.code == 2
    assert "can't read" in done.err


FETCHMAIL = "office@127.0.0.1 u1\nOffice@127.0.0.1 u2\njoe@pop.example.net u3\n"
MPOP = "# This file was generated by mpop\n#\n 2 127.0.0.1 office\nu1\nu2\n 1 pop.example.net joe\nu3\n"


@pytest.mark.parametrize("text", [FETCHMAIL, MPOP], ids=["fetchmail", "mpop"])
def test_who_comes_from_elsewhere_gets_nothing_twice(world: World, tmp_path: Path, text: str) -> None:
    world.letters(3)
    (tmp_path / "file").write_text(text, encoding="utf-8")
    assert state(world, "import", "--json", "office", str(tmp_path / "file")).document["imported"] == 2
    world.poll().ended(0)
    assert world.arrived == world.sent[2:]
    assert world.left == ["u1", "u2"]
    state(world, "import", "--account", "joe@pop.example.net", "office", str(tmp_path / "file"))
    assert world.statuses()["u3"] == "deleted"


# ---------------------------------------------------------------------- adopt


def test_adopt(kept: World) -> None:
    kept.mail(letter(50))
    mail = kept.pop3.maildrop.mail()
    kept.pop3.maildrop.replace(Mail(b"new-" + one.uidl, one.content) for one in mail)
    done = state(kept, "adopt", "office")
    assert done.out == "office: 3 recognised under new UIDLs, 1 recorded as ignored, 4 in the mailbox\n"
    assert kept.statuses() == {"new-u1": "delivered", "new-u2": "delivered", "new-u3": "delivered", "new-u4": "ignored"}
    kept.leave_copy = False
    kept.write()
    kept.poll().ended(0)
    assert kept.arrived == kept.sent[:3]
    assert kept.left == ["new-u4"]


def test_adopt_without_top(kept: World) -> None:
    kept.pop3.maildrop.replace(Mail(b"new-" + one.uidl, one.content) for one in kept.pop3.maildrop.mail())
    kept.pop3.faults = Pop3Faults(replies={"TOP": "drop"})
    assert state(kept, "adopt", "--json", "office").document == {
        "connector": "office",
        "exit_code": 0,
        "errors": [],
        "listed": 3,
        "adopted": 0,
        "ignored": 3,
    }
    kept.poll().ended(0)
    assert kept.arrived == kept.sent


def test_adopt_can_not_log_in(kept: World) -> None:
    kept.pop3.faults = Pop3Faults(apop=False, refuse_user=b"-ERR [AUTH] no\r\n")
    before = journal(kept)
    done = state(kept, "adopt", "--json", "office")
    assert (done.code, done.document["exit_code"]) == (77, 77)
    assert journal(kept) == before
