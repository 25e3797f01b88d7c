"""The state folder can't be written, is a symbolic link, or the disk is full: 74, and nothing is lost or repeated."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.poll.world import POSIX, SmtpFaults, World, letter

pytestmark = pytest.mark.skipif(not POSIX, reason="links, modes and limits are POSIX's")


def limited(octets: int) -> Callable[[], None]:
    """Return what makes every file of a process at most so large: a disk that is full."""

    def limit() -> None:
        if sys.platform != "win32":
            import resource

            resource.setrlimit(resource.RLIMIT_FSIZE, (octets, octets))

    return limit


def untouched(world: World) -> None:
    assert world.smtp.sessions == []
    assert len(world.left) == len(world.sent)


def test_the_state_folder_is_a_symbolic_link(world: World) -> None:
    world.letters(1)
    (world.folder / "elsewhere").mkdir()
    world.state.symlink_to(world.folder / "elsewhere")
    world.run().ended(74, f"the folder {world.state} is a symbolic link, which is not followed")
    untouched(world)
    assert world.pop3.sessions == []
    assert list((world.folder / "elsewhere").iterdir()) == []
    world.state.unlink()
    world.recovers()


def test_the_state_folder_is_a_file(world: World) -> None:
    world.letters(1)
    world.state.write_text("mine")
    world.run().ended(74, f"office: can't .*{world.state}.*: (file exists|not a directory)")
    untouched(world)
    assert world.state.read_text() == "mine"


def test_the_state_folder_cannot_be_made(world: World) -> None:
    world.letters(1)
    world.write()
    arguments = ["--config", str(world.config), "--state-dir", "/dev/null/state", "poll"]
    done = subprocess.run([sys.executable, "-m", "poprep_cli", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 74
    assert done.stderr.startswith("poprep: office: can't ")
    assert "/dev/null/state" in done.stderr
    assert "Traceback" not in done.stderr
    untouched(world)


@pytest.mark.parametrize("name", ["office.jsonl", "office.lock", "installation.key"])
def test_a_file_in_it_is_a_symbolic_link(world: World, name: str) -> None:
    world.letters(1)
    target = world.folder / "target"
    target.write_bytes(b"precious")
    world.state.mkdir(mode=0o700)
    (world.state / name).symlink_to(target)
    world.poll().ended(74, f"office: .*{name}.*symbolic link")
    assert target.read_bytes() == b"precious"
    untouched(world)
    (world.state / name).unlink()
    world.recovers()


@pytest.mark.parametrize("store", ["held", "badmail"])
def test_a_store_is_a_symbolic_link(world: World, store: str) -> None:
    world.letters(1)
    outside = world.folder / "outside"
    outside.mkdir()
    (world.state / store).mkdir(mode=0o700, parents=True)
    (world.state / store / "office").symlink_to(outside)
    reply = b"450 later\r\n" if store == "held" else b"554 no\r\n"
    world.smtp.faults = SmtpFaults(replies={"end-of-data": reply})
    done = world.poll()
    assert done.code == 74, done
    assert "symbolic link" in done.err
    assert "Traceback" not in done.err
    assert list(outside.iterdir()) == []
    assert world.left == ["u1"]
    assert not any(session.quit for session in world.pop3.sessions)
    (world.state / store / "office").unlink()
    world.recovers()


def test_no_room_at_all(world: World) -> None:
    world.letters(3)
    world.run(preexec=limited(0)).ended(74, "office: can't write .*: file too large")
    untouched(world)
    world.recovers()


def test_the_disk_fills_up_while_mail_flows(world: World) -> None:
    world.letters(30)
    done = world.run(preexec=limited(5000))
    assert done.code == 74, done
    assert "can't write" in done.sentences[0]
    assert "Traceback" not in done.err
    count = len(world.smtp.delivered)
    assert 0 < count < 30
    assert len(world.left) == 30
    assert not any(session.quit for session in world.pop3.sessions)
    in_doubt = sum(status == "sending" for status in world.statuses().values())
    assert in_doubt <= 1
    world.recovers(repeated=in_doubt)


def test_the_disk_fills_up_while_mail_is_held(world: World) -> None:
    world.mail(letter(1), letter(2, b"x" * 70_000 + b"\r\n"), letter(3))
    world.smtp.faults = SmtpFaults(replies={"greeting": b"421 4.3.2 down\r\n"})
    done = world.run(preexec=limited(40_000))
    assert done.code == 74, done
    assert "can't write" in done.err
    assert world.left == ["u1", "u2", "u3"]
    assert not any(session.quit for session in world.pop3.sessions)
    world.recovers()


@pytest.mark.parametrize("lacking", [5, 1_500_000])
def test_the_disk_fills_up_while_a_large_message_is_read(world: World, lacking: int) -> None:
    world.mail(letter(1), letter(2, b"line of text\r\n" * 200_000), letter(3))
    done = world.run(preexec=limited(len(world.sent[1]) - lacking))
    assert done.code == 74, done
    assert "can't write" in done.err
    assert "u2" in world.left
    assert world.sent[1] not in world.arrived
    assert set(world.arrived) <= set(world.sent)
    assert not any(session.quit for session in world.pop3.sessions)
    world.recovers()


def test_everything_is_private_whatever_the_umask(world: World) -> None:
    world.letters(2)
    world.smtp.faults = SmtpFaults(
        replies={"end-of-data": lambda content: b"554 no\r\n" if b"Number 1" in content else b"450 later\r\n"}
    )
    before = os.umask(0)
    try:
        world.poll()
    finally:
        os.umask(before)
    modes = {path.relative_to(world.state): path.stat().st_mode & 0o777 for path in world.state.rglob("*")}
    assert modes
    assert {mode for path, mode in modes.items() if (world.state / path).is_file()} == {0o600}
    assert {mode for path, mode in modes.items() if (world.state / path).is_dir()} == {0o700}
    assert world.state.stat().st_mode & 0o777 == 0o700


def test_a_journal_with_garbage_in_it(world: World) -> None:
    world.leave_copy = True
    world.letters(3)
    world.poll().ended(0)
    path = world.state / "office.jsonl"
    path.write_bytes(path.read_bytes() + b"\0\0\0\0\nnot json\n" + b'{"uidl": "u3", "stat')
    done = world.poll()
    done.ended(0, r"office.jsonl: 3 unreadable lines were skipped")
    assert world.arrived == world.sent
    world.letters(1)
    assert world.poll().code == 0
    assert world.arrived == world.sent
    assert len(world.left) == 4


class FullDisk:
    """Writes to one file fail from the given one on, counted from 1, as on a disk that is full; `count` says how many there were."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: Path, first: int) -> None:
        self.count = 0
        self._path = path
        self._first = first
        self._write = os.write
        monkeypatch.setattr(os, "write", self.write)

    def write(self, descriptor: int, data: bytes) -> int:
        if self._path.exists() and os.path.samestat(os.fstat(descriptor), self._path.stat()):
            self.count += 1
            if self.count >= self._first:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._write(descriptor, data)


