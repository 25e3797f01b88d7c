"""The log: one file a day with all connectors in it, appended to by any number of runs, and never in the way of a pass."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import date, datetime
from pathlib import Path

from poprep_cli.engine import clock, files
from poprep_cli.errors import StateError
from poprep_cli.protocol.wire import printable

TEXT_LIMIT = 2000  # characters of a line's text: commands have at most 512 octets (RFC 2449 4), answers seldom more

_NAME = r"poprep-([0-9]{4}-[0-9]{2}-[0-9]{2})\.log"


class Log:
    """What several connectors have to say, in the file of the day, by this machine's local time.

    Level 0 is off; 1, and 2 alike, mail received and sent, and errors; 3 verbose; 4 with the POP3 and SMTP dialogue.
    Folder and file are made at the first line. Nothing here raises: after the first failure no more is written, and
    `failure` is a sentence that says why; it is "" while all is well. Secrets must have been masked by the caller.
    """

    __slots__ = (
        "_day",
        "_descriptor",
        "_folder",
        "_keep_days",
        "_lead",
        "_lock",
        "_prefix",
        "_second",
        "_state_dir",
        "_suffix",
        "failure",
        "level",
    )

    def __init__(self, level: int, folder: Path, keep_days: int, state_dir: Path | None = None) -> None:
        """Prepare. A folder inside the state folder needs `state_dir`, which then must be no symbolic link either."""
        self.level = 1 if level == 2 else level
        self.failure = ""
        self._folder = folder
        self._state_dir = state_dir
        self._keep_days = keep_days
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._day = ""  # of the open file
        self._lead = b""  # what goes in front of the next line
        self._second: datetime | None = None  # for which these two were made:
        self._prefix = ""
        self._suffix = ""

    def sayer(self, connector: str) -> Callable[[int, str], None]:
        """Return what writes a text as a line of this connector, if the level it is given is not above that of the log.

        It may be called by any thread, and after `close`, when it does nothing.
        """

        def say(level: int, text: str) -> None:
            if level <= self.level:
                self._write(connector, text)

        return say

    def close(self) -> None:
        """Write no more and close the file. It may be called twice."""
        with self._lock:
            self._end()

    def _write(self, connector: str, text: str) -> None:
        with self._lock:
            if not self.level:
                return  # it has ended while this thread waited
            try:
                self._append(f"{connector}: {printable(text, TEXT_LIMIT)}\n")
            except (OSError, StateError) as error:
                self._fail(error)
            except (OverflowError, ValueError) as error:  # a clock beyond the years that there are
                self._fail(StateError(f"can't tell the local time: {error}"))

    def _append(self, line: str) -> None:
        now = clock.exact()
        second = now.replace(microsecond=0)
        if second != self._second:
            self._begin(second)
        descriptor = self._descriptor
        if descriptor is None:
            return
        text = f"{self._prefix}.{now.microsecond // 1000:03}{self._suffix} {line}"
        files.append(descriptor, self._lead + text.encode("utf-8", "backslashreplace"))
        self._lead = b""

    def _begin(self, second: datetime) -> None:
        """Make what all lines of a second have in common; at midnight, go on to the next file."""
        local = second.astimezone().isoformat()  # the zone is asked anew each second, so that it may change at any time
        if local[:10] != self._day:
            self._open(local[:10])
        self._prefix, self._suffix = local[:19], f"{local[19:]} {os.getpid()}"
        self._second = second

    def _open(self, day: str) -> None:
        self._close()
        if self._state_dir is not None:
            files.make_folder(self._state_dir)
        if not self._folder.is_dir() or self._folder.is_symlink():
            files.make_folder(self._folder)  # one that exists keeps its mode: it may be /var/log
        path = self._folder / f"poprep-{day}.log"
        if path.is_symlink():
            raise StateError(f"{path} is a symbolic link, which is not followed")
        self._descriptor, last = files.open_appending(path)
        self._day = day
        self._lead = b"\n" if last not in (b"\n", b"") else b""  # a full disk has cut the last line
        if not last:
            remove_old(self._folder, date.fromisoformat(day), self._keep_days)

    def _fail(self, error: OSError | StateError) -> None:
        if isinstance(error, OSError):
            path = self._folder / f"poprep-{self._day}.log"
            error = StateError(f"can't write {path}: {(error.strerror or str(error)).lower()}")
        self.failure = f"the log is not complete: {error}; mend that, or name another folder in log.folder"
        self._end()

    def _end(self) -> None:
        self.level = 0
        try:
            self._close()
        except OSError as error:  # network file systems may tell only now that the disk is full
            self.failure = self.failure or f"the log is not complete: {(error.strerror or str(error)).lower()}"

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def remove_old(folder: Path, today: date, keep_days: int) -> None:
    """Remove the logs whose names are more than `keep_days` days older than today; with 0 all stay.

    Today is counted as the day after the newest log before it, so that a clock that jumps ahead by a year does not make
    old what was written just now. What can't be removed stays, until the next new file.
    """
    if not keep_days:
        return
    with suppress(OSError):  # it can be written, but not be listed
        logs = {day: path for day, path in _logs(folder) if day < today}
        first = max(logs, default=today).toordinal() + 1 - keep_days
        for day, path in logs.items():
            if day.toordinal() < first:
                with suppress(OSError):  # another run was first, or somebody reads it on Windows
                    path.unlink()


def _logs(folder: Path) -> Iterator[tuple[date, Path]]:
    for path in folder.iterdir():
        name = re.fullmatch(_NAME, path.name)
        if name is None or path.is_symlink() or not path.is_file():
            continue
        with suppress(ValueError):  # no day has this name
            yield date.fromisoformat(name[1]), path
