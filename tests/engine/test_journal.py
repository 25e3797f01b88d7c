"""The journal: what is written is read again, whatever the octets, the damage, and the disk."""

from __future__ import annotations

import errno
import json
import os
import stat
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poprep_cli.engine.state import STATUSES, Journal
from poprep_cli.errors import StateError

T1, T2 = "2026-11-23T09:41:00Z", "2026-11-24T09:41:00Z"
HEADER = b'{"format":"poprep-state","version":1,"mailbox":"me@pop:110"}\n'
posix = sys.platform != "win32"


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "office.jsonl"


def reopened(path: Path) -> Journal:
    return Journal(path, "me@pop:110")


def written(path: Path, *uidls: bytes) -> Journal:
    """Return a journal with a line for each UIDL, closed."""
    journal = reopened(path)
    for uidl in uidls:
        journal.record(uidl, "delivered", T1, octets=1, fingerprint="f")
    journal.sync()
    journal.close()
    return journal


def test_a_journal_that_is_not_there(path) -> None:
    journal = reopened(path)
    assert (journal.entries, journal.skipped, journal.lines) == ({}, 0, 0)
    journal.flush()
    journal.sync()
    assert not path.exists()


def test_a_message_on_its_way(path) -> None:
    journal = reopened(path)
    journal.record(b"u", "seen", T1)
    journal.record(b"u", "sending", T2)
    journal.record(b"u", "delivered", T2, octets=5, fingerprint="abc", short=True)
    journal.flush()
    entry = reopened(path).entries[b"u"]
    assert (entry.status, entry.first_seen, entry.at) == ("delivered", T1, T2)  # what was seen first stays so
    assert (entry.octets, entry.fingerprint, entry.short) == (5, "abc", True)
    journal.record(b"u", "deleted", T2)
    journal.flush()
    journal.close()
    again = reopened(path)
    assert again.entries[b"u"].status == "deleted"
    again.forget_deleted({b"u"})  # listed all the same: its content will tell
    assert list(again.entries) == [b"u"]
    again.forget_deleted(set())  # a UIDL whose deletion was confirmed may be used again
    assert again.entries == {}
    lines = path.read_bytes().splitlines()
    assert lines[0] + b"\n" == HEADER
    assert [json.loads(line)["status"] for line in lines[1:]] == ["seen", "sending", "delivered", "deleted"]


def test_what_is_not_flushed_is_not_written(path) -> None:
    journal = reopened(path)
    journal.record(b"u", "seen", T1)
    journal.close()
    assert not path.exists()


@given(
    uidls=st.lists(
        st.binary(min_size=1, max_size=40).filter(lambda uidl: b"\r\n" not in uidl), unique=True, max_size=8
    ),
    status=st.sampled_from(sorted(STATUSES)),
)
def test_any_octets_are_a_uidl(tmp_path_factory, uidls: list[bytes], status: str) -> None:
    path = tmp_path_factory.mktemp("journal") / "x.jsonl"
    journal = reopened(path)
    for uidl in uidls:
        journal.record(uidl, status, T1)
    journal.flush()
    journal.compact(force=True)
    again = reopened(path)
    assert again.skipped == 0
    assert again.entries == journal.entries
    assert list(again.entries) == uidls


def test_a_journal_may_be_read_by_people(path) -> None:
    written(path, b"abc", b'quote"', b"line\nend", b"\xff\xfe")
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 5
    first = {"uidl": "abc", "first_seen": T1, "status": "delivered", "at": T1, "octets": 1, "fingerprint": "f"}
    assert json.loads(lines[1]) == first
    assert '"uidl_b64":"//4="' in lines[4]


# Damage


def test_a_file_cut_anywhere_loses_at_most_its_last_line(path) -> None:
    journal = written(path, b"one", b"two", "drei ü".encode(), b"\xff\xfe")
    whole = path.read_bytes()
    for end in range(len(whole) + 1):
        path.write_bytes(whole[:end])
        again = reopened(path)
        complete = max(0, whole[:end].count(b"\n") - 1)
        assert list(again.entries) == list(journal.entries)[:complete]
        assert again.skipped == (end > 0 and whole[end - 1 : end] != b"\n")
        assert again.mailbox == "me@pop:110"


@pytest.mark.parametrize("missing", [1, 20])
def test_a_torn_line_spoils_no_other(path, missing) -> None:
    written(path, b"one", b"two")
    path.write_bytes(path.read_bytes()[:-missing])
    journal = reopened(path)
    assert (list(journal.entries), journal.skipped) == ([b"one"], 1)
    for uidl in (b"three", b"four"):
        journal.record(uidl, "seen", T1)
        journal.flush()
    journal.close()
    again = reopened(path)
    assert [uidl for uidl in again.entries if uidl != b"two"] == [b"one", b"three", b"four"]
    assert again.skipped == (missing > 1)


GARBAGE = [
    b"\0" * 100,
    b"garbage",
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe\x00",
    b'{"uidl":"x"}',
    b'{"uidl":"x","first_seen":"t","status":"no such status","at":"t"}',
    b'{"first_seen":"t","status":"seen","at":"t"}',
    b'{"uidl_b64":"?","first_seen":"t","status":"seen","at":"t"}',
    b'{"uidl":7,"first_seen":"t","status":"seen","at":"t"}',
    b'{"uidl":"x","first_seen":"t","status":"seen","at":"t"',
    b'{"uidl":"\xff","first_seen":"t","status":"seen","at":"t"}',
]


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("place", [0, 1, 3])
def test_garbage_is_skipped_and_counted(path, garbage, place) -> None:
    journal = written(path, b"one", b"two")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:place], garbage, b"\n", *lines[place:]]))
    again = reopened(path)
    assert again.entries == journal.entries
    assert again.skipped == (1 if place else 2)  # behind garbage the first line is no first line


