"""Private files: 0700 folders, 0600 files, never through a symbolic link, durable where asked; and the lock on one.

The only module with calls that differ between POSIX and Windows. Errors of the operating system become StateError.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from poprep_cli.errors import StateError, StateLocked

_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_BINARY = getattr(os, "O_BINARY", 0)
_CLOSE_ON_EXEC = getattr(os, "O_CLOEXEC", 0)
_NON_BLOCK = getattr(os, "O_NONBLOCK", 0)  # nothing to a regular file; to open a FIFO must not wait for its other end


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn an OSError into a StateError: "can't {doing}: {why}"."""
    try:
        yield
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise StateError(f"can't {doing}: {why}", hint=_hint(error)) from error


def _hint(error: OSError) -> str | None:
    import errno

    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        return "make room on that disk; nothing was lost, the next pass goes on"
    if error.errno == errno.ELOOP:
        return "it is a symbolic link, which is not followed: move the real file there, or set --state-dir"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "check who owns the state folder and which user runs poprep, or set --state-dir"
    return None


def make_folder(path: Path) -> Path:
    """Make a folder and its parents for the owner alone, and return it; one that exists must be no symbolic link."""
    with translated(f"use the folder {path}"):
        if path.is_symlink():
            raise StateError(f"the folder {path} is a symbolic link, which is not followed")
        if not path.parent.exists():
            make_folder(path.parent)  # mkdir's own way to make parents gives them the mode of the umask
        path.mkdir(mode=0o700, exist_ok=True)
        if sys.platform != "win32" and path.stat().st_mode & 0o077 and path.stat().st_uid == os.geteuid():
            path.chmod(0o700)
    return path


def open_private(path: Path, flags: int) -> int:
    """Open a regular file 0600 without following a symbolic link, and return the descriptor."""
    with translated(f"open {path}"):
        if not _NO_FOLLOW and path.is_symlink():
            raise StateError(f"{path} is a symbolic link, which is not followed")
        descriptor = os.open(path, flags | _NO_FOLLOW | _NON_BLOCK | _BINARY | _CLOSE_ON_EXEC, 0o600)
        opened = os.fstat(descriptor)
        if not stat.S_ISREG(opened.st_mode):
            os.close(descriptor)
            raise StateError(f"{path} is not a regular file")
        if sys.platform != "win32" and opened.st_mode & 0o077:
            os.fchmod(descriptor, 0o600)
        return descriptor


def open_appending(path: Path) -> tuple[int, bytes]:
    """Open a private file for `append`, made if it is missing; return the descriptor and the last octet, b"" if there is none."""
    descriptor = open_private(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    try:
        with translated(f"read {path}"):
            if not os.fstat(descriptor).st_size:
                return descriptor, b""
            os.lseek(descriptor, -1, os.SEEK_END)
            return descriptor, os.read(descriptor, 1)
    except BaseException:
        os.close(descriptor)
        raise


@contextmanager
def reading(path: Path) -> Iterator[BinaryIO | None]:
    """Open a private file for reading; None if there is none. Errors of reading become StateError."""
    try:
        path.lstat()
    except FileNotFoundError:
        yield None
        return
    except OSError:
        pass  # `open_private` says why
    with os.fdopen(open_private(path, os.O_RDONLY), "rb") as file, translated(f"read {path}"):
        yield file


def read_private(path: Path) -> bytes | None:
    """Return what is in a file, or None if there is none."""
    with reading(path) as file:
        return None if file is None else file.read()


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data`. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def replace(path: Path, data: bytes | Iterable[bytes], *, durable: bool = True) -> None:
    """Make `data`, or its parts, the content of a file at once: a new file, then a rename, both fsynced if it is to be durable."""
    fresh = path.with_name(path.name + ".new")
    with translated(f"write {path}"):
        fresh.unlink(missing_ok=True)
        descriptor = open_private(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            for part in (data,) if isinstance(data, bytes) else data:
                write_all(descriptor, part)
            if durable:
                os.fsync(descriptor)
        except BaseException:
            os.close(descriptor)
            fresh.unlink(missing_ok=True)
            raise
        os.close(descriptor)
        if path.is_symlink():
            raise StateError(f"{path} is a symbolic link, which is not followed")
        fresh.replace(path)
        if durable:
            sync_folder(path.parent)


def create(path: Path, data: bytes) -> None:
    """Make a file with this content at once, durably, unless there is one: of several that try, one succeeds."""
    import secrets

    fresh = path.with_name(f"{path.name}.{secrets.token_hex(8)}.new")
    with translated(f"write {path}"):
        descriptor = open_private(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            try:
                write_all(descriptor, data)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            _name_first(fresh, path)
        finally:
            fresh.unlink(missing_ok=True)
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make renames in a folder durable (POSIX; Windows does so by itself)."""
    if sys.platform == "win32":
        return
    with translated(f"sync {path}"):
        descriptor = os.open(path, os.O_RDONLY | _CLOSE_ON_EXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class Lock:
    """An exclusive lock on a file, held until `release` or the end of the process, however that comes about.

    Raises StateLocked if another process has it. On NFS it needs the lock service (lockd).
    """

    def __init__(self, path: Path, what: str) -> None:
        self._descriptor = open_private(path, os.O_RDWR | os.O_CREAT)
        try:
            _lock(self._descriptor)
        except OSError as error:
            os.close(self._descriptor)
            raise StateLocked(
                f"another run of poprep is working on {what}",
                hint="nothing to do: that run goes on, and the next one takes its turn",
            ) from error

    def release(self) -> None:
        """Let go of the lock; its file stays, so that no two runs can lock different files."""
        os.close(self._descriptor)


if sys.platform == "win32":
    import msvcrt

    def _name_first(fresh: Path, path: Path) -> None:
        try:
            fresh.rename(path)  # which refuses on Windows
        except FileExistsError:
            return

    def _lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

    def append(descriptor: int, line: bytes) -> None:
        """Write a line at the end of a file open for appending, in one piece whoever else does so. Raises OSError."""
        # The C library seeks to the end, then writes: no other process may do so in between.
        _wait_for_lock(descriptor)
        try:
            write_all(descriptor, line)
        finally:
            os.lseek(descriptor, _BEYOND, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)

    _BEYOND = 2**31 - 2  # an offset that can be locked, and where no text is: locked text can't be read by anybody
    _ATTEMPTS = 500  # a line takes microseconds to write: who waits for longer waits for something that hangs

    def _wait_for_lock(descriptor: int) -> None:
        import time

        for attempt in range(_ATTEMPTS):
            os.lseek(descriptor, _BEYOND, os.SEEK_SET)
            try:
                return _lock(descriptor)
            except OSError:
                if attempt == _ATTEMPTS - 1:
                    raise
            time.sleep(0.001)
        return None
else:

    def _name_first(fresh: Path, path: Path) -> None:
        try:
            os.link(fresh, path)  # a rename would replace what another one has made meanwhile
        except FileExistsError:
            return
        except OSError:  # a file system without links
            fresh.rename(path)

    def _lock(descriptor: int) -> None:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def append(descriptor: int, line: bytes) -> None:
        """Write a line at the end of a file open for appending, in one piece whoever else does so. Raises OSError."""
        write_all(descriptor, line)  # one write with O_APPEND: the system holds the file for it
