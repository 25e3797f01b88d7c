"""Trials: each program does a workload in turn, and is held to it: a run that lost, changed or left mail has no time."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path

from benchmarks.contenders import Contender
from benchmarks.peers import Command, Setting
from benchmarks.servers import PASSWORD, ROOT, Delay, Meter, Post, Sink
from benchmarks.workloads import COPY, LIST, Workload
from tests.real.dovecot import Dovecot

SLOW = 20.0  # seconds: what takes longer runs once
OTHERS = 1_000_001  # the number of the first message of a pass before the one that counts: none is in both
LIMIT = 300.0  # seconds: what takes longer is killed


@dataclass(frozen=True, slots=True)
class Run:
    """One run. `error` says what was wrong with it; then its time counts for nothing.

    Round trips are those in which a server waited, where it is away; `sessions` are the SMTP server's. `before` is how many seconds
    the pass before took. Of a run that did `part` of the messages (0: all) the seconds and the CPU seconds are scaled.
    """

    seconds: float
    cpu: float
    peak_kib: float
    sessions: int = 0
    pop3_round_trips: int | None = None
    smtp_round_trips: int | None = None
    error: str = ""
    before: float = 0.0
    part: int = 0

    def as_dict(self) -> dict[str, object]:
        """Return it for JSON."""
        return asdict(self)


class Field:
    """The servers, and the trials on them."""

    def __init__(self, dovecot: Dovecot, sink: Sink, meter: Meter) -> None:
        self._dovecot = dovecot
        self._sink = sink
        self._meter = meter
        self._post = Post(dovecot)
        self._folders = (dovecot.root / f"peer{number:05d}" for number in count())
        self._known: dict[str, list[str]] = {}

    def run(
        self,
        workload: Workload,
        contenders: Sequence[Contender],
        rounds: int,
        say: Callable[[str], None],
        *,
        fast: bool = False,
    ) -> dict[str, list[Run]]:
        """Let the contenders do a workload in turn, so many rounds, and return their runs by their names.

        If it shall be `fast`, those that would take over 20 seconds do a share of it, once.
        """
        found: dict[str, list[Run]] = {contender.name: [] for contender in contenders}
        if workload.kind == LIST:
            self._keep(workload)
        with ExitStack() as stack:
            lines = self._lines(workload, stack)
            for number in range(rounds):
                for contender in contenders:
                    if any(run.seconds > SLOW or run.error for run in found[contender.name]):
                        continue
                    run = self._part(workload, contender, *lines) if fast and number == 0 else None
                    run = run or self._one(workload, contender, *lines)
                    found[contender.name].append(run)
                    say(
                        f"{workload.name} {number + 1}/{rounds} {contender.name}: {run.error or f'{run.seconds:.3f} s'}"
                    )
        self._clear(workload)
        return found

    def _lines(self, workload: Workload, stack: ExitStack) -> tuple[Delay | None, Delay | None]:
        """Return the lines to POP3 and SMTP that have a round trip."""
        pop3 = self._dovecot.ssl_port if workload.tls else self._dovecot.port
        return (
            stack.enter_context(Delay(workload.pop3_round_trip, pop3)) if workload.pop3_round_trip else None,
            stack.enter_context(Delay(workload.smtp_round_trip, self._sink.port)) if workload.smtp_round_trip else None,
        )

    def _keep(self, workload: Workload) -> None:
        (user,) = workload.user_names
        self._post.fill_alike(user, workload.kept, workload.octets)
        self._warm(user)
        self._known[user] = uidls(self._dovecot.port, user)

    def _clear(self, workload: Workload) -> None:
        for user in workload.user_names:
            self._dovecot.empty(user)
            self._known.pop(user, None)
        if workload.octets > 1 << 20:
            self._post.clear(workload.octets)

    def _warm(self, user: str) -> None:
        """Let Dovecot look at new mail: delivery programs update its index, links don't."""
        uidls(self._dovecot.port, user)

    def _part(self, workload: Workload, contender: Contender, pop3: Delay | None, smtp: Delay | None) -> Run | None:
        """Return a scaled run of the workload's share, None if that tells that the whole takes no more than 20 seconds."""
        part = workload.part()
        if part.whole == workload.whole or not contender.scales:
            return None
        run = scaled(self._one(part, contender, pop3, smtp), part, workload)
        return run if run.seconds > SLOW or run.error else None

    def _one(self, workload: Workload, contender: Contender, pop3: Delay | None, smtp: Delay | None) -> Run:
        folder = next(self._folders)
        folder.mkdir(mode=0o700)
        setting = Setting(
            folder,
            workload.user_names,
            pop3.port if pop3 else self._dovecot.ssl_port if workload.tls else self._dovecot.port,
            smtp.port if smtp else self._sink.port,
            ca_file=self._dovecot.ca_file if workload.tls else None,
            keep=workload.kind == LIST,
            known={user: self._known[user] for user in workload.user_names if user in self._known},
        )
        commands = contender.prepare(setting)
        # The first pass of a program sets itself up and learns what its servers can; what counts is the one of every minute.
        before = self._pass(workload.before(), contender, commands, folder, OTHERS) if contender.again else None
        if before is not None and before.error:
            shutil.rmtree(folder)
            return replace(before, error=f"the pass before: {before.error}")
        if contender.between is not None:
            contender.between(folder)
        if pop3:
            pop3.take()
        run = self._pass(workload, contender, commands, folder)
        shutil.rmtree(folder)
        return replace(
            run,
            before=before.seconds if before else 0.0,
            pop3_round_trips=pop3.take() if pop3 else None,
            smtp_round_trips=run.smtp_round_trips if smtp else None,
        )

    def _pass(
        self, workload: Workload, contender: Contender, commands: Sequence[Command], folder: Path, start: int = 1
    ) -> Run:
        """Fill the mailboxes, from message `start` on, run the commands, and return what that took and what was wrong with it."""
        expected = self._fill(workload, start)
        self._sink.begin(
            round_trip=workload.smtp_round_trip, acknowledge=workload.acknowledge, chunking=workload.chunking
        )
        run = self._measure(contender, commands, folder)
        taken = self._sink.take()
        error = run.error
        if contender.moves:
            error = error or _lost(expected, taken["digests"]) or "; ".join(taken["faults"][:3])
            error = error or self._left(workload)
        return replace(run, sessions=taken["sessions"], smtp_round_trips=taken["round_trips"], error=error)

    def _fill(self, workload: Workload, start: int) -> list[str]:
        if workload.kind != COPY:
            return []
        expected = []
        for index, user in enumerate(workload.user_names):
            numbers = range(start + index * workload.messages, start + (index + 1) * workload.messages)
            expected += self._post.fill(user, numbers, workload.octets)
            self._warm(user)
        return expected

    def _measure(self, contender: Contender, commands: Sequence[Command], folder: Path) -> Run:
        environment = {
            "PATH": os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin")),
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(ROOT),
        }
        seconds = cpu = peak = 0.0
        output = folder / "output"
        for command in commands:
            took = self._meter.run(command, environment, folder, output, LIMIT)
            told = output.read_text("utf-8", "replace")
            if took["code"] not in contender.codes:
                return Run(took["seconds"], took["cpu"], took["peak_kib"], error=_failure(took["code"], told))
            seconds += json.loads(told)["seconds"] if contender.inside else took["seconds"]
            cpu, peak = cpu + took["cpu"], max(peak, took["peak_kib"])
        return Run(seconds, cpu, peak)

    def _left(self, workload: Workload) -> str:
        """Return what is wrong with the mailboxes after a run."""
        expected = workload.kept if workload.kind == LIST else 0
        for user in workload.user_names:
            if not self._post.settled(user, expected):
                return f"{self._post.left(user):,} messages are in the mailbox, not {expected:,}"
        return ""


