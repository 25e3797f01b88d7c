"""The stop switch: one call from another thread ends every stream that a pass has open, at once."""

from __future__ import annotations

import threading
from collections.abc import Callable

from poprep_cli.errors import Stopped


class Stop:
    """A switch that can be tripped once. What must end with it registers a function that ends it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._actions: list[Callable[[], None]] = []
        self.tripped = False

    def on_trip(self, action: Callable[[], None]) -> Callable[[], None]:
        """Register `action`, which is called when the switch is tripped, or at once if it is. Return what unregisters it."""
        with self._lock:
            if not self.tripped:
                self._actions.append(action)
                return lambda: self._forget(action)
        action()
        return lambda: None

    def _forget(self, action: Callable[[], None]) -> None:
        with self._lock:
            if action in self._actions:
                self._actions.remove(action)

    def trip(self) -> None:
        """End everything that is registered. Safe from any thread, not from a signal handler."""
        with self._lock:
            self.tripped = True
            actions, self._actions = self._actions, []
        for action in actions:
            action()

    def check(self) -> None:
        """Raise Stopped if the switch was tripped."""
        if self.tripped:
            raise Stopped
