"""`poprep purge`: it deletes what is due and nothing else, fetches nothing, and never needs the SMTP server."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from poprep_cli.embedded.pop3 import Maildrop, Pop3Server
from tests.poll.outcome import Done, finished
from tests.poll.world import PASSWORD, POSIX, USER, Pop3Faults, SmtpFaults, World, settled

Clock = Callable[[str], None]
# AUTH also asks for the methods, TOP whether it is still the same mail where the answer to an earlier QUIT never came.
NEEDED = {"CAPA", "AUTH", "USER", "PASS", "APOP", "UIDL", "LIST", "TOP", "DELE", "QUIT"}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Set the time of day, at first to 1 November."""
    monkeypatch.setenv("POPREP_TESTING", "1")

    def put(moment: str) -> None:
        monkeypatch.setenv("POPREP_TEST_CLOCK", moment)

    put("2026-11-01T09:00:00Z")
    return put


def rules(world: World, lines: str, leave_copy: str = "true") -> None:
    """Write the configuration with these rules about the server's copy."""
    world.leave_copy = True
    world.write()
    text = world.config.read_text("utf-8")
    world.config.write_text(text.replace("leave_copy = true", f"leave_copy = {leave_copy}\n{lines}"), "utf-8")


def purge(world: World, *arguments: str, options: tuple[str, ...] = ()) -> Done:
    """Run the command in this process, and see that it fetched nothing and knew no SMTP server."""
    read, sent, sessions = world.pop3.retrieved, len(world.smtp.sessions), len(world.pop3.sessions)
    done = world.command("purge", *arguments, options=options)
    assert world.pop3.retrieved == read
    assert len(world.smtp.sessions) == sent
    for session in world.pop3.sessions[sessions:]:
        assert set(session.verbs) <= NEEDED
    return done


def snapshot(world: World) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(world.state.rglob("*")) if path.is_file()}


def test_it_deletes_what_the_rule_says(world: World, clock: Clock) -> None:
    rules(world, "remove_after_days = 14")
    world.letters(2)
    world.poll().ended(0)
    clock("2026-11-02T09:00:00Z")
    world.letters(1)
    world.poll().ended(0)
    world.letters(1)  # this one is new, and stays so
    clock("2026-11-15T08:59:59Z")
    purge(world).ended(0)
    assert world.left == ["u1", "u2", "u3", "u4"]
    clock("2026-11-15T09:00:00Z")
    done = purge(world, "--json")
    assert done.code == 0
    (office,) = done.document["connectors"]
    assert (office["listed"], office["deleted"], office["new"], office["delivered"]) == (4, 2, 0, 0)
    assert (office["messages"], office["advice"], office["errors"], office["reason"]) == ([], [], [], "ok")
    assert world.left == ["u3", "u4"]
    assert world.statuses() == {"u1": "deleted", "u2": "deleted", "u3": "delivered"}


def test_it_is_silent_and_leaves_poll_alone(world: World, clock: Clock) -> None:
    rules(world, "remove_after_days = 1")
    world.letters(1)
    world.poll().ended(0)
    clock("2026-11-03T09:00:00Z")
    purge(world, "office").ended(0)
    status = json.loads((world.state / "office.status.json").read_text())
    assert status["last_attempt"] == "2026-11-01T09:00:00Z"  # poll_every counts passes, not purges
    assert world.left == []


def test_nothing_is_due_without_a_rule(world: World, clock: Clock) -> None:
    rules(world, "")
    world.letters(2)
    world.poll().ended(0)
    clock("2036-11-01T09:00:00Z")
    purge(world).ended(0)
    assert world.left == ["u1", "u2"]


@pytest.mark.parametrize("lines", ["", "remove_after_days = 30"])
def test_older_than_overrides_the_days(world: World, clock: Clock, lines: str) -> None:
    rules(world, lines)
    world.letters(1)
    world.poll().ended(0)
    clock("2026-11-05T09:00:00Z")
    world.letters(1)
    world.poll().ended(0)
    clock("2026-11-08T09:00:00Z")
    purge(world, "--older-than", "8").ended(0)
    assert world.left == ["u1", "u2"]
    purge(world, "--older-than", "7").ended(0)
    assert world.left == ["u2"]
    purge(world, "--older-than", "0", "OFFICE").ended(0)
    assert world.left == []


def test_a_mass_waits_but_not_for_an_order(world: World, clock: Clock) -> None:
    rules(world, "remove_after_days = 14")
    world.letters(25)
    world.poll().ended(0)
    clock("2026-11-20T09:00:00Z")
    told = r"25 of 25 kept messages .*\(remove_after_days = 14\).* before 2026-11-20T10:00:00Z.*purge --older-than 14"
    purge(world).ended(0, told)
    clock("2026-11-20T09:59:59Z")
    purge(world).ended(0, told)  # who asks is answered each time
    assert len(world.left) == 25
    assert purge(world, "--dry-run").out == "office: 25 on the server; would delete 0 (0 B)\n"
    purge(world, "--older-than", "14").ended(0)
    assert world.left == []