@pytest.mark.parametrize("first", range(1, 12))
def test_the_journal_cannot_be_written_at_any_of_its_records(
    world: World, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    world.smtp_lines = "max_in_flight = 1"
    world.letters(4)
    with monkeypatch.context() as patch:
        disk = FullDisk(patch, world.state / "office.jsonl", first)
        done = world.poll()
    # There are not so many writes: seen, each sending with the delivered before it, the last delivered, going, deleted.
    if disk.count < first:
        assert first > 8
        done.ended(0)
        return
    assert done.code == 74, done
    assert "can't write" in done.sentences[0]
    assert "no space left" in done.sentences[0]
    assert "make room on that disk" in done.err
    quit_came = any(session.quit for session in world.pop3.sessions)
    assert quit_came is (world.left == [])  # QUIT is last: after it all is delivered, and only its record is missing
    in_doubt = sum(status == "sending" for status in world.statuses().values())
    assert in_doubt <= 1
    # What was sent is on record as sent, or in doubt.
    delivered = sum(status == "delivered" for status in world.statuses().values())
    assert delivered <= len(world.smtp.delivered) <= delivered + in_doubt
    accepted = len(world.smtp.delivered)
    if quit_came:
        world.poll().ended(0)
        assert (len(world.smtp.delivered), world.left) == (4, [])
        return
    world.poll()
    counts = Counter(world.arrived)
    assert set(counts) == set(world.sent)
    assert len(world.smtp.delivered) <= 4 + in_doubt
    assert accepted <= len(world.smtp.delivered)
    assert world.left == []


@pytest.mark.parametrize("name", ["office.jsonl.new", "office.status.json.new"])
def test_a_file_cannot_be_replaced(world: World, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    world.leave_copy = True
    world.letters(3)
    world.poll().ended(0)
    path = world.state / "office.jsonl"
    header, _, lines = path.read_bytes().partition(b"\n")
    path.write_bytes(header + b"\n" + lines * 200)  # so much is superseded that it is written anew
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        FullDisk(patch, world.state / name, 1)
        world.poll().ended(74, f"can't write {world.state / name.removesuffix('.new')}: no space left")
    assert path.read_bytes() == before
    assert not (world.state / name).exists()
    assert len(world.arrived) == 3
    world.poll().ended(0)
    assert len(path.read_bytes()) < len(before) // 100
    assert world.arrived == world.sent
    assert len(world.left) == 3