def test_unknown_keys_are_kept(path) -> None:
    line = {"uidl": "u", "first_seen": T1, "status": "seen", "at": T1, "note": "by hand", "more": [1, {"a": None}]}
    path.write_bytes(HEADER + json.dumps(line).encode() + b"\n")
    journal = reopened(path)
    assert journal.skipped == 0
    journal.record(b"u", "delivered", T2, octets=3)
    journal.flush()
    journal.compact(force=True)
    journal.close()
    kept = json.loads(path.read_bytes().splitlines()[1])
    assert kept == line | {"status": "delivered", "at": T2, "octets": 3}


@pytest.mark.parametrize("version", [b"2", b"0", b'"1"', b"null"])
def test_another_version_is_refused_and_left_alone(path, version) -> None:
    text = HEADER.replace(b'"version":1', b'"version":' + version) + b'{"format":"of the future"}\n'
    path.write_bytes(text)
    with pytest.raises(StateError, match="this poprep knows version 1"):
        reopened(path)
    assert path.read_bytes() == text


def test_the_first_line_says_whose_state_it_is(path) -> None:
    written(path, b"one")
    assert Journal(path, "someone@else:110").mailbox == "me@pop:110"


def test_a_file_without_its_first_line_is_read(path) -> None:
    written(path, b"one", b"two")
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[1:]))
    assert list(reopened(path).entries) == [b"one", b"two"]


# Compaction


def test_compaction_keeps_the_last_line_of_each(path) -> None:
    journal = reopened(path)
    for status in ("seen", "sending", "delivered"):
        for uidl in (b"a", b"b", b"c"):
            journal.record(uidl, status, T1)
    journal.record(b"b", "deleted", T1)
    journal.forget_deleted(set())
    journal.flush()
    journal.compact()
    assert len(path.read_bytes().splitlines()) == 11  # too little to be worthwhile
    journal.compact(force=True)
    assert len(path.read_bytes().splitlines()) == 3
    journal.record(b"d", "seen", T2)
    journal.flush()
    journal.close()
    assert list(reopened(path).entries) == [b"a", b"c", b"d"]
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_compaction_happens_by_itself_when_worthwhile(path) -> None:
    journal = reopened(path)
    for number in range(1100):
        journal.record(b"u", "seen", f"2026-11-23T09:41:{number % 60:02}Z")
    journal.flush()
    journal.compact()
    assert len(path.read_bytes().splitlines()) == 2


# The disk


@pytest.mark.skipif(not posix, reason="POSIX permissions")
def test_the_file_is_private_whatever_the_umask(path) -> None:
    before = os.umask(0)
    try:
        written(path, b"one")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    reopened(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_symbolic_link_is_not_followed(path, tmp_path) -> None:
    target = tmp_path / "target"
    target.write_bytes(HEADER)
    path.symlink_to(target)
    with pytest.raises(StateError, match="symbolic link") as caught:
        reopened(path)
    assert "symbolic link" in f"{caught.value} {caught.value.hint}"
    assert target.read_bytes() == HEADER


def test_a_dangling_link_is_not_followed_when_written(path, tmp_path) -> None:
    journal = reopened(path)
    path.symlink_to(tmp_path / "target")
    journal.record(b"u", "seen", T1)
    with pytest.raises(StateError):
        journal.flush()
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo] if posix else [Path.mkdir])
def test_what_is_no_file_is_refused(path, make) -> None:
    make(path)
    with pytest.raises(StateError):
        reopened(path)


class FullDisk:
    """A disk on which `room` octets can still be written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.room = room
        self._write = os.write
        monkeypatch.setattr(os, "write", self.write)

    def write(self, descriptor: int, data: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = self._write(descriptor, data[: self.room])
        self.room -= count
        return count


@pytest.mark.parametrize("room", [0, 1, 100])
@pytest.mark.parametrize("known", [(), (b"one", b"two")])
def test_on_a_full_disk_the_file_stays_as_it_was(path, monkeypatch, room, known) -> None:
    if known:
        written(path, *known)
    before = path.read_bytes() if known else b""
    journal = reopened(path)
    for number in range(10):
        journal.record(b"new %d" % number, "seen", T1)
    with monkeypatch.context() as patch:
        FullDisk(patch, room)
        with pytest.raises(StateError, match="no space left") as caught:
            journal.flush()
    assert caught.value.hint is not None
    assert "make room" in caught.value.hint
    assert path.read_bytes() == before
    journal.flush()  # there is room again, and nothing was lost
    journal.close()
    again = reopened(path)
    assert list(again.entries) == [*known, *(b"new %d" % number for number in range(10))]
    assert again.skipped == 0
    assert path.read_bytes().startswith(HEADER)


def test_on_a_full_disk_a_torn_line_stays_apart(path, monkeypatch) -> None:
    written(path, b"one", b"two")
    path.write_bytes(path.read_bytes()[:-10])
    journal = reopened(path)
    journal.record(b"three", "seen", T1)
    with monkeypatch.context() as patch:
        FullDisk(patch, 5)
        with pytest.raises(StateError):
            journal.flush()
    journal.flush()
    assert list(reopened(path).entries) == [b"one", b"three"]


@pytest.mark.parametrize("room", [0, 50, 200])
def test_on_a_full_disk_compaction_leaves_the_file_alone(path, monkeypatch, room) -> None:
    journal = written(path, *(b"%d" % number for number in range(20)))
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        FullDisk(patch, room)
        with pytest.raises(StateError):
            journal.compact(force=True)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
