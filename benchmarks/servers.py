"""The servers of a run: a private Dovecot with its Maildirs, the sink, and lines with a round trip in front of either."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import IO, Any, Self, cast

from benchmarks import mail
from tests.real.dovecot import Dovecot
from tests.real.private import wait_until

ROOT = Path(__file__).parents[1]
PASSWORD = "secret"  # noqa: S105 - of mailboxes that exist for a minute
_LINKS = 30_000  # of one file; ext4 allows 65,000


class Process:
    """A part of `benchmarks` in a process of its own that answers lines on stdin by lines on stdout; it ends with its stdin."""

    def __init__(self, *command: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        self._stdin = cast("IO[str]", self._process.stdin)
        self._stdout = cast("IO[str]", self._process.stdout)

    def line(self) -> str:
        """Return its next line."""
        line = self._stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended with code {self._process.wait()}")
        return line

    def ask(self, line: str) -> Any:  # noqa: ANN401 - JSON
        """Send a line and return the answer, which is JSON."""
        self._stdin.write(f"{line}\n")
        self._stdin.flush()
        return json.loads(self.line())

    def close(self) -> None:
        """End it."""
        self._stdin.close()
        self._stdout.close()
        self._process.wait(20)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Sink(Process):
    """The SMTP server."""

    def __init__(self) -> None:
        super().__init__("-m", "benchmarks.sink")
        self.port = int(self.line())

    def begin(self, *, round_trip: float = 0.0, acknowledge: bool = True, chunking: bool = True) -> None:
        """Start a count: see `benchmarks.sink.Ledger.begin`."""
        arguments = {"round_trip": round_trip, "acknowledge": acknowledge, "chunking": chunking}
        self.ask(f"begin {json.dumps(arguments)}")

    def take(self) -> dict[str, Any]:
        """Return the count: see `benchmarks.sink.Count`."""
        taken: dict[str, Any] = self.ask("take")
        return taken


class Delay(Process):
    """A line with a round trip in seconds to a port; `port` is its own."""

    def __init__(self, round_trip: float, target: int) -> None:
        super().__init__("-m", "benchmarks.delay", str(round_trip), str(target))
        self.port = int(self.line())

    def take(self) -> int:
        """Return how often the server waited since the last call: see `benchmarks.delay`."""
        return int(self.ask("take"))


class Meter(Process):
    """What runs and measures commands."""

    def __init__(self) -> None:
        super().__init__("-I", "-S", str(Path(__file__).with_name("measure.py")))

    def run(
        self, command: Sequence[str], environment: Mapping[str, str], folder: Path, output: Path, limit: float
    ) -> dict[str, float]:
        """Return what a command took: see `benchmarks.measure.run`."""
        program = shutil.which(command[0])
        if program is None:
            raise FileNotFoundError(command[0])
        task = [[program, *command[1:]], dict(environment), str(folder), str(output), limit]
        measured: dict[str, float] = self.ask(json.dumps(task))
        return measured


class Post:
    """The mailboxes of a private Dovecot. They are filled by hard links to messages that are written once."""

    def __init__(self, dovecot: Dovecot) -> None:
        self._dovecot = dovecot
        self._numbers = count(1)
        self._stock = dovecot.root / "stock"
        self._stock.mkdir()
        self._written: dict[tuple[int, int], tuple[Path, int, str]] = {}

    def _message(self, number: int, octets: int) -> tuple[Path, int, str]:
        """Return the file of a message, its octets on the wire, and its digest."""
        known = self._written.get((number, octets))
        if known is None:
            stored = mail.message(number, octets)
            path = self._stock / f"{number}-{octets}"
            path.write_bytes(stored)
            shutil.chown(path, "mail", "mail")
            wire = mail.wire_form(stored)
            known = self._written[number, octets] = (path, len(wire), mail.digest(wire))
        return known

    def fill(self, user: str, numbers: Sequence[int], octets: int) -> list[str]:
        """Put messages into a mailbox and return their digests. What was in it is removed."""
        self._dovecot.empty(user)
        folder = self._dovecot.root / "home" / user / "Maildir" / "cur"
        digests = []
        for number in numbers:
            path, wire_octets, digest = self._message(number, octets)
            # The name has what delivery programs put there: the sizes in the file and on the wire.
            size = path.stat().st_size
            os.link(path, folder / f"{next(self._numbers):010d}.benchmark,S={size},W={wire_octets}:2,")
            digests.append(digest)
        return digests

    def fill_alike(self, user: str, amount: int, octets: int) -> None:
        """Put so many messages into a mailbox, which may share their contents: they are listed, not read."""
        folder = self._dovecot.root / "home" / user / "Maildir" / "cur"
        for index in range(amount):
            path, wire_octets, _ = self._message(1 + index // _LINKS, octets)
            os.link(path, folder / f"{next(self._numbers):010d}.benchmark,S={octets},W={wire_octets}:2,")

    def clear(self, octets: int) -> None:
        """Remove what was written of this size, to make room; no mailbox may have it any more."""
        for key in [key for key in self._written if key[1] == octets]:
            self._written.pop(key)[0].unlink()

    def left(self, user: str) -> int:
        """Return how many messages are in a mailbox."""
        return len(self._dovecot.names(user))

    def settled(self, user: str, expected: int) -> bool:
        """Return whether a mailbox has, or soon gets, so many messages: sessions end a little after their clients."""
        try:
            wait_until(lambda: self.left(user) == expected, "", timeout=3)
        except TimeoutError:
            return False
        return True
