"""Messages: in memory and in a file they are the same, and what goes out is what came in."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poprep_cli.engine.message import HEADER_OCTETS, Message, field, header_fields, receive
from poprep_cli.errors import ConnectionFailed, RemoteProtocolError, StateError
from poprep_cli.protocol.wire import TERMINATOR, mend_parts, stuff, unstuff

HEADER = b"Message-ID: <1@x>\r\nDate: Mon, 23 Nov 2026 09:41:00 +0000\r\nFrom: a@b.example\r\nSubject: x\r\n\r\n"
FRONT = b"Received: from pop\r\n\tby us\r\n"
pieces = st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b".", b"..", b"text", b"\0", b"\xff"]), max_size=30).map(
    b"".join
)


def raw_block(content: bytes) -> bytes:
    """Return the block that a server makes of content; only CRLF starts a line."""
    return (b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:] + TERMINATOR


def cut(block: bytes, size: int) -> Iterator[bytes]:
    """Yield parts of a block, none of which ends between a CR and its LF."""
    start = 0
    while start < len(block):
        end = start + size
        if block[end - 1 : end + 1] == b"\r\n":
            end += 1
        yield block[start:end]
        start = end


def in_memory(block: bytes, folder: Path) -> Message:
    message = receive(b"u", iter([block]), folder / "unused.part")
    assert message.file is None
    assert list(folder.glob("unused.part")) == []
    return message


def in_file(block: bytes, folder: Path, size: int) -> Message:
    return receive(b"u", cut(block, size), folder / "message.part")


def content_of(message: Message) -> bytes:
    return b"".join(message.content())


def wire_of(message: Message) -> bytes:
    return b"".join(message.wire(FRONT))


@given(body=pieces, size=st.integers(5, 40))
def test_a_file_is_as_good_as_memory(tmp_path_factory, body: bytes, size: int) -> None:
    folder = tmp_path_factory.mktemp("spool")
    block = raw_block(HEADER + body)
    small, large = in_memory(block, folder), in_file(block, folder, size)
    assert large.file is not None
    assert content_of(large) == content_of(small) == HEADER + body + b"\r\n"
    assert (large.octets, large.canonical, large.eight_bit) == (small.octets, small.canonical, small.eight_bit)
    assert large.octets == len(content_of(large))
    assert wire_of(large) == wire_of(small) == stuff(FRONT + b"".join(mend_parts([HEADER + body + b"\r\n"])))
    large.discard()
    assert not large.file.exists()


@given(pieces)
def test_what_goes_out_is_one_canonical_block(tmp_path_factory, body: bytes) -> None:
    wire = wire_of(in_memory(raw_block(HEADER + body), tmp_path_factory.getbasetemp()))
    assert wire.count(b"\r\n") == wire.count(b"\r") == wire.count(b"\n")
    assert wire.find(TERMINATOR) == len(wire) - len(TERMINATOR)
    if b"\r" not in body and b"\n" not in body:
        assert unstuff(wire) == FRONT + HEADER + body + b"\r\n"


@pytest.mark.parametrize(
    ("content", "octets"),
    [(b"", 0), (b".\r\n", 3), (b"..\r\n.\r\n", 7), (b"a\r\n.b\r\n", 7), (b"x\r\n", 3)],
)
def test_octets_are_the_senders(tmp_path, content, octets) -> None:
    message = in_memory(stuff(content), tmp_path)
    assert (message.octets, content_of(message)) == (octets, content)


@pytest.mark.parametrize(
    ("content", "canonical", "eight_bit"),
    [(b"a\r\n", True, False), (b"a\nb\r\n", False, False), (b"\xe4\r\n", True, True), (b"a\r\r\n", False, False)],
)
def test_what_is_noticed(tmp_path, content, canonical, eight_bit) -> None:
    for message in (in_memory(raw_block(content), tmp_path), in_file(raw_block(content * 9), tmp_path, 8)):
        assert (message.canonical, message.eight_bit) == (canonical, eight_bit)


def test_a_download_that_breaks_leaves_no_file(tmp_path) -> None:
    def breaking() -> Iterator[bytes]:
        yield HEADER
        yield b"half"
        raise ConnectionFailed("the line dropped")

    with pytest.raises(ConnectionFailed):
        receive(b"u", breaking(), tmp_path / "x.part")
    assert list(tmp_path.iterdir()) == []


class FullFile:
    """What `os.fdopen` returns on a disk that is full."""

    def __init__(self, descriptor: int, *_args: object, **_options: object) -> None:
        self._descriptor = descriptor

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def write(self, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_leaves_no_file(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(os, "fdopen", FullFile)
    with pytest.raises(StateError, match="no space left"):
        in_file(raw_block(HEADER * 3), tmp_path, 50)
    assert list(tmp_path.iterdir()) == []


def test_the_limit_is_for_the_content_alone(tmp_path) -> None:
    content = HEADER + b"..x\r\n" * 50
    message = receive(b"u", cut(stuff(content), 100), tmp_path / "x.part", len(content))
    assert message.octets == len(content) == (tmp_path / "x.part").stat().st_size
    message.discard()
    with pytest.raises(RemoteProtocolError, match="max_message_size"):
        receive(b"u", cut(stuff(content), 100), tmp_path / "x.part", len(content) - 1)
    assert list(tmp_path.iterdir()) == []


def test_a_spool_file_of_a_crash_is_written_over(tmp_path) -> None:
    (tmp_path / "message.part").write_bytes(b"x" * 10_000)
    assert content_of(in_file(raw_block(HEADER), tmp_path, 20)) == HEADER + b"\r\n"


def test_the_head_has_the_whole_header_and_is_bounded(tmp_path) -> None:
    assert in_memory(raw_block(HEADER + b"body"), tmp_path).head == HEADER
    dotted = b".Odd: 1\r\n.Odder: 2\r\n\r\n"
    assert in_memory(raw_block(dotted + b"body"), tmp_path).head == dotted
    endless = b"X: " + b"y" * (HEADER_OCTETS * 2)
    assert len(in_memory(raw_block(endless), tmp_path).head) == HEADER_OCTETS


# Header fields and the fingerprint


def test_header_fields() -> None:
    head = b"To: a\r\n b\r\nX-Empty:\r\nSubject : spaced\r\nno field\r\nto: c\r\n\r\nBody: no\r\n"
    assert header_fields(head) == [
        (b"to", b"a\r\n b"),
        (b"x-empty", b""),
        (b"subject", b"spaced"),
        (b"to", b"c"),
    ]
    assert field(head, b"to") == b"a\r\n b"
    assert field(head, b"body") is None
    assert header_fields(b"") == []


def fingerprint(content: bytes, folder: Path) -> str:
    return in_memory(raw_block(content), folder).fingerprint


def test_the_fingerprint_knows_a_message_again(tmp_path) -> None:
    known = fingerprint(HEADER + b"body", tmp_path)
    assert len(known) == 32
    # What a server does on the way does not matter: other fields, their order, folding, the body.
    again = b"Date:  Mon, 23 Nov 2026\r\n 09:41:00 +0000\r\nX: y\r\nFROM: a@b.example\r\nmessage-id: <1@x>\r\n\r\nother"
    assert fingerprint(again, tmp_path) == known
    assert fingerprint(HEADER.replace(b"<1@x>", b"<2@x>"), tmp_path) != known
    assert fingerprint(b"\r\nFrom: body\r\n", tmp_path) == fingerprint(b"", tmp_path) == ""


def test_a_header_that_says_little_counts_as_a_whole(tmp_path) -> None:
    known = fingerprint(b"Received: by a\r\nFrom: printer@b.example\r\nSubject: x\r\n\r\nbody", tmp_path)
    assert len(known) == 32
    again = b"Status: RO\r\nReceived:  by\r\n a\r\nFrom: printer@b.example\r\nSubject: x\r\nX-UID: 7\r\n\r\n"
    assert fingerprint(again, tmp_path) == known
    assert fingerprint(again.replace(b"by\r\n a", b"by b"), tmp_path) != known
    assert fingerprint(again.replace(b"Subject", b"Title"), tmp_path) != known
    assert fingerprint(b"Subject: x\r\n\r\nFrom: body\r\n", tmp_path) != ""
