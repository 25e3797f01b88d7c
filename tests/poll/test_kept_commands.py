"""`poprep badmail` and `poprep held`, as people use them: list, show, retry, drop, export."""

from __future__ import annotations

import io
import json
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from poprep_cli.cli import kept_view
from poprep_cli.engine import files, kept
from tests.poll.outcome import Done
from tests.poll.world import POSIX, SmtpFaults, World, letter

UNKNOWN = SmtpFaults(recipients={b"office@corp.example": b"550 5.1.1 no such user\r\n"})
LATER = SmtpFaults(replies={"end-of-data": b"451 4.3.0 later\r\n"})
OTHER = "ada@corp.example"


def refused(world: World, count: int = 1) -> list[str]:
    """Have so many messages refused and return their ids."""
    world.letters(count)
    world.smtp.faults = UNKNOWN
    world.poll()
    world.smtp.faults = SmtpFaults()
    return ids(world, "badmail")


def deferred(world: World, count: int = 1) -> list[str]:
    """Have so many messages deferred and return their ids."""
    world.letters(count)
    world.smtp.faults = LATER
    world.poll()
    world.smtp.faults = SmtpFaults()
    return ids(world, "held")


def listed(world: World, kind: str, *arguments: str) -> list[dict[str, Any]]:
    done = world.command(kind, "list", "--json", *arguments)
    assert (done.code, done.err) == (0, "")
    found: list[dict[str, Any]] = done.document[kind]
    return found


def ids(world: World, kind: str) -> list[str]:
    return [item["id"] for item in listed(world, kind)]


def used_wrongly(done: Done, pattern: str) -> None:
    assert (done.code, done.out) == (2, ""), done
    assert re.search(pattern, " ".join(done.err.split())), done.err


def journal_line(world: World, uidl: str) -> dict[str, Any]:
    lines = [json.loads(line) for line in (world.state / "office.jsonl").read_text(encoding="utf-8").splitlines()]
    found: dict[str, Any] = [line for line in lines if line.get("uidl") == uidl][-1]
    return found


# ---------------------------------------------------------------------- retry


def test_badmail_for_a_corrected_recipient_arrives_and_its_copy_follows_the_rules(world: World) -> None:
    (one,) = refused(world)
    sessions = len(world.pop3.sessions)
    world.command("badmail", "retry", one[:4], "--to", OTHER).ended(0)
    assert len(world.pop3.sessions) == sessions
    assert world.arrived == world.sent
    (delivered,) = world.smtp.delivered
    assert delivered.forward_paths == (OTHER.encode(),)
    assert f"\tfor <{OTHER}>;".encode() in delivered.content
    assert b"office@corp.example" not in delivered.content
    line = journal_line(world, "u1")
    assert (line["status"], line["octets"]) == ("delivered", len(world.sent[0]))
    assert line["fingerprint"]
    assert "gone" not in line
    assert (world.kept("held"), world.kept("badmail"), world.left) == ([], [], ["u1"])
    world.poll().ended(0)
    assert (world.left, world.statuses()) == ([], {"u1": "deleted"})
    assert len(world.smtp.delivered) == 1


def test_two_recipients_and_no_name_in_the_trace(world: World) -> None:
    (one,) = refused(world)
    world.command("badmail", "retry", one, "--to", OTHER, "--to", "b@corp.example", "--to", OTHER).ended(0)
    (delivered,) = world.smtp.delivered
    assert delivered.forward_paths == (OTHER.encode(), b"b@corp.example")
    assert b"\tfor <" not in delivered.content


def test_refused_once_more(world: World) -> None:
    (one,) = refused(world)
    world.smtp.faults = UNKNOWN
    done = world.command("badmail", "retry", one, "--json")
    assert done.code == 1
    (office,) = done.document["connectors"]
    assert (office["delivered"], office["rejected"], office["deferred"], office["held"]) == (0, 1, 0, 0)
    (slip,) = world.kept("badmail")
    assert slip["attempts"] == 1
    assert len(slip["refusals"]) == 2
    assert ids(world, "badmail") == [one]
    assert world.statuses() == {"u1": "badmail"}