def test_a_mass_goes_after_its_hour(world: World, clock: Clock) -> None:
    rules(world, "remove_after_days = 14")
    world.letters(25)
    world.poll().ended(0)
    clock("2026-11-20T09:00:00Z")
    world.poll().ended(0, "25 of 25 kept messages")
    clock("2026-11-20T10:00:00Z")
    purge(world).ended(0)
    assert world.left == []
    assert "mass" not in json.loads((world.state / "office.status.json").read_text())


def test_rejected_mail_goes_only_when_told(world: World, clock: Clock) -> None:
    rules(world, "")
    world.letters(2)
    world.smtp.faults = SmtpFaults(recipients={b"office@corp.example": b"550 5.1.1 no such user\r\n"})
    assert world.poll().code == 1
    clock("2026-11-08T09:00:00Z")
    purge(world, "--older-than", "0").ended(0)
    assert len(world.left) == 2
    kept = world.kept("badmail")
    purge(world, "--rejected", "--older-than", "8").ended(0)
    assert len(world.left) == 2
    purge(world, "--rejected", "--older-than", "7").ended(0)
    assert world.left == []
    assert world.kept("badmail") == kept
    world.heal()
    world.poll().ended(0)
    assert world.arrived == []


def journal_line(uidl: str, status: str) -> str:
    line = {"uidl": uidl, "first_seen": "2026-01-01T00:00:00Z", "status": status, "at": "2026-01-01T00:00:00Z"}
    return json.dumps(line) + "\n"


def test_what_was_not_delivered_is_never_touched(world: World, clock: Clock) -> None:
    rules(world, "", leave_copy="false")
    world.letters(8)
    statuses = ("seen", "sending", "held", "ignored", "oversize", "delivered", "discarded", "badmail")
    world.state.mkdir(mode=0o700)
    journal = world.state / "office.jsonl"
    journal.touch(mode=0o600)
    lines = [journal_line(f"u{number}", status) for number, status in enumerate(statuses, 1)]
    journal.write_text("".join(lines), "utf-8")
    purge(world, "--older-than", "0").ended(0)
    assert world.left == ["u1", "u2", "u3", "u4", "u5", "u8"]
    purge(world, "--older-than", "0", "--rejected").ended(0)
    assert world.left == ["u1", "u2", "u3", "u4", "u5"]


def test_a_dry_run_writes_nothing(world: World, clock: Clock) -> None:
    rules(world, "remove_after_days = 3")
    world.letters(2)
    world.poll().ended(0)
    before = snapshot(world)
    clock("2026-11-08T09:00:00Z")
    done = purge(world, "--dry-run")
    done.ended(0, out=done.out)
    first, head, *rows = done.out.splitlines()
    assert re.fullmatch(r"office: 2 on the server; would delete 2 \(\d+ B\)", first)
    assert head.split() == ["UIDL", "AGE", "SIZE", "WHY"]
    for number, row in enumerate(rows, 1):
        assert re.fullmatch(rf"  u{number} +7 d +\d+ B  first seen 7 days ago \(remove_after_days = 3\)", row)
    assert len(rows) == 2
    (office,) = purge(world, "--dry-run", "--json").document["connectors"]
    assert [step["uidl"] for step in office["plan"]["delete"]] == ["u1", "u2"]
    assert {step["first_seen"] for step in office["plan"]["delete"]} == {"2026-11-01T09:00:00Z"}
    assert office["plan"]["fetch"] == office["plan"]["verify"] == []
    assert snapshot(world) == before
    assert world.left == ["u1", "u2"]


def test_a_dry_run_before_any_pass_makes_no_folder(world: World) -> None:
    world.letters(1)
    assert purge(world, "--dry-run").out == "office: 1 on the server; would delete 0 (0 B)\n"
    assert not world.state.exists()


TROUBLES = {
    "dele-err": (Pop3Faults(dele="err"), 1, ["u1: delivered, not yet deleted: -ERR"]),
    "quit-err": (Pop3Faults(quit="err"), 69, ["did not commit 1 deletions: -ERR"]),
    "quit-drop": (Pop3Faults(quit="drop-before-commit"), 75, ["closed the connection"]),
    "login": (Pop3Faults(refuse_user=b"-ERR [AUTH] no\r\n", refuse_apop=b"-ERR [AUTH] no\r\n"), 77, [""]),
}


