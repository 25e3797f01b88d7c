"""A crash at any step: from a given step on nothing of a pass reaches a server or the disk any more."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from poprep_cli.engine import files
from poprep_cli.net.stream import Stream

JOIN = 5.0  # seconds for the download thread to notice its end


class Crashed(BaseException):
    """The process is no more. No error: nothing of the program may catch it."""


class Fuse:
    """Counts the steps of a pass: octets to or from a server, and every change on the disk.

    After `steps` of them, and for ever after, each step raises Crashed in place of its effect. With `torn` half of what
    the first of these was to write is written all the same. None burns for ever.
    """

    def __init__(self, steps: int | None, *, torn: bool = False) -> None:
        self.blown = False
        self._left = steps
        self._torn = torn
        self._lock = threading.Lock()

    def _step(self, half: Callable[[], object]) -> None:
        with self._lock:
            if self._left is None:
                return
            self._left -= 1
            if self._left >= 0:
                return
            if not self.blown:
                self.blown = True
                if self._torn:
                    half()
        raise Crashed

    @contextmanager
    def lit(self) -> Iterator[None]:
        """Watch the steps inside the block."""
        if self._left is None:
            yield
            return
        read, write, write_all = Stream.read, Stream.write, files.write_all

        def watched_write(stream: Stream, data: bytes, timeout: float) -> None:
            self._step(lambda: write(stream, data[: len(data) // 2], timeout))
            write(stream, data, timeout)

        def watched_read(stream: Stream, deadline: float) -> bytes:
            self._step(bool)
            return read(stream, deadline)

        def watched_write_all(descriptor: int, data: bytes) -> None:
            self._step(lambda: write_all(descriptor, data[: len(data) // 2]))
            write_all(descriptor, data)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Stream, "write", watched_write)
            patch.setattr(Stream, "read", watched_read)
            patch.setattr(files, "write_all", watched_write_all)
            for where, name in ((os, "fsync"), (os, "ftruncate"), (Path, "replace"), (Path, "unlink"), (Path, "mkdir")):
                patch.setattr(where, name, self._watched(getattr(where, name)))
            try:
                yield
            finally:
                for thread in threading.enumerate():
                    if thread.name.startswith("fetch "):
                        thread.join(JOIN)
                        assert not thread.is_alive()

    def _watched(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: object, **options: object) -> object:
            self._step(bool)
            return step(*arguments, **options)

        return watched