def test_while_smtp_is_down_it_is_held_and_the_next_pass_goes_on(world: World) -> None:
    (one,) = refused(world)
    world.smtp.faults = SmtpFaults(drop="greeting")
    done = world.command("badmail", "retry", one, "--to", OTHER)
    assert done.code == 75, done
    assert (world.kept("badmail"), len(world.kept("held"))) == ([], 1)
    assert world.statuses() == {"u1": "held"}
    used_wrongly(world.command("badmail", "retry", one), "this is held mail now: use `poprep held`")
    world.heal()
    world.poll().ended(0)
    assert [delivered.forward_paths for delivered in world.smtp.delivered] == [(OTHER.encode(),)]
    assert world.left == []


def test_what_is_refused_all_alike_goes_back_and_stops_no_pass(world: World) -> None:
    world.letters(1)
    world.poll().ended(0)
    for _ in range(4):  # one by one: alike at once, it would be taken for the server's fault
        world.letters(1)
        world.smtp.faults = UNKNOWN
        world.poll()
    found = ids(world, "badmail")
    assert len(found) == 4
    done = world.command("badmail", "retry", "--all", "--json")
    assert done.code == 69, done
    (office,) = done.document["connectors"]
    assert (office["deferred"], office["rejected"], office["held"]) == (0, 4, 0)
    assert {note["outcome"] for note in office["messages"]} == {"badmail"}
    assert ids(world, "badmail") == found
    assert world.statuses() == {"u1": "deleted"} | dict.fromkeys(("u2", "u3", "u4", "u5"), "badmail")
    world.smtp.faults = SmtpFaults()
    world.letters(1)
    world.poll().ended(0)
    assert len(world.smtp.delivered) == 2


def test_a_copy_that_was_purged_leaves_no_claim_on_its_uidl(world: World) -> None:
    (one,) = refused(world)
    with (world.state / "office.jsonl").open("a", encoding="utf-8") as file:
        line = journal_line(world, "u1") | {"status": "deleted"}
        file.write(json.dumps(line) + "\n")
    world.command("badmail", "retry", one, "--to", OTHER).ended(0)
    line = journal_line(world, "u1")
    assert line["status"] == "delivered"
    assert line["gone"]


def test_other_mail_under_the_uidl_of_a_purged_copy_is_new_mail(world: World) -> None:
    (one,) = refused(world)
    assert world.command("purge", "--rejected").code == 0
    assert world.left == []
    world.command("badmail", "retry", one, "--to", OTHER).ended(0)
    world.pop3.maildrop.add(letter(2), b"u1")
    world.poll()
    assert world.arrived == [world.sent[0], letter(2)]
    assert world.left == []


def test_a_message_without_recipients_needs_some(world: World) -> None:
    (one,) = refused(world)
    (path,) = (world.state / "badmail" / "office").glob("*.json")
    path.write_bytes(path.read_bytes().replace(b'"office@corp.example"\n', b"\n", 1))
    world.command("badmail", "retry", one).ended(1, "left in badmail: it has no recipient: name one by --to")
    assert ids(world, "badmail") == [one]
    assert world.smtp.delivered == []
    world.command("badmail", "retry", one, "--to", OTHER).ended(0)
    assert world.arrived == world.sent


def test_held_mail_goes_now_without_the_mailbox(world: World) -> None:
    deferred(world, 2)
    sessions = len(world.pop3.sessions)
    world.letters(1)
    world.command("held", "retry", "--all").ended(0)
    assert len(world.pop3.sessions) == sessions
    assert world.arrived == world.sent[:2]
    assert world.left == ["u1", "u2", "u3"]
    world.recovers()


