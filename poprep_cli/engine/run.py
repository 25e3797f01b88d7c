"""A run: some work over several connectors, in threads of its own, so that the main thread is free for signals."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from poprep_cli.config.model import Connector
from poprep_cli.engine.plan import Plan
from poprep_cli.errors import PoprepError, Stopped
from poprep_cli.net.stop import Stop


class Report(Protocol):
    """What the work on one connector fills in. It is complete once it is `done`."""

    done: bool

    def fail(self, error: PoprepError) -> None:
        """Note the error that ended the work."""

    def conceal(self) -> None:
        """Mask every known secret in what is to be told."""


R = TypeVar("R", bound=Report)

GRACE = 5.0  # seconds that threads get to notice the stop; what they wrote is safe whenever they end


class Run(Generic[R]):
    """Work over `connectors`, `jobs` of them at a time, begun in their order. `reports` are in the same order.

    `plans` are what the work on a connector returns, by its name.
    """

    def __init__(
        self,
        connectors: Sequence[Connector],
        reports: Sequence[R],
        work: Callable[[Connector, R, Stop], Plan | None],
        jobs: int = 1,
    ) -> None:
        self._work_on = work
        self.reports = reports
        self.plans: dict[str, Plan] = {}
        self.stop = Stop()
        self._waiting = deque(zip(connectors, reports, strict=True))
        self._workers = max(1, min(jobs, len(connectors)))
        self._busy = self._workers
        self._leaving = threading.Lock()
        self._finished = threading.Event()

    def start(self) -> None:
        """Begin."""
        for number in range(self._workers):
            threading.Thread(target=self._work, name=f"job {number}", daemon=True).start()

    def wait(self, seconds: float) -> bool:
        """Wait so long at most; return whether the run has ended."""
        return self._finished.wait(seconds)

    def abort(self) -> None:
        """End every pass at once; nothing more is read, delivered or committed."""
        self.stop.trip()
        self._finished.wait(GRACE)
        for report in self.reports:
            if not report.done:
                report.fail(Stopped())
                report.conceal()

    def _work(self) -> None:
        """Take one connector after the other until none is left: who is slow keeps one worker, and the others go on."""
        try:
            while not self.stop.tripped:
                try:
                    connector, report = self._waiting.popleft()
                except IndexError:
                    return
                self._one(connector, report)
        finally:
            with self._leaving:
                self._busy -= 1
                if not self._busy:
                    self._finished.set()

    def _one(self, connector: Connector, report: R) -> None:
        try:
            found = self._work_on(connector, report, self.stop)
        except Exception as error:  # noqa: BLE001 - a bug with one connector must not stop the others
            report.fail(bug(error))
            return
        if found is not None:
            self.plans[connector.name] = found


def bug(error: Exception) -> PoprepError:
    """Return a bug as an error to tell: where it happened, without values, which might be secret."""
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "?"
    return PoprepError(
        f"a bug in poprep: {type(error).__name__} at {where}",
        hint="please report it with this line; no mail was lost, the next pass goes on",
    )
