"""Whole passes against a mailbox and an MTA that drop, defer, refuse, lie and forget, with crashes and any clock.

Each example is a story: mail arrives, is renamed, is taken away; the clock moves; servers misbehave; passes run, are cut
short at any step, and run again. After each step the ledger says whether anything was lost, deleted too early, or sent
twice. In the end all is well again, and all mail must have arrived.

POPREP_MACHINE_EXAMPLES is the number of stories, 150 by default.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from poprep_cli.config.load import load
from poprep_cli.embedded.pop3 import Pop3Faults, Pop3Server
from poprep_cli.embedded.smtp import Delivered, SmtpFaults, SmtpServer
from poprep_cli.engine import access, clock, quiet
from poprep_cli.engine.kept import Retry
from poprep_cli.engine.poll import poll
from poprep_cli.engine.purge import Purge
from poprep_cli.engine.report import ConnectorReport
from poprep_cli.engine.state import DIGEST, Journal
from poprep_cli.engine.store import Slip
from poprep_cli.engine.visit import Surroundings
from poprep_cli.net.stop import Stop
from tests.machine.crash import Crashed, Fuse
from tests.machine.faults import Pop3Trouble, SmtpTrouble, pop3_trouble, smtp_trouble
from tests.machine.ledger import Ledger, Pass, named

START = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
CADENCE = timedelta(minutes=10)
PATHS = (b"ada@corp.example", b"bob@corp.example")
SENSIBLE = {0, 1, 69, 75, 76}  # exit codes of passes whose servers misbehave
SETTLING = 60  # passes with flawless servers, after which all must be quiet

TOLD = int(os.environ.get("POPREP_MACHINE_LEVEL", "1"))  # 4: with every command

STEPS = st.integers(0, 120)
LARGE = quiet.LARGE
COPIES: tuple[dict[str, Any], ...] = (
    {},
    {"leave_copy": True},
    {"leave_copy": True, "remove_after_days": 0},
    {"leave_copy": True, "remove_after_days": 3},
    {"leave_copy": True, "remove_after_days": 14},
    {"leave_copy": True, "remove_after_days": 14, "remove_after_delivered": True},
)

PHASES = (Phase.explicit, Phase.reuse, Phase.generate) if os.environ.get("QUICK") else tuple(Phase)
_NOBODY: Callable[[Delivered], None] = lambda _: None  # noqa: E731


@dataclass
class Rules:
    """The settings of the connector that change during a story."""

    leave_copy: bool = False
    remove_after_days: int | None = None
    remove_after_delivered: bool = False
    max_messages: int = 0
    use_top: bool = False

    @property
    def days(self) -> float | None:
        """After how many days mail goes; None: at once, infinity: never."""
        if not self.leave_copy or self.remove_after_delivered:
            return None
        return float("inf") if self.remove_after_days is None else self.remove_after_days


class Servers:
    """The servers of all stories: to start new ones takes longer than a story."""

    def __init__(self) -> None:
        self.sink = _NOBODY
        self.pop3 = Pop3Server(user="office", password="secret")
        self.smtp = {lmtp: SmtpServer(lmtp=lmtp, sink=self.take) for lmtp in (False, True)}

    def take(self, message: Delivered) -> None:
        self.sink(message)

    def begin(self) -> None:
        for smtp in self.smtp.values():
            smtp._occurrences.clear()
            smtp.sessions.clear()
        self.pop3.sessions.clear()

    def settle(self) -> None:
        """Wait until both sides of every connection have ended."""
        end = time.monotonic() + 5
        servers: tuple[Pop3Server | SmtpServer, ...] = (self.pop3, *self.smtp.values())
        while any(not session.ended for server in servers for session in server.sessions):
            assert time.monotonic() < end, "a session does not end"
            time.sleep(0.0005)


SERVERS = Servers()


class Passes(RuleBasedStateMachine):
    @initialize(
        hide_read=st.booleans(),
        top=st.sampled_from((True, True, False)),
        pipelining=st.booleans(),
        lmtp=st.booleans(),
        chunking=st.booleans(),
        in_flight=st.sampled_from((1, 1, 4)),
        recipients=st.integers(1, 2),
        uidls=st.sampled_from(("good", "good", "good", "blank", "double")),
        copy=st.sampled_from(COPIES),
        memos=st.booleans(),
    )
    def begin(
        self,
        *,
        hide_read: bool,
        top: bool,
        pipelining: bool,
        lmtp: bool,
        chunking: bool,
        in_flight: int,
        recipients: int,
        uidls: str,
        copy: dict[str, Any],
        memos: bool,
    ) -> None:
        quiet.LARGE = 1 if memos else LARGE
        self.folder = Path(tempfile.mkdtemp(prefix="machine-"))
        self.state = self.folder / "state"
        self.hide_read = hide_read and uidls != "double"  # of two with one UIDL the second must not come alone
        self.top, self.pipelining, self.lmtp, self.uidls = top, pipelining, lmtp, uidls
        self.extensions = (b"PIPELINING", b"SIZE", b"CHUNKING") if chunking else (b"PIPELINING",)
        self.in_flight = in_flight
        self.ledger = Ledger(PATHS[:recipients])
        self.wanted = Rules(**copy)
        self.now = START
        self.offset = timedelta(0)
        self.number = 0
        self.generation = 0
        self.renamed = False  # and no pass has come to terms with it
        self.whole = 0  # passes that have shown the mailbox as it is
        self.free: list[tuple[bytes, int]] = []  # UIDLs of what is gone, and when they may be used again
        self.lines: list[str] = []
        SERVERS.sink = self.ledger.accept
        SERVERS.pop3.maildrop = self.ledger.box
        self.arrive(3, 5)

    def teardown(self) -> None:
        if not hasattr(self, "folder"):
            return
        try:
            self.settle_everything()
        finally:
            quiet.LARGE = LARGE
            SERVERS.sink = _NOBODY
            shutil.rmtree(self.folder)

    # ------------------------------------------------------------------ the mailbox

    def content(self, size: int) -> bytes:
        self.number += 1
        return (
            (
                b"Return-Path: <eve@example.net>\r\nMessage-ID: <%d@example.net>\r\nDate: Mon, 2 Nov 2026 09:00:00 +0000\r\n"
                b"From: Eve <eve@example.net>\r\nSubject: Number %d\r\n\r\n" % (self.number, self.number)
            )
            + b"..dots\r\n.\r\n" * (size % 3)
            + (b"x" * 40 + b"\r\n") * size
        )

    def fresh_uidl(self) -> bytes:
        there = [piece.mail.uidl for piece in self.ledger.there if piece.mail.uidl]
        if self.uidls == "blank" and self.number % 3 == 0:
            return b""
        if self.uidls == "double" and self.number % 2 == 0 and there:
            return there[-1]
        self.generation += 1
        return b"u%d" % self.generation

    @rule(count=st.integers(1, 4), size=st.integers(0, 30))
    def arrive(self, count: int, size: int) -> None:
        for number in range(count):
            content = self.content((size + 7 * number) % 31)
            self.ledger.put(content, self.fresh_uidl())

    @precondition(lambda self: not self.ledger.there)
    @rule(size=st.integers(0, 30))
    def arrive_in_masses(self, size: int) -> None:
        self.arrive(22, size)

    @precondition(lambda self: self.ledger.there)
    @rule(place=st.integers(0, 99))
    def arrive_once_more(self, place: int) -> None:
        there = self.ledger.there
        content = there[place % len(there)].content
        uidl = self.fresh_uidl()
        if any(piece.content == content and piece.mail.uidl == uidl for piece in self.ledger.pieces if piece.deleted):
            return  # the same mail under the same UIDL: deleted in vain, for all that anybody knows
        self.ledger.put(content, uidl)

    @precondition(lambda self: not self.renamed and self.reusable())
    @rule(place=st.integers(0, 99))
    def arrive_under_an_old_uidl(self, place: int) -> None:
        reusable = self.reusable()
        self.ledger.put(self.content(3), reusable[place % len(reusable)])

    def reusable(self) -> list[bytes]:
        """Return the UIDLs of mail that we had deleted, or that the passes have missed."""
        gone = {
            piece: piece.deleted or (piece.taken and piece.taken_before < self.whole) for piece in self.ledger.pieces
        }
        known = {b""} | {piece.mail.uidl for piece in gone if not gone[piece]}
        return [piece.mail.uidl for piece in gone if piece.mail.uidl not in known]

    @precondition(lambda self: self.ledger.there)
    @rule(place=st.integers(0, 99))
    def another_program_takes(self, place: int) -> None:
        there = self.ledger.there
        piece = there[place % len(there)]
        if any(one.listed is None and one.mail.uidl == piece.mail.uidl for one in there):
            return  # that one would be known by the UIDL of this one
        piece.taken, piece.taken_before = True, self.whole
        self.ledger.box.take(piece.mail)

    @precondition(lambda self: self.ledger.there and self.top)
    @rule()
    def rename_all(self) -> None:
        """All UIDLs are new. What is in doubt at that moment can't be told from new mail afterwards.

        Nor can what the server said it had deleted, and has not.
        """
        self.generation += 1
        for key, status in self.statuses().items():
            for piece in self.ledger.there:
                if status in ("sending", "deleted") and piece.mail.uidl == key.partition(DIGEST)[0]:
                    self.ledger.excused[piece.content] += 1
        self.ledger.rename(self.generation)
        self.renamed = True

    def journal(self) -> Journal:
        return Journal(self.state / "office.jsonl", "")

    def statuses(self) -> dict[bytes, str]:
        return {key: entry.status for key, entry in self.journal().entries.items()}

    # ------------------------------------------------------------------ time and configuration

    @rule(days=st.sampled_from((0.05, 2.5, 2.5, 13.5, 13.5, 40)))
    def time_passes(self, days: float) -> None:
        self.now += timedelta(days=days)

    @rule(where=st.sampled_from(("right", "right", "back", "1970", "ahead")))
    def set_clock(self, where: str) -> None:
        epoch = datetime(1970, 1, 1, 0, 5, tzinfo=UTC) - self.now
        self.offset = {
            "right": timedelta(0),
            "back": timedelta(days=-10),
            "1970": epoch,
            "ahead": timedelta(days=366),
        }[where]

    @rule(
        copy=st.sampled_from(COPIES),
        max_messages=st.sampled_from((0, 0, 0, 0, 3)),
        use_top=st.booleans(),
    )
    def configure(self, copy: dict[str, Any], **rules: Any) -> None:
        self.wanted = Rules(**copy, **rules)

    def write(self) -> Path:
        rules = self.wanted
        days = f"remove_after_days = {rules.remove_after_days}" if rules.remove_after_days is not None else ""
        path = self.folder / "poprep.toml"
        text = f"""\