def test_one_of_the_held_and_no_other(world: World) -> None:
    first, second = deferred(world, 2)
    world.command("held", "retry", second, "--to", OTHER).ended(0)
    assert world.arrived == world.sent[1:]
    assert ids(world, "held") == [first]
    assert world.statuses() == {"u1": "held", "u2": "delivered"}
    world.smtp.faults = LATER
    world.command("held", "retry", first).ended(1, "message u1: held: .*451 4.3.0 later")
    assert (world.kept("held")[0]["attempts"], ids(world, "held")) == (2, [first])


def test_nothing_to_retry_is_no_error(world: World) -> None:
    for kind in ("badmail", "held"):
        world.command(kind, "retry", "--all").ended(0)
        world.command(kind, "drop", "--all").ended(0)
    assert world.smtp.sessions == []
    assert not world.state.exists()


@pytest.mark.parametrize("command", [("retry",), ("drop", "--yes")])
def test_another_run_has_the_connector(world: World, command: tuple[str, ...]) -> None:
    (one,) = refused(world)
    lock = files.Lock(world.state / "office.lock", "it")
    try:
        world.command("badmail", *command, one).ended(
            75, "office: another run of poprep is working on connector office"
        )
    finally:
        lock.release()
    assert ids(world, "badmail") == [one]


@pytest.mark.parametrize("address", ["", "ada", "<a@b.example>", "a@b.example\r\nRCPT TO:<x@y>", "a b@c.example"])
def test_what_is_no_address(world: World, address: str) -> None:
    (one,) = refused(world)
    used_wrongly(world.command("badmail", "retry", one, "--to", address), "is not an address such as")
    assert ids(world, "badmail") == [one]


def test_a_connector_that_is_not_configured_any_more(world: World, tmp_path: Path) -> None:
    (one,) = refused(world)
    text = world.config.read_text(encoding="utf-8").replace("connector.office", "connector.sales")
    world.config.write_text(text, encoding="utf-8")
    (item,) = listed(world, "badmail")
    assert (item["connector"], item["configured"]) == ("office", False)
    assert "office (not in the configuration)" in world.command("badmail", "list", "office").out
    world.command("badmail", "retry", one).ended(78, "has no connector office any more")
    assert world.command("badmail", "export", one, str(tmp_path / "x.eml")).code == 0
    assert (tmp_path / "x.eml").read_bytes() == world.sent[0]
    world.command("badmail", "drop", one, "--yes").ended(0)
    assert ids(world, "badmail") == []


def test_a_connector_that_is_switched_off(world: World) -> None:
    (one,) = refused(world)
    world.connector_lines = "enabled = false"
    world.write()
    world.command("badmail", "retry", one).ended(78, "connector.office is switched off")


# ---------------------------------------------------------------------- drop


def test_dropped_badmail_stays_in_the_mailbox(world: World) -> None:
    first, second = refused(world, 2)
    world.command("badmail", "drop", first, "--yes").ended(0)
    assert ids(world, "badmail") == [second]
    world.poll().ended(0)
    assert world.statuses() == {"u1": "badmail", "u2": "badmail"}
    assert world.left == ["u1", "u2"]
    assert world.smtp.delivered == []


def test_dropped_held_mail_counts_as_discarded(world: World) -> None:
    world.leave_copy = True
    first, second = deferred(world, 2)
    done = world.command("held", "drop", first, second, "--yes", "--json")
    assert done.document == {
        "exit_code": 0,
        "dropped": [{"id": first, "connector": "office"}, {"id": second, "connector": "office"}],
        "errors": [],
    }
    assert world.statuses() == {"u1": "discarded", "u2": "discarded"}
    read = world.pop3.retrieved
    world.poll().ended(0)
    assert (world.left, world.pop3.retrieved, world.smtp.delivered) == (["u1", "u2"], read, [])
    world.leave_copy = False
    world.write()
    world.poll().ended(0)
    assert world.left == []
    log = "".join(path.read_text(encoding="utf-8") for path in (world.state / "log").iterdir())
    assert f"dropped u1 from held ({first}), by command" in log