def scaled(run: Run, part: Workload, whole: Workload) -> Run:
    """Return what the whole would take by what a part of it took.

    Where the pass before moved one message, its time is what doesn't grow with the messages, and one of them.
    """
    if part.users == whole.users and part.messages > 1 and run.before:
        each = max(0.0, run.seconds - run.before) / (part.messages - 1)
        seconds = run.before + each * (whole.messages - 1)
    else:
        seconds = run.seconds * whole.whole / part.whole
    return replace(run, seconds=seconds, cpu=run.cpu * whole.whole / part.whole, part=part.whole)


def _failure(code: float, told: str) -> str:
    if code < 0:
        return f"killed after {LIMIT:.0f} s" if code == -9 else f"died of signal {-code:.0f}"
    return f"exit code {code:.0f}: {' '.join(told.split())[-300:]}"


def _lost(expected: Sequence[str], digests: Sequence[str]) -> str:
    """Return what is wrong with what arrived."""
    wanted, came = Counter(expected), Counter(digests)
    if wanted == came:
        return ""
    missing, extra = (wanted - came).total(), (came - wanted).total()
    return f"{missing:,} of {len(expected):,} messages did not arrive as they were, {extra:,} others did"


def uidls(port: int, user: str) -> list[str]:
    """Return the UIDLs of a mailbox; Dovecot's index is up to date then."""
    from benchmarks.raw import TERMINATOR, Line

    line = Line(port)
    line.lines(1, b"+OK")
    line.send(f"USER {user}\r\nPASS {PASSWORD}\r\n".encode())
    line.lines(2, b"+OK")
    line.send(b"LIST\r\nUIDL\r\n")
    line.until(TERMINATOR)
    found = line.until(TERMINATOR).decode("ascii").split("\r\n")[1:-2]
    line.send(b"QUIT\r\n")
    line.lines(1, b"+OK")
    line.socket.close()
    return [entry.split(" ", 1)[1] for entry in found]
