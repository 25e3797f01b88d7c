"""The trials of several connectors, one after the other, in a thread, so that the main thread is free for signals."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from poprep_cli.config.model import Connector
from poprep_cli.engine.run import GRACE, bug
from poprep_cli.engine.trial import Wanted, try_methods
from poprep_cli.engine.trial_report import TrialReport
from poprep_cli.errors import Stopped
from poprep_cli.net.stop import Stop


class TrialRun:
    """Trials of `connectors`. `reports` are in the order of the connectors."""

    def __init__(self, connectors: Sequence[Connector], wanted: Wanted, reports: Sequence[TrialReport]) -> None:
        self._connectors = connectors
        self._wanted = wanted
        self.reports = reports
        self.stop = Stop()
        self._finished = threading.Event()
        self._thread = threading.Thread(target=self._work, name="trials", daemon=True)

    @property
    def doing(self) -> str:
        """What is being tried at this moment, "" if nothing is."""
        return next((f"{report.connector}: trying {report.doing}" for report in self.reports if report.doing), "")

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wait(self, seconds: float) -> bool:
        """Wait so long at most; return whether the run has ended."""
        return self._finished.wait(seconds)

    def abort(self) -> None:
        """End all trials at once."""
        self.stop.trip()
        self._finished.wait(GRACE)
        for report in self.reports:
            if not report.done:
                report.fail(Stopped())
                report.conceal()

    def _work(self) -> None:
        try:
            for connector, report in zip(self._connectors, self.reports, strict=True):
                if self.stop.tripped:
                    break
                self._one(connector, report)
        finally:
            self._finished.set()

    def _one(self, connector: Connector, report: TrialReport) -> None:
        try:
            try_methods(connector, self._wanted, report, self.stop)
        except Exception as error:  # noqa: BLE001 - a bug with one connector must not stop the others
            report.fail(bug(error))
