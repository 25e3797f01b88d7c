"""Private files, and the lock that no crash leaves behind."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from poprep_cli.engine import files
from poprep_cli.errors import ExitCode, StateError, StateLocked

HOLD = """
import sys
from pathlib import Path
from poprep_cli.engine.files import Lock
lock = Lock(Path(sys.argv[1]), "connector office")
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def holder(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run another process that holds the lock until its standard input is closed."""
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == b"held"
        yield process
        process.kill()


def test_another_process_has_the_lock(tmp_path) -> None:
    path = tmp_path / "office.lock"
    with holder(path) as process:
        with pytest.raises(StateLocked, match="another run of poprep is working on connector office") as caught:
            files.Lock(path, "connector office")
        assert caught.value.exit_code == ExitCode.TEMPFAIL
        assert caught.value.reason == "locked"
        process.communicate(b"")
        assert process.returncode == 0
    files.Lock(path, "connector office").release()


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM"] if sys.platform != "win32" else ["SIGTERM"])
def test_a_killed_process_leaves_no_lock_behind(tmp_path, how) -> None:
    path = tmp_path / "office.lock"
    with holder(path) as process:
        process.send_signal(getattr(signal, how))
        process.wait()
    lock = files.Lock(path, "connector office")
    with pytest.raises(StateLocked):
        files.Lock(path, "connector office")
    lock.release()
    assert path.exists()


def test_connectors_have_locks_of_their_own(tmp_path) -> None:
    locks = [files.Lock(tmp_path / f"{name}.lock", name) for name in ("a", "b")]
    for lock in locks:
        lock.release()


def test_a_lock_is_no_symbolic_link(tmp_path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "target")
    with pytest.raises(StateError):
        files.Lock(tmp_path / "lock", "x")
    assert not (tmp_path / "target").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_folders_are_private(tmp_path) -> None:
    folder = files.make_folder(tmp_path / "a" / "b")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o755)
    files.make_folder(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_is_no_symbolic_link(tmp_path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(StateError, match="symbolic link"):
        files.make_folder(tmp_path / "link")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StateError):
        files.make_folder(tmp_path / "file")


def test_replace_is_all_or_nothing(tmp_path, monkeypatch) -> None:
    path = tmp_path / "x"
    files.replace(path, b"first")
    (tmp_path / "x.new").write_bytes(b"left by a crash")
    files.replace(path, b"second", durable=False)
    assert files.read_private(path) == b"second"

    def fail(_descriptor: int, _data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_all", fail)
    with pytest.raises(StateError, match="no space left"):
        files.replace(path, b"third")
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == {"x": b"second"}


def test_replace_does_not_touch_the_target_of_a_link(tmp_path) -> None:
    (tmp_path / "target").write_bytes(b"keep")
    (tmp_path / "x").symlink_to(tmp_path / "target")
    with pytest.raises(StateError, match="symbolic link"):
        files.replace(tmp_path / "x", b"new")
    assert (tmp_path / "target").read_bytes() == b"keep"


def test_read_private(tmp_path) -> None:
    assert files.read_private(tmp_path / "none") is None
    (tmp_path / "empty").write_bytes(b"")
    assert files.read_private(tmp_path / "empty") == b""


def test_write_all_goes_on_where_the_system_stopped(tmp_path, monkeypatch) -> None:
    path = tmp_path / "x"
    descriptor = files.open_private(path, os.O_WRONLY | os.O_CREAT)
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda number, data: write(number, data[:3]))
        files.write_all(descriptor, b"0123456789")
    os.close(descriptor)
    assert path.read_bytes() == b"0123456789"


def test_of_many_that_make_a_file_one_succeeds(tmp_path) -> None:
    path = tmp_path / "key"
    found: list[bytes | None] = []
    barrier = threading.Barrier(8)

    def make(number: int) -> None:
        barrier.wait()
        files.create(path, b"%d" % number)
        found.append(files.read_private(path))

    threads = [threading.Thread(target=make, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert [one.name for one in tmp_path.iterdir()] == ["key"]
    assert path.stat().st_mode & 0o777 == 0o600