@pytest.mark.parametrize(("faults", "code", "patterns"), TROUBLES.values(), ids=list(TROUBLES))
def test_trouble_is_told_and_made_good(
    world: World, clock: Clock, faults: Pop3Faults, code: int, patterns: list[str]
) -> None:
    rules(world, "remove_after_days = 3")
    world.letters(1)
    world.poll().ended(0)
    clock("2026-11-08T09:00:00Z")
    world.pop3.faults = faults
    purge(world).ended(code, *patterns)
    assert world.left == ["u1"]
    assert world.statuses() == {"u1": "delivered"}
    world.heal()
    purge(world).ended(0)
    assert world.left == []
    assert world.statuses() == {"u1": "deleted"}


def test_what_came_short_needs_a_second_read(world: World, clock: Clock) -> None:
    rules(world, "remove_after_days = 3")
    world.letters(2)
    world.pop3.faults = Pop3Faults(list_sizes=lambda number, octets: octets + 10 * (number == 1))
    world.poll().ended(0, "u1: delivered, kept on the server")
    clock("2026-11-08T09:00:00Z")
    assert "so a second read has to agree" in purge(world, "--dry-run").out
    read = world.pop3.retrieved
    world.command("purge").ended(0)
    assert world.pop3.retrieved == read + 1
    assert world.left == []


@pytest.fixture
def other(world: World) -> Iterator[Pop3Server]:
    """A second mailbox, of the connector "annex"."""
    with Pop3Server(Maildrop(), user=USER, password=PASSWORD) as server:
        world.leave_copy = False
        world.more = world.tables("annex", server)
        yield server


def test_one_that_fails_does_not_stop_the_others(world: World, other: Pop3Server) -> None:
    world.letters(1)
    other.maildrop.add(b"Subject: annex\r\n\r\n", b"a1")
    for server in (world.pop3, other):
        server.faults = Pop3Faults(quit="err")
    world.poll()
    assert len(other.maildrop.mail()) == len(world.left) == 1
    world.heal()
    other.faults = Pop3Faults(quit="drop-before-commit")
    done = purge(world)
    assert done.code == 75, done
    assert "annex" in done.sentences[0]
    assert world.left == []
    purge(world, "annex")
    assert len(other.maildrop.mail()) == 1
    other.faults = Pop3Faults()
    purge(world, "office").ended(0)
    assert len(other.maildrop.mail()) == 1
    purge(world, "annex").ended(0)
    assert other.maildrop.mail() == ()


def test_the_state_of_another_mailbox_deletes_nothing(world: World, clock: Clock, other: Pop3Server) -> None:
    rules(world, "remove_after_days = 3")
    world.letters(1)
    world.poll("office").ended(0)
    other.maildrop.add(b"Subject: undelivered\r\n\r\n", b"u1")
    clock("2026-11-08T09:00:00Z")
    text = world.config.read_text("utf-8")
    office, annex = f"{USER}@{world.pop3.address}", f"{USER}@{other.address}"
    world.config.write_text(text.replace(world.pop3.address, other.address), "utf-8")
    purge(world, "office").ended(
        75, f"the state is that of {office}, and the mailbox now is {annex}; nothing was deleted"
    )
    assert len(other.maildrop.mail()) == 1


def test_wrong_usage(world: World) -> None:
    world.write()
    for arguments in (("nobody",), ("--older-than", "-1"), ("--older-than", "soon"), ("--older-than", "36501")):
        assert world.command("purge", *arguments).code == 2
    assert world.pop3.sessions == []


def test_it_says_in_the_log_what_it_deleted(world: World, clock: Clock) -> None:
    rules(world, "remove_after_days = 3")
    world.letters(1)
    world.poll().ended(0)
    clock("2026-11-08T09:00:00Z")
    purge(world, options=("-v",))
    (log,) = (path for path in (world.state / "log").iterdir() if "11-08" in path.name)
    assert "office: deleted u1 from the server: first seen 7 days ago (remove_after_days = 3)" in log.read_text("utf-8")


def test_a_purge_while_a_pass_runs_leaves_at_once(world: World) -> None:
    world.timeout = 5
    world.letters(1)
    world.pop3.faults = Pop3Faults(quit="hang")
    running = world.start()
    settled(world, running)
    purge(world).ended(75, "another run")
    running.kill()
    finished(running)
    world.heal()
    purge(world).ended(0)
    assert world.left == []


@pytest.mark.skipif(not POSIX, reason="signals of POSIX")
def test_a_signal_commits_nothing(world: World) -> None:
    world.timeout = 20
    world.letters(1)
    world.pop3.faults = Pop3Faults(dele="err")
    world.poll()
    world.pop3.faults = Pop3Faults(quit="hang")
    command = [sys.executable, "-m", "poprep_cli", *world.arguments((), (), command="purge")]
    running = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        cwd=Path(__file__).parents[2],
    )
    settled(world, running)
    running.terminate()
    finished(running).ended(143, "stopped by a signal")
    world.heal()
    assert world.statuses() == {"u1": "delivered"}
    purge(world).ended(0)
    assert world.left == []
