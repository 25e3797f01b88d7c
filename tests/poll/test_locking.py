"""Two commands at once on one connector: one works, the other says so and leaves; what was killed blocks nobody."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from tests.poll.outcome import Done
from tests.poll.world import Pop3Faults, SmtpFaults, World

ROUNDS = 100
KILLS = 8
WAIT = 20.0  # seconds until a test that hangs fails

# Runs the commands that come as lines of JSON, each as `poprep` would, and answers with exit code, stdout and stderr: a process
# of its own, with locks of its own, that saves the start of an interpreter for each of hundreds of commands.
WORKER = """\
import contextlib, io, json, sys
from poprep_cli.cli.main import main
for line in sys.stdin:
    sys.argv = ["poprep", *json.loads(line)]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""


class Workers:
    """Two processes that run commands."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-c", WORKER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
            )
            for _ in range(2)
        ]
        self._ended: queue.SimpleQueue[tuple[int, Done]] = queue.SimpleQueue()
        self._readers = [threading.Thread(target=self._read, args=(number,)) for number in range(2)]
        for reader in self._readers:
            reader.start()

    def begin(self, number: int, *command: str) -> None:
        """Start a command in one of them."""
        told = self._processes[number].stdin
        assert told is not None
        told.write(json.dumps(self._world.arguments(command[1:], (), command[0])) + "\n")
        told.flush()

    def next_end(self) -> tuple[int, Done]:
        """Wait for the next command to end; return in which process, and how. Raises queue.Empty if none does."""
        return self._ended.get(timeout=WAIT)

    def all_busy(self) -> bool:
        """Whether no command has ended that `next_end` did not return."""
        return self._ended.empty()

    def _read(self, number: int) -> None:
        told = self._processes[number].stdout
        assert told is not None
        for line in told:
            self._ended.put((number, Done(*json.loads(line))))

    def close(self) -> None:
        for process, reader in zip(self._processes, self._readers, strict=True):
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.close()
            reader.join()
            process.stdout.close()
            assert process.wait(WAIT) == 0


class Gate:
    """Keeps whoever logs in waiting until it is opened, or the first one only; `visitors` says how many did."""

    def __init__(self, world: World, *, first_only: bool = False) -> None:
        self._first_only = first_only
        self.reached = threading.Event()
        self._opened = threading.Event()
        self.visitors = 0
        world.pop3.faults = Pop3Faults(replies={"APOP": self._wait})

    def _wait(self, _: bytes) -> None:
        self.visitors += 1
        self.reached.set()
        if not self._first_only or self.visitors == 1:
            self._opened.wait(WAIT)

    def open(self) -> None:
        self._opened.set()


@pytest.fixture
def workers(world: World) -> Iterator[Workers]:
    world.timeout = WAIT
    world.write()
    pair = Workers(world)
    try:
        yield pair
    finally:
        pair.close()


def refused(done: Done, *command: str) -> None:
    """Assert that a command left because another one works."""
    assert done.code == 75, (command, done)
    assert "another run of poprep is working on connector office" in done.err
    assert "Traceback" not in done.err


def test_two_polls_at_once_a_hundred_times(world: World, workers: Workers) -> None:
    winners = set()
    for number in range(1, ROUNDS + 1):
        world.letters(1)
        gate = Gate(world)
        for one in range(2):
            workers.begin((number + one) % 2, "poll", "--json")
        loser, left = workers.next_end()
        assert left.code == 75, left
        assert left.document["connectors"][0]["reason"] == "locked"
        assert workers.all_busy(), "both left"
        gate.open()
        winner, worked = workers.next_end()
        assert {loser, winner} == {0, 1}
        assert worked.code == 0, worked
        assert worked.document["connectors"][0]["delivered"] == 1
        assert gate.visitors == 1
        assert len(world.smtp.delivered) == number
        winners.add(winner)
    assert world.arrived == world.sent
    assert world.left == []
    assert winners == {0, 1}


OTHERS = [
    ("poll",),
    ("poll", "--mark-seen", "office"),
    ("purge",),
    ("purge", "--older-than", "1", "office"),
    ("state", "forget", "office", "u1"),
    ("state", "forget", "office", "--all"),
    ("state", "adopt", "office"),
    ("state", "compact", "office"),
    ("badmail", "retry", "--connector", "office", "--all"),
    ("badmail", "drop", "--yes", "--connector", "office", "--all"),
]


def left_alone(world: World) -> None:
    """Wait until the server has noticed that all sessions have ended but the first, which waits at the gate."""
    end = time.monotonic() + WAIT
    while not all(session.ended for session in world.pop3.sessions if session.verbs and session.verbs[-1] == "QUIT"):
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize("first", [("poll",), ("purge",)], ids=" ".join)
def test_other_commands_wait_for_their_turn(world: World, workers: Workers, first: tuple[str, ...]) -> None:
    world.leave_copy = True
    world.write()
    world.letters(3)
    world.smtp.faults = SmtpFaults(
        replies={"end-of-data": lambda content: b"554 5.7.1 no\r\n" if b"Number 2" in content else None}
    )
    assert world.poll().code == 1
    journal = (world.state / "office.jsonl").read_bytes()
    gate = Gate(world, first_only=True)
    workers.begin(0, *first)
    assert gate.reached.wait(WAIT)
    for command in OTHERS:
        workers.begin(1, *command)
        number, left = workers.next_end()
        assert number == 1, "the first one left"
        refused(left, *command)
        assert (world.state / "office.jsonl").read_bytes() == journal
        assert len(world.kept("badmail")) == 1
    # To look is allowed: nothing is written.
    for command in (("poll", "--dry-run"), ("purge", "--dry-run")):
        workers.begin(1, *command)
        number, looked = workers.next_end()
        assert (number, looked.code) == (1, 0), looked
        left_alone(world)
    gate.open()
    number, done = workers.next_end()
    assert (number, done.code) == (0, 0), done
    assert (world.state / "office.jsonl").read_bytes() == journal
    assert len(world.left) == 3


def test_a_killed_pass_leaves_no_lock(world: World) -> None:
    world.timeout = WAIT
    world.write()
    for _ in range(KILLS):
        world.letters(1)
        gate = Gate(world)
        running = world.start()
        assert gate.reached.wait(WAIT)
        refused(world.poll())
        running.kill()
        running.communicate()
        assert (world.state / "office.lock").exists()
        gate.open()
        world.heal()
        world.poll().ended(0)
        assert world.left == []
    assert world.arrived == world.sent
