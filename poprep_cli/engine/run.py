"""A run: passes over several connectors, each in threads of its own, so that the main thread is free for signals."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from poprep_cli.config.model import Connector
from poprep_cli.engine.plan import Plan
from poprep_cli.engine.poll import Surroundings, poll
from poprep_cli.engine.report import ConnectorReport
from poprep_cli.errors import PoprepError, Stopped
from poprep_cli.net.stop import Stop

GRACE = 5.0  # seconds that threads get to notice the stop; what they wrote is safe whenever they end


class Run:
    """Passes over `connectors`, one after the other. `reports` are in the order of the connectors."""

    def __init__(
        self, connectors: Sequence[Connector], surroundings: Surroundings, reports: Sequence[ConnectorReport]
    ) -> None:
        self._connectors = connectors
        self._surroundings = surroundings
        self.reports = reports
        self.plans: dict[str, Plan] = {}
        self.stop = Stop()
        self._finished = threading.Event()
        self._thread = threading.Thread(target=self._work, name="run", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

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
        try:
            for connector, report in zip(self._connectors, self.reports, strict=True):
                if self.stop.tripped:
                    break
                self._one(connector, report)
        finally:
            self._finished.set()

    def _one(self, connector: Connector, report: ConnectorReport) -> None:
        try:
            found = poll(connector, self._surroundings, report, self.stop)
        except Exception as error:  # noqa: BLE001 - a bug in one pass must not stop the other connectors
            report.fail(_bug(error))
            return
        if found is not None:
            self.plans[connector.name] = found


def _bug(error: Exception) -> PoprepError:
    """Return a bug as an error to tell: where it happened, without values, which might be secret."""
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "?"
    return PoprepError(
        f"a bug in poprep: {type(error).__name__} at {where}",
        hint="please report it with this line; no mail was lost, the next pass goes on",
    )
