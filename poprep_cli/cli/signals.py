"""Signals as an exception in the main thread, which does nothing but wait while a pass runs in others."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from poprep_cli.errors import ExitCode

# SIGHUP is a closed terminal, SIGBREAK is Windows' Ctrl-Break: both end a pass as SIGTERM does.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")


class Signalled(BaseException):
    """A signal asked for the end. Not an Exception, so that nothing but its own handler catches it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = ExitCode.INTERRUPTED if number == signal.SIGINT else ExitCode.TERMINATED


class Watch:
    """Remembers the signal that came, in case its exception was raised where Python swallows exceptions."""

    def __init__(self) -> None:
        self._number = 0

    def note(self, number: int) -> None:
        """Remember a signal."""
        self._number = number

    def check(self) -> None:
        """Raise Signalled if a signal came."""
        if self._number:
            raise Signalled(self._number)


@contextmanager
def raising_signals() -> Iterator[Watch]:
    """Raise Signalled inside the block at the first signal; further ones are ignored while the pass winds down."""
    numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
    watch = Watch()

    def ignore(_number: int, _frame: FrameType | None) -> None:
        """Do nothing. Python itself complains on stderr when SIG_IGN is set while another signal is on its way."""

    def raise_once(number: int, _frame: FrameType | None) -> None:
        for one in numbers:
            signal.signal(one, ignore)
        watch.note(number)
        watch.check()

    before = {number: signal.signal(number, raise_once) for number in numbers}
    yield watch
    for number, handler in before.items():  # not after Signalled: the rest of the run is not to be interrupted
        signal.signal(number, handler)