def test_without_a_terminal_dropping_needs_a_yes(world: World) -> None:
    (one,) = refused(world)
    used_wrongly(world.command("badmail", "drop", one), "there is no terminal to ask on: say --yes")
    assert ids(world, "badmail") == [one]


class Terminal(io.StringIO):
    """A standard input with a person at it."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "left", "code"), [("y\n", 0, 0), ("n\n", 1, 0), ("", 1, 130)])
def test_a_person_is_asked(world: World, monkeypatch: pytest.MonkeyPatch, answer: str, left: int, code: int) -> None:
    (one,) = deferred(world)
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    done = world.command("held", "drop", one)
    assert done.code == code
    assert "Remove this message from this machine for good?" in done.err
    assert "their copies in the mailbox are deleted as the rules for delivered mail say" in done.err
    assert one in done.err
    assert len(ids(world, "held")) == left


# ---------------------------------------------------------------------- export


def test_export_gives_the_exact_octets(world: World, tmp_path: Path) -> None:
    world.mail(letter(1, b"\xff\0 stray\r .\r\n..dots\r\n"))
    (one,) = refused(world, 0)
    target = tmp_path / "mail.eml"
    done = world.command("badmail", "export", one, str(target))
    assert (done.code, done.out) == (0, f"{target}\n")
    assert target.read_bytes() == world.sent[0]
    assert not POSIX or stat.S_IMODE(target.stat().st_mode) == 0o600
    target.write_bytes(b"mine")
    world.command("badmail", "export", one, str(target)).ended(74, "can't open .*mail.eml: file exists")
    assert target.read_bytes() == b"mine"
    command = [sys.executable, "-m", "poprep_cli", "--state-dir", str(world.state), "badmail", "export", one]
    assert subprocess.run(command, capture_output=True, check=True).stdout == world.sent[0]
    used_wrongly(world.command("badmail", "export", one, "--json"), "--json needs a FILE")


def test_export_all_into_a_folder(world: World, tmp_path: Path) -> None:
    found = refused(world, 2)
    folder = tmp_path / "saved" / "mail"
    done = world.command("badmail", "export", "--all", str(folder), "--json")
    assert [item["file"] for item in done.document["exported"]] == [str(folder / f"office-{one}.eml") for one in found]
    assert [(folder / f"office-{one}.eml").read_bytes() for one in found] == world.sent
    used_wrongly(world.command("badmail", "export", found[0], "--all", str(folder)), "not both")
    used_wrongly(world.command("badmail", "export"), "name messages by their ids, or use --all")


# ---------------------------------------------------------------------- list, show, names


def test_the_list_for_people(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    (one,) = refused(world)
    (since,) = [slip["since"] for slip in world.kept("badmail")]
    monkeypatch.setenv("POPREP_TESTING", "1")
    monkeypatch.setenv("POPREP_TEST_CLOCK", since.replace("Z", "+00:00"))
    done = world.command("badmail", "list")
    heads, row = done.out.splitlines()
    assert heads.split() == ["id", "connector", "age", "from", "subject", "to", "size", "why"]
    cells = re.split(" {2,}", row)
    assert cells[:6] == [one, "office", "0 min", "Ada <ada@example.net>", "Number 1", "office@corp.example"]
    assert cells[7] == "office@corp.example at rcpt: 550 5.1.1 no such user"
    assert (world.command("held", "list").out, world.command("held", "list").code) == ("", 0)
    used_wrongly(
        world.command("badmail", "list", "nobody"), "there is no connector 'nobody', nor mail of one; .*office"
    )


def test_a_hostile_header_is_harmless(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.mail(
        b"From: \x1b[31mred\x07 \xe2\x80\xae\r\nSubject: =?utf-8?q?caf=C3=A9_=1B]0;x_[red]?= =?nonsense?b?!?=\r\n"
        b"X: =?x?q?\r\n\r\nBody \x1b[2J\r\n",
        b"Subject: =?zlib?b?eJw=?= [bold]not markup[/bold]\r\n\r\nx\r\n",
    )
    one, _ = refused(world, 0)
    for arguments in (("list",), ("list", "--json"), ("show", one, "--body"), ("show", one, "--body", "--json")):
        done = world.command("badmail", *arguments)
        assert done.code == 0
        assert all(char.isprintable() or char == "\n" for char in done.out), arguments
    kept_view.render("badmail", kept.survey(world.state, "badmail"), None)
    shown = capsys.readouterr().out
    assert "\x1b[31m" not in shown
    assert "[bold]" in "".join(shown.split())


def test_all_about_one(world: World) -> None:
    (one,) = refused(world)
    out = world.command("badmail", "show", one).out
    for part in (
        f"{one}: {len(world.sent[0])} octets of connector office",
        "UIDL          u1",
        "from          <ada@example.net>",
        "to            office@corp.example",
        "office@corp.example at rcpt: 550 5.1.1 no such user",
        "Subject: Number 1",
    ):
        assert part in out
    assert "Hello." not in out
    assert "Hello." in world.command("badmail", "show", one, "--body").out
    (item,) = world.command("badmail", "show", one, "--json").document["badmail"]
    assert item["refusals"][0]["reply"] == "550 5.1.1 no such user"
    assert "Subject: Number 1" in item["header"]
    assert "body" not in item


def test_names_that_name_nothing_or_several(world: World) -> None:
    used_wrongly(world.command("badmail", "show", "ffff"), "there is no message 'ffff' here, nor another")
    first, second = refused(world, 2)
    unknown = next(digit for digit in "0123456789abcdef" if digit not in (first[0], second[0]))
    used_wrongly(world.command("badmail", "show", unknown), f"here; there are: {first} .office., {second} .office.")
    used_wrongly(world.command("badmail", "show", ""), "there is no message ''")
    used_wrongly(world.command("badmail", "retry"), "name messages by their ids, or use --all")
    used_wrongly(world.command("badmail", "drop", first, "--all"), "not both")
    used_wrongly(world.command("held", "show", first), "this is badmail now: use `poprep badmail`")
    path = listed(world, "badmail", "OFFICE")[1]["file"]
    for word in (second.upper(), path, Path(path).name):
        assert world.command("badmail", "show", word).out.startswith(second)


def test_a_slip_that_can_not_be_read_does_not_hide_the_others(world: World, tmp_path: Path) -> None:
    first, second = deferred(world, 2)
    (path, _) = sorted((world.state / "held" / "office").glob("*.json"))
    path.write_bytes(b"{")
    broken, fine = listed(world, "held")
    assert "can't be read" in broken["flaw"]
    assert (broken["subject"], fine["flaw"]) == ("Number 1", "")
    assert "can't be read" in world.command("held", "list").out
    assert "or save the mail by `poprep held export" in world.command("held", "show", first).out
    world.poll().ended(74, "can't be read")
    done = world.command("held", "retry", "--all")
    done.ended(74, "can't be read")
    assert world.arrived == [world.sent[1]]
    assert f"poprep held export {first} FILE" in done.err
    assert world.command("held", "export", first, str(tmp_path / "saved.eml")).code == 0
    assert (tmp_path / "saved.eml").read_bytes() == world.sent[0]
    world.command("held", "drop", first, "--yes").ended(0)
    assert ids(world, "held") == []
    assert second not in ids(world, "held")
    world.poll().ended(0)


def test_a_wrong_configuration_keeps_nobody_from_looking(world: World) -> None:
    (one,) = refused(world)
    world.config.write_text("[nonsense", encoding="utf-8")
    (item,) = listed(world, "badmail")
    assert (item["id"], item["configured"]) == (one, None)
    assert world.command("badmail", "show", one).code == 0
    assert world.command("badmail", "retry", one).code == 78
