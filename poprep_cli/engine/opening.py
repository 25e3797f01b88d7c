"""One more submission session, opened by a thread of its own while mail goes on through those that are open."""

from __future__ import annotations

import threading
from collections.abc import Callable

from poprep_cli.errors import PoprepError
from poprep_cli.net.stop import Stop
from poprep_cli.net.submission import Submission

LEAVE = 1.0  # seconds for the thread to notice that it is not wanted any more: only the look-up of a name takes longer


class Opening:
    """An attempt to open a session. It ends with `take` or `abandon`."""

    def __init__(self, attempt: Callable[[Stop], Submission], stop: Stop) -> None:
        """Begin. `attempt` is called with a switch that `stop` trips, and so does `abandon`."""
        self._attempt = attempt
        self._stop = Stop()
        # The session's streams hang on that switch for as long as they live.
        stop.on_trip(self._stop.trip)
        self._submission: Submission | None = None
        self._error: BaseException | None = None
        self._unwanted = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="poprep-opening", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            submission = self._attempt(self._stop)
        except BaseException as error:  # noqa: BLE001 - it is raised by `take`
            self._error = error
            return
        with self._lock:
            self._submission = submission
            if self._unwanted:
                submission.close()

    @property
    def done(self) -> bool:
        """Whether `take` has something to say without waiting."""
        return not self._thread.is_alive()

    def take(self) -> Submission:
        """Return the session, once it is open. Raises as `Submission.open` does."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        if self._submission is None:  # pragma: no cover - it is one or the other
            raise RuntimeError("no submission and no error")
        return self._submission

    def abandon(self) -> None:
        """Give the attempt up: the line is dropped. Raises only what is no PoprepError."""
        with self._lock:
            self._unwanted = True
            if self._submission is not None:
                self._submission.close()
        self._stop.trip()
        self._thread.join(LEAVE)
        if self._error is not None and not isinstance(self._error, PoprepError):
            raise self._error
