"""A real journal, cut at every octet and damaged in every way that disks and people know: at most the last line is lost."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from poprep_cli.engine.state import STATUSES, Entry, Journal, message_key
from poprep_cli.errors import StateError

MAILBOX = "me@pop:110"
T1, T2, T3 = (f"2026-11-2{day}T09:41:00Z" for day in (3, 4, 5))
DIGEST = "0123456789abcdef" * 2


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a journal as two passes leave it: thirty messages in every status, and UIDLs of every kind."""
    path = tmp_path / "office.jsonl"
    keys = [b"%08x6743aa01" % number for number in range(24)]
    keys += ["drei ü".encode(), b"\xff\xfe", b'quote"', b"x" * 70]
    keys += [message_key(b"twin", DIGEST), message_key(b"", f"{DIGEST}-2")]
    journal = Journal(path, MAILBOX)
    journal.header["since"] = T1
    for key in keys:
        journal.record(key, "seen", T1)
    journal.flush()
    statuses = sorted(STATUSES)
    for number, key in enumerate(keys):
        status = statuses[number % len(statuses)]
        if status != "seen":
            journal.record(key, status, T2, octets=number * 1000, fingerprint=f"{number * 7**40:032x}"[-32:])
        journal.flush()
    journal.update(keys[3], gone=T3)
    journal.update(keys[4], short=True)
    journal.forget(keys[5], T3)
    journal.entries[keys[6]].extra = {"note": "by hand", "more": [1, {"a": None}]}
    journal.update(keys[6])
    journal.sync()
    journal.close()
    return path


def reopened(path: Path) -> Journal:
    return Journal(path, MAILBOX)


def told(lines: list[bytes]) -> dict[bytes, dict[str, Any]]:
    """Return what these lines say, last line first, by the documentation and without the program's reader."""
    found: dict[bytes, dict[str, Any]] = {}
    for line in map(json.loads, lines[1:]):
        uidl = line.pop("uidl").encode() if "uidl" in line else base64.b64decode(line.pop("uidl_b64"))
        digest = line.pop("digest", "")
        key = uidl + b"\r\n" + digest.encode() if digest else uidl
        found.pop(key, None) if line["status"] == "forgotten" else found.update({key: line})
    return found


def known(journal: Journal) -> dict[bytes, dict[str, Any]]:
    """Return what a journal knows, in the same form."""
    return {key: as_line(entry) for key, entry in journal.entries.items()}


def as_line(entry: Entry) -> dict[str, Any]:
    line = {"first_seen": entry.first_seen, "status": entry.status, "at": entry.at}
    rest = {"octets": entry.octets, "fingerprint": entry.fingerprint, "short": entry.short, "gone": entry.gone}
    return line | {name: value for name, value in rest.items() if value} | (entry.extra or {})


def test_the_whole_file(path: Path) -> None:
    journal = reopened(path)
    assert known(journal) == told(path.read_bytes().splitlines())
    assert len(journal.entries) == 29
    assert {entry.status for entry in journal.entries.values()} == STATUSES
    assert journal.header == {"format": "poprep-state", "version": 1, "mailbox": MAILBOX, "since": T1}
    assert (journal.skipped, journal.lines) == (0, len(path.read_bytes().splitlines()))


def test_cut_at_every_octet_it_loses_at_most_its_last_line(path: Path) -> None:
    whole = path.read_bytes()
    lines: list[bytes] = []
    expected: dict[bytes, dict[str, Any]] = {}
    for end in range(len(whole) + 1):
        path.write_bytes(whole[:end])
        torn = end > 0 and whole[end - 1] != ord("\n")
        if not torn:
            lines = whole[:end].splitlines()
            expected = told(lines)
        journal = reopened(path)
        assert known(journal) == expected
        assert (journal.skipped, journal.lines) == (torn, len(lines))
        assert journal.mailbox == MAILBOX


@pytest.mark.parametrize("tail", [b"", b"\0" * 5, b"\0" * 5000, b"\0" * 3_000_000, b'{"uidl":"x","first', b"}\xff"])
@pytest.mark.parametrize("cut", [0, 1, 2, 50])
def test_after_a_torn_line_the_next_one_is_whole(path: Path, cut: int, tail: bytes) -> None:
    whole = path.read_bytes()[:-cut] if cut else path.read_bytes()
    path.write_bytes(whole + tail)
    journal = reopened(path)
    before = known(journal)
    torn = bool(cut or tail)
    assert journal.skipped == torn
    for number in range(2):
        journal.record(b"new %d" % number, "sending", T3)
        journal.flush()
    journal.close()
    again = reopened(path)
    added = {b"new %d" % number: {"first_seen": T3, "status": "sending", "at": T3} for number in range(2)}
    if cut == 1 and not tail:  # all but the LF was there
        assert again.skipped == 0
        assert known(again) == told(path.read_bytes().splitlines())
    else:
        assert again.skipped == torn
        assert known(again) == before | added
    again.compact(force=True)
    last = reopened(path)
    assert (last.skipped, last.entries) == (0, again.entries)


GARBAGE = [
    b"\0" * 4096,
    b"\xff\xfe\x00\x01",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'{"uidl":"x","first_seen":"t","status":"seen","at":"t","digest":"\xc3\xbc"}',
    b'{"uidl":"x","first_seen":"t","status":"seen","at":"t"}{"uidl":"y","first_seen":"t","status":"seen","at":"t"}',
    b'{"uidl":"\\ud800","first_seen":"t","status":"seen","at":"t"}',
    b" ",
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_anywhere_loses_no_other_line(path: Path, garbage: bytes) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    expected = known(reopened(path))
    for place in range(1, len(lines) + 1):
        path.write_bytes(b"".join([*lines[:place], garbage, b"\n", *lines[place:]]))
        journal = reopened(path)
        assert known(journal) == expected
        assert (journal.skipped, journal.lines) == (1, len(lines) + 1)


def test_a_hole_in_the_middle_costs_what_was_in_it(path: Path) -> None:
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + b"\0" * 1000 + whole[middle + 1000 :])
    lines = [line for line in path.read_bytes().splitlines() if b"\0" not in line]
    journal = reopened(path)
    assert known(journal) == told(lines)
    assert journal.skipped == 1


@pytest.mark.parametrize("octets", [1, 4096, 3_000_000])
@pytest.mark.parametrize("first", [b"", b"header"])
def test_zeros_are_not_taken_for_an_empty_state(path: Path, first: bytes, octets: int) -> None:
    first = path.read_bytes().splitlines(keepends=True)[0] if first else b""
    path.write_bytes(first + b"\0" * octets)
    with pytest.raises(StateError, match="nothing that this poprep can read \\(1 lines\\)") as caught:
        reopened(path)
    assert caught.value.hint is not None
    assert "poprep state import office" in caught.value.hint
    assert path.read_bytes() == first + b"\0" * octets


def test_a_number_for_a_fingerprint_is_written_as_it_was_read(path: Path) -> None:
    texts = ["", "0" * 32, "f" * 32, "00ff" * 8, "abc", "g" * 32, "1_" * 16, " " * 32, "é" * 32, "0x" + "1" * 30]
    journal = reopened(path)
    for number, text in enumerate(texts):
        journal.record(b"%d" % number, "delivered", T3, fingerprint=text)
    journal.flush()
    journal.close()
    again = reopened(path)
    assert [again.entries[b"%d" % number].fingerprint for number in range(len(texts))] == texts
    assert again.entries == journal.entries
