"""Whether what TOP gave is the whole message, and what convicts a server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from poprep_cli.engine.message import Message, receive
from poprep_cli.engine.top import REFUSED, SHORT, Top, closing_delimiter, is_whole
from poprep_cli.net.maildrop import Listed
from poprep_cli.protocol.wire import stuff

PLAIN = b"Subject: x\r\n\r\nHello.\r\n"
MULTIPART = (
    b'Content-Type: multipart/mixed;\r\n\tboundary="a b=c"\r\n\r\n--a b=c\r\n\r\nHello.\r\n--a b=c--\r\nThe end.\r\n'
)


def message(content: bytes, folder: Path, cuts: tuple[int, ...] = ()) -> Message:
    """Return a message whose block came in parts, cut at these places."""
    block = stuff(content)

    def parts() -> Iterator[bytes]:
        start = 0
        for cut in (*cuts, len(block)):
            yield block[start:cut]
            start = cut

    return receive(b"u", parts(), folder / "x.part")


@pytest.mark.parametrize(
    ("content", "listed", "whole"),
    [
        (PLAIN, len(PLAIN), True),
        (PLAIN, len(PLAIN) - 2, True),  # LIST counts the lines' ends as one octet
        (PLAIN, len(PLAIN) + 1, False),
        (PLAIN, 0, False),  # a size that is no number
        (MULTIPART, len(MULTIPART), True),
        (MULTIPART, 0, True),
        (MULTIPART, len(MULTIPART) + 1, False),
        (MULTIPART[:-20], 10, False),  # LIST says too little, the boundary does not come
        (b"+OK 20 octets\r\n" + PLAIN, len(PLAIN), False),  # a second status line
        (b"", 0, False),
    ],
)
def test_whole(content: bytes, listed: int, whole: bool, tmp_path: Path) -> None:
    assert is_whole(message(content, tmp_path), listed) is whole


@pytest.mark.parametrize("place", range(1, len(b"\r\n--a b=c--\r\n")))
def test_a_boundary_across_parts(place: int, tmp_path: Path) -> None:
    cut = MULTIPART.rindex(b"\r\n--a b=c--") + place
    assert is_whole(message(MULTIPART, tmp_path, (cut,)), len(MULTIPART))


@pytest.mark.parametrize(
    ("field", "closing"),
    [
        (b"Content-Type: text/plain; boundary=x", None),
        (b"Content-Type: multipart/mixed", None),
        (b"Subject: x", None),
        (b"content-type: MULTIPART/Mixed; BOUNDARY=x", b"\n--x--"),
        (b'Content-Type: multipart/mixed; charset=x;\r\n boundary = "x y "; a=b', b"\n--x y--"),
        (b"Content-Type: multipart/mixed; boundary=x;a=b", b"\n--x--"),
    ],
)
def test_what_ends_a_multipart(field: bytes, closing: bytes | None) -> None:
    assert closing_delimiter(field + b"\r\n\r\n") == closing


def test_only_more_by_retr_convicts_the_server(tmp_path: Path) -> None:
    top, listed, other = Top(use=True), Listed(1, b"u", 30), Listed(2, b"v", 30)
    short, whole = message(PLAIN, tmp_path), message(PLAIN + b"More.\r\n", tmp_path)
    assert (top.asks(listed), top.advice) == (True, "")
    top.incomplete(listed, short)
    assert (top.asks(listed), top.asks(other)) == (False, True)
    top.compare(listed, short)  # LIST was wrong, not TOP
    top.compare(other, whole)
    assert (top.trouble, top.asks(other)) == ("", True)
    top.incomplete(other, short)
    top.compare(other, whole)
    assert (top.trouble, top.asks(Listed(3, b"w", 1))) == (SHORT, False)
    assert "TOP gives less" in top.advice


def test_a_refusal_counts_once_retr_works(tmp_path: Path) -> None:
    top, listed = Top(use=True), Listed(1, b"u", 30)
    top.refused(listed)
    assert (top.trouble, top.asks(listed)) == ("", False)
    top.begin(offered=True)
    assert top.asks(listed)
    top.refused(listed)
    top.compare(listed, message(PLAIN, tmp_path))
    assert top.trouble == REFUSED
    assert "refuses TOP" in top.advice


def test_it_is_not_used() -> None:
    listed = Listed(1, b"u", 30)
    assert not Top(use=False).asks(listed)
    assert Top(use=False, trouble=SHORT).advice == ""
    assert not Top(use=True, trouble=SHORT).asks(listed)
    top = Top(use=True)
    top.begin(offered=False)
    assert not top.asks(listed)
    assert (top.trouble, "does not announce TOP" in top.advice) == ("", True)