[smtp]
host = "{SERVERS.smtp[self.lmtp].address}"
protocol = "{"lmtp" if self.lmtp else "smtp"}"
timeout = 5
data_timeout = 5
max_in_flight = {self.in_flight}
[connector.office.pop3]
host = "{SERVERS.pop3.address}"
user = "office"
password = "secret"
timeout = 5
use_top = {str(rules.use_top).lower()}
[connector.office.server_copy]
leave_copy = {str(rules.leave_copy).lower()}
remove_after_delivered = {str(rules.remove_after_delivered).lower()}
{days}
[connector.office.limits]
max_messages = {rules.max_messages}
[connector.office.routing]
send_to = [{", ".join(f'"{one.decode()}"' for one in self.ledger.paths)}]
"""
        path.touch(mode=0o600)
        path.write_text(text, "utf-8")
        return path

    # ------------------------------------------------------------------ passes

    @rule(smtp=smtp_trouble)
    def poll_with_bad_smtp(self, smtp: SmtpTrouble | None) -> None:
        self.poll(Pop3Trouble(), smtp, None, torn=False)

    @rule(pop3=pop3_trouble)
    def poll_with_bad_pop3(self, pop3: Pop3Trouble) -> None:
        self.poll(pop3, None, None, torn=False)

    @rule(steps=STEPS, torn=st.booleans())
    def poll_and_crash(self, steps: int, *, torn: bool) -> None:
        self.poll(Pop3Trouble(), None, steps, torn=torn)

    @rule(pop3=pop3_trouble, smtp=smtp_trouble, steps=st.one_of(st.none(), STEPS), torn=st.booleans())
    def poll(self, pop3: Pop3Trouble, smtp: SmtpTrouble | None, steps: int | None, *, torn: bool) -> None:
        pop3 = self.possible(pop3)
        report = self.run(poll, pop3, smtp, Fuse(steps, torn=torn))
        if report is None or report.exit_code not in (0, 1) or pop3.limit is not None:
            return
        self.renamed = False
        self.whole += bool(report.listed)

    @rule(
        pop3=pop3_trouble,
        steps=st.one_of(st.none(), STEPS),
        torn=st.booleans(),
        older_than=st.sampled_from((None, None, 0, 7)),
        rejected=st.booleans(),
    )
    def purge(
        self, pop3: Pop3Trouble, steps: int | None, *, torn: bool, older_than: int | None, rejected: bool
    ) -> None:
        if not self.renamed:
            self.run(Purge(older_than, rejected), self.possible(pop3), None, Fuse(steps, torn=torn))

    @rule(
        kind=st.sampled_from(("held", "badmail")),
        smtp=smtp_trouble,
        steps=st.one_of(st.none(), STEPS),
        torn=st.booleans(),
    )
    def retry(self, kind: Any, smtp: SmtpTrouble | None, steps: int | None, *, torn: bool) -> None:
        names = [path.with_suffix(".eml").name for path in (self.state / kind / "office").glob("*.json")]
        if names:
            self.run(Retry(kind, {"office": names}), Pop3Trouble(), smtp, Fuse(steps, torn=torn))

    def possible(self, trouble: Pop3Trouble) -> Pop3Trouble:
        """Return trouble as far as it may be now.

        After new UIDLs the first pass must see the mailbox as it is. UIDL is refused by servers that had it before. A
        message is cut once at most, as two reads that agree are believed.
        """
        if self.renamed:
            return Pop3Trouble()
        if trouble.dele == "ignore" and self.uidls != "good":
            trouble = replace(trouble, dele="err")  # mail that is there twice, or was deleted in vain: who could tell?
        if trouble.uidl and not any(key and DIGEST not in key for key in self.statuses()):
            trouble = replace(trouble, uidl=False)
        if trouble.retr is not None and trouble.retr[1] == "cut":
            seen = self.ledger.box.look(unread=self.hide_read)[: trouble.limit]
            place = trouble.retr[0] - 1
            if place >= len(seen) or self.ledger.piece(seen[place]).was_cut:
                return replace(trouble, retr=None)
            self.ledger.piece(seen[place]).was_cut = True
        return trouble

    def run(self, work: Any, pop3: Pop3Trouble, smtp: SmtpTrouble | None, fuse: Fuse) -> ConnectorReport | None:
        """Run a pass, see what it did, and return its report; None if it crashed."""
        ledger = self.ledger
        self.now += CADENCE
        ledger.clock = (self.now + self.offset).replace(microsecond=0)
        ledger.polling = work is poll
        SERVERS.begin()
        SERVERS.pop3.faults = pop3.faults(hide_read=self.hide_read, top=self.top, pipelining=self.pipelining)
        SERVERS.smtp[self.lmtp].faults = replace(smtp.faults() if smtp else SmtpFaults(), announce=self.extensions)
        config = self.write()
        connector = next(one for one in load(config).connectors if one.name == "office")
        deletions = len(ledger.deletions)
        refused = {content for content, _ in self.kept("badmail")}
        self.lines = []
        report = ConnectorReport("office", say=lambda _, text: self.lines.append(text), level=TOLD)
        stop = Stop()
        with pytest.MonkeyPatch.context() as patch, fuse.lit():
            patch.setenv("POPREP_TESTING", "1")
            patch.setenv("POPREP_TEST_CLOCK", clock.stamp(ledger.clock))
            patch.setattr(access, "UNLOCK_PAUSES", (0.001, 0.005, 0.5, 0.5))
            try:
                work(connector, Surroundings(self.state, config, due_now=True), report, stop)
            except Crashed:
                stop.trip()
        SERVERS.settle()
        ledger.passes.append(Pass(ledger.clock, not fuse.blown, work is poll))
        note(f"  {ledger.clock:%Y-%m-%dT%H:%M} {self.told(report, fuse)}")
        self.check(report, work, deletions, refused, crashed=fuse.blown)
        return None if fuse.blown else report

    def told(self, report: ConnectorReport, fuse: Fuse) -> str:
        errors = "; ".join(map(str, report.errors))
        end = "crashed" if fuse.blown else f"{report.exit_code:d} {errors} {report.advice}"
        return "\n    ".join([*self.lines, end])

    def check(self, report: ConnectorReport, work: Any, deletions: int, refused: set[bytes], *, crashed: bool) -> None:
        ledger = self.ledger
        if not crashed:
            assert report.exit_code in SENSIBLE, report.errors
        ledger.check(self.kept("held"), self.kept("badmail"))
        days = self.wanted.days
        older_than, rejected = (work.older_than, work.rejected) if isinstance(work, Purge) else (None, False)
        for deleted in ledger.deletions[deletions:]:
            if rejected and deleted.piece.content in refused and older_than is None:
                ledger.judge(deleted, None, refused)
                continue
            if older_than is None:
                assert days != float("inf"), "nothing was to be deleted"
            after = days if older_than is None else min(older_than, float("inf") if days is None else older_than)
            ledger.judge(deleted, None if after is None else int(after), refused if rejected else ())

    def kept(self, kind: str) -> Counter[tuple[bytes, bytes]]:
        """Count what is kept by content and recipient: what has its slip in a store."""
        found: Counter[tuple[bytes, bytes]] = Counter()
        for path in sorted((self.state / kind / "office").glob("*.json")):
            letter = path.with_suffix(".eml")
            if letter.exists():
                slip = msgspec.json.decode(path.read_bytes(), type=Slip)
                found.update((letter.read_bytes(), one.encode()) for one in slip.forward_paths)
        return found

    # ------------------------------------------------------------------ when all is well

    @precondition(lambda self: len(self.ledger.passes) % 7 == 6)
    @rule()
    def all_is_well_for_a_while(self) -> None:
        """A quiet pass after a quiet pass leaves the journal untouched."""
        self.offset = timedelta(0)
        for _ in range(SETTLING):
            before = self.trace()
            self.poll(Pop3Trouble(), None, None, torn=False)
            if self.trace() == before:
                break
        before = self.trace()
        self.poll(Pop3Trouble(), None, None, torn=False)
        after = self.trace()
        assert after == before, (before, after)

    def trace(self) -> tuple[bytes, int, int]:
        path = self.state / "office.jsonl"
        if not path.exists():
            return b"", 0, 0
        status = path.stat()
        return path.read_bytes(), status.st_mtime_ns, status.st_ino

    def settle_everything(self) -> None:
        """Let all mail arrive that is still to come."""
        self.wanted = Rules()
        self.top = True
        self.all_is_well_for_a_while()
        accepted, badmail = self.ledger.accepted, self.kept("badmail")
        assert not self.kept("held")
        for path in self.ledger.paths:
            for piece in self.ledger.pieces:
                arrived = accepted[piece.content, path] + badmail[piece.content, path]
                assert arrived or piece.taken or piece.was_cut, f"never arrived: {named(piece.content)}"


@pytest.mark.timeout(600)
def test_nothing_is_lost_nor_repeated_nor_deleted_too_early() -> None:
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        Passes,
        settings=settings(
            max_examples=int(os.environ.get("POPREP_MACHINE_EXAMPLES", "150")),
            # A hunt finds what nobody thought of, at its time: by default the stories are the same each time.
            derandomize="POPREP_MACHINE_EXAMPLES" not in os.environ,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
            phases=PHASES,
        ),
    )


@pytest.fixture(autouse=True)
def _servers() -> Any:
    with SERVERS.pop3, SERVERS.smtp[False], SERVERS.smtp[True]:
        yield
    SERVERS.pop3.faults = Pop3Faults()
