"""Stores: a message is there once its slip is, byte for byte, and a crash leaves no half of one."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path

import pytest

from poprep_cli.engine import files
from poprep_cli.engine.message import Message, receive
from poprep_cli.engine.store import Refusal, Slip, Store, refusal
from poprep_cli.errors import StateError
from poprep_cli.protocol.wire import stuff

CONTENT = b"Subject: x\r\n\r\n.dot \xff\0\n stray\r\n"


def message(uidl: bytes = b"u", folder: Path | None = None) -> Message:
    """Return a message in memory, or in a file in `folder`."""
    block = stuff(CONTENT)
    parts = iter([block]) if folder is None else iter([block[:10], block[10:]])
    return receive(uidl, parts, (folder or Path()) / "message.part")


def slip(**changes) -> Slip:
    defaults = {"first_seen": "t", "since": "t", "reverse_path": "", "forward_paths": ["a@b"], "octets": len(CONTENT)}
    return Slip(**(defaults | {"canonical": False, "eight_bit": True} | changes))


def names(folder: Path) -> list[str]:
    return sorted(path.suffix for path in folder.iterdir())


@pytest.fixture
def held(tmp_path) -> Store:
    return Store(tmp_path / "held" / "office")


def test_an_empty_store_makes_no_folder(held) -> None:
    assert (held.items(), held.octets()) == ([], 0)
    held.sweep()
    assert not held.folder.exists()


@pytest.mark.parametrize("on_disk", [True, False])
def test_what_is_kept_is_what_was_received(held, on_disk) -> None:
    files.make_folder(held.folder)
    held.add(message(b"\xff\xfe", held.folder if on_disk else None), slip())
    assert names(held.folder) == [".eml", ".json"]
    (item,) = held.items()
    assert item.path.read_bytes() == CONTENT
    again = item.message()
    assert (again.uidl, b"".join(again.content())) == (b"\xff\xfe", CONTENT)
    assert (again.octets, again.canonical, again.eight_bit) == (len(CONTENT), False, True)
    assert again.head == b"Subject: x\r\n\r\n"
    assert b"".join(again.wire(b"F: 1\r\n")) == b"".join(message().wire(b"F: 1\r\n"))
    assert held.octets() == len(CONTENT)
    held.remove(item)
    assert list(held.folder.iterdir()) == []


def test_the_oldest_comes_first(held) -> None:
    for number in range(20):
        held.add(message(b"%d" % number), slip())
    assert [item.slip.message_uidl for item in held.items()] == [b"%d" % number for number in range(20)]


def test_no_name_comes_from_a_server(held) -> None:
    item = held.add(message(b"../../../etc/passwd"), slip())
    assert item.path.parent == held.folder
    assert "passwd" not in item.path.name


def test_the_slip_may_be_read_by_people(held) -> None:
    item = held.add(message(b"abc"), slip(why="later", refusals=[refusal(b"\xff@b", "rcpt", "450 4.2.0 later", "t")]))
    found = json.loads(item.path.with_suffix(".json").read_text(encoding="utf-8"))
    assert found["uidl"] == "abc"
    assert found["refusals"] == [{"recipient": "\\xff@b", "stage": "rcpt", "reply": "450 4.2.0 later", "at": "t"}]
    item.slip.forward_paths = ["c@d"]
    item.slip.in_doubt = True
    held.update(item)
    (again,) = held.items()
    assert (again.slip.forward_paths, again.slip.refusals) == (
        ["c@d"],
        [Refusal("\\xff@b", "rcpt", "450 4.2.0 later", "t")],
    )
    assert again.message().in_doubt


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_everything_is_private(held) -> None:
    before = os.umask(0)
    try:
        held.add(message(), slip())
    finally:
        os.umask(before)
    assert stat.S_IMODE(held.folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in held.folder.iterdir()} == {0o600}


class CrashError(BaseException):
    """The process is killed here."""


@pytest.mark.parametrize("on_disk", [True, False])
def test_a_crash_before_the_slip_leaves_nothing(held, monkeypatch, on_disk) -> None:
    files.make_folder(held.folder)
    kept = held.add(message(b"kept"), slip())
    half = message(b"half", held.folder if on_disk else None)

    def crash(*_: object, **__: object) -> None:
        raise CrashError

    with monkeypatch.context() as patch:
        patch.setattr(files, "replace", crash)
        with pytest.raises(CrashError):
            held.add(half, slip())
    assert names(held.folder) == [".eml", ".eml", ".json"]
    assert [item.path for item in held.items()] == [kept.path]
    held.sweep()
    assert names(held.folder) == [".eml", ".json"]
    assert kept.path.read_bytes() == CONTENT


def test_sweeping_takes_leftovers_and_nothing_else(held) -> None:
    kept = held.add(message(), slip())
    for name in ("000001.part", "again.part", f"{kept.path.stem}.json.new", "1.eml"):
        (held.folder / name).write_bytes(b"left")
    (held.folder / "notes.txt").write_bytes(b"of somebody else")
    held.sweep()
    assert sorted(path.name for path in held.folder.iterdir()) == sorted(
        [kept.path.name, kept.path.with_suffix(".json").name, "notes.txt"],
    )


def test_on_a_full_disk_nothing_is_kept_and_it_is_said(held, monkeypatch) -> None:
    def full(_descriptor: int, _data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_all", full)
    with pytest.raises(StateError, match="no space left"):
        held.add(message(), slip())
    assert held.items() == []
    held.sweep()
    assert list(held.folder.iterdir()) == []


def test_taking_moves_a_message(held, tmp_path) -> None:
    badmail = Store(tmp_path / "badmail" / "office")
    moved = badmail.take(held.add(message(), slip(why="550 no")), held)
    assert held.items() == []
    assert badmail.items() == [moved]
    assert moved.path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("place", "call"),
    [(Store, "update"), (Store, "remove"), (Path, "replace"), (files, "replace"), (files, "sync_folder")],
)
def test_a_crash_while_taking_leaves_the_message_in_one_place(held, tmp_path, monkeypatch, place, call) -> None:
    badmail = Store(tmp_path / "badmail" / "office")
    item = held.add(message(), slip())

    def crash(*_: object, **__: object) -> None:
        raise CrashError

    with monkeypatch.context() as patch:
        patch.setattr(place, call, crash)
        with pytest.raises(CrashError):
            badmail.take(item, held)
    held.sweep()
    badmail.sweep()
    (found,) = [*held.items(), *badmail.items()]
    assert found.path.read_bytes() == CONTENT
    for again in held.items():  # the next pass tries again
        badmail.take(again, held)
    assert list(held.folder.iterdir()) == []
    assert names(badmail.folder) == [".eml", ".json"]


def test_a_slip_that_can_not_be_read_is_named(held) -> None:
    item = held.add(message(), slip())
    item.path.with_suffix(".json").write_bytes(b"{")
    with pytest.raises(StateError, match="can't be read") as caught:
        held.items()
    assert caught.value.hint is not None
    assert ".eml" in caught.value.hint


def test_a_folder_that_is_a_link_is_not_used(tmp_path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "held").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StateError, match="symbolic link"):
        Store(tmp_path / "held").add(message(), slip())
    assert list((tmp_path / "elsewhere").iterdir()) == []
