"""Lines and blocks however they are cut, dot-stuffing both ways, mended line ends, text that can do no harm."""

from __future__ import annotations

import itertools
import re
import time
import unicodedata
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poprep_cli.errors import LocalProtocolError, RemoteProtocolError
from poprep_cli.protocol.wire import (
    MAX_LINE,
    CanonicalCheck,
    Part,
    ReceiveBuffer,
    argument,
    mend_parts,
    printable,
    stuff,
    stuff_parts,
    unstuff,
    unstuff_parts,
)

Take = Callable[[ReceiveBuffer], bytes | Part | None]
Feed = Callable[[bytes, Take], bytes | Part | None]

# Octets that make trouble turn up often enough to meet each other.
octets = st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b".", b"..", b"a", b"\0", b"\xff", b"bc"])).map(b"".join)
cuts = st.lists(st.integers(0, 40), max_size=12)


def cut_up(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def one_by_one(data: bytes) -> Iterator[bytes]:
    return (data[place : place + 1] for place in range(len(data)))


def feed_whole(data: bytes, take: Take) -> bytes | Part | None:
    buffer = ReceiveBuffer()
    buffer.append(data)
    found = take(buffer)
    assert len(buffer) == 0 or found is None
    return found


def feed_by_octets(data: bytes, take: Take) -> bytes | Part | None:
    buffer = ReceiveBuffer()
    for position, octet in enumerate(one_by_one(data)):
        buffer.append(octet)
        found = take(buffer)
        if found is not None:
            assert position == len(data) - 1
            return found
    return None


def feed_with_more(data: bytes, take: Take) -> bytes | Part | None:
    buffer = ReceiveBuffer()
    buffer.append(data + b"+OK next\r\n")
    found = take(buffer)
    assert buffer.line() == b"+OK next"
    return found


every_way = pytest.mark.parametrize("feed", [feed_whole, feed_by_octets, feed_with_more])
LINES = [
    (b"\r\n", b""),
    (b"\n", b""),
    (b"+OK\r\n", b"+OK"),
    (b"+OK a bare line feed\n", b"+OK a bare line feed"),
    (b"a\rb\r\n", b"a\rb"),
    (b"a\r\r\n", b"a\r"),
    (b"\r\r\n", b"\r"),
    (b".\r\n", b"."),
    (b"\xff\0\x1b\r\n", b"\xff\0\x1b"),
    (b"x" * (MAX_LINE - 1) + b"\r\n", b"x" * (MAX_LINE - 1)),
]


@every_way
@pytest.mark.parametrize(("data", "line"), LINES)
def test_line(feed: Feed, data, line) -> None:
    assert feed(data, ReceiveBuffer.line) == line


@pytest.mark.parametrize("feed", [feed_whole, feed_by_octets])
@pytest.mark.parametrize("data", [b"", b"+", b"+OK", b"+OK\r", b"\r", b"x" * MAX_LINE])
def test_unfinished_line(feed: Feed, data) -> None:
    assert feed(data, ReceiveBuffer.line) is None


@every_way
@pytest.mark.parametrize("data", [b"x" * (MAX_LINE + 1), b"x" * MAX_LINE + b"\r\n", b"x" * (MAX_LINE + 1) + b"\n"])
def test_line_too_long(feed: Feed, data) -> None:
    with pytest.raises(RemoteProtocolError, match="8192"):
        feed(data, ReceiveBuffer.line)


def test_a_limit_of_ones_own() -> None:
    buffer = ReceiveBuffer()
    buffer.append(b"123456")
    with pytest.raises(RemoteProtocolError):
        buffer.line(limit=5)


def test_clear_returns_what_it_forgets() -> None:
    buffer = ReceiveBuffer()
    buffer.append(b"+OK\r\nrest")
    assert buffer.line() == b"+OK"
    assert buffer.line() is None
    assert buffer.clear() == b"rest"
    assert (len(buffer), buffer.clear()) == (0, b"")
    buffer.append(b"+OK\r\n")
    assert buffer.line() == b"+OK"


BLOCKS = [
    b".\r\n",
    b"\r\n.\r\n",
    b"Subject: x\r\n\r\nbody\r\n.\r\n",
    b"..\r\n.\r\n",
    b"a\r\n..\r\n.\r\n",
    b"a\r\n..b\r\n.\r\n",
    # Nothing but CRLF.CRLF is the end:
    b"a\n.\nb\r\n.\r\n",
    b"a\n.\r\nb\r\n.\r\n",
    b"a\r\n.\nb\r\n.\r\n",
    b"a\r.\rb\r\n.\r\n",
    b"a\r\n.\rb\r\n.\r\n",
    b"a\r\n.\r\r\n.\r\n",
    b"a\n.\r\r\n.\r\n",
    b".\n\r\n.\r\n",
    b".\r\r\n.\r\n",
    b"a.\r\n\r\n.\r\n",
    b"a\r\n\r\r\n.\r\n",
    b"\0\xff\r\n.\r\n",
]
UNFINISHED = [
    b"",
    b".",
    b".\r",
    b".\n",
    b".\n.\r\n"[:4],
    b"a\r\n.",
    b"a\r\n.\r",
    b"a\r\n.\n",
    b"a\n.\n",
    b"a\n.\r\n",
    b"a\r.\r\n",
    b"\n.\r\n",
    b"a\r\n..\r\n",
    b" .\r\n",
]


@every_way
@pytest.mark.parametrize("block", BLOCKS)
def test_block(feed: Feed, block) -> None:
    assert feed(block, ReceiveBuffer.part) == Part(block, last=True)


@pytest.mark.parametrize("feed", [feed_whole, feed_by_octets])
@pytest.mark.parametrize("data", UNFINISHED)
def test_unfinished_block(feed: Feed, data) -> None:
    assert feed(data, ReceiveBuffer.part) is None


def test_a_block_starts_anew_after_each_block() -> None:
    buffer = ReceiveBuffer()
    buffer.append(b"+OK\r\n.\r\n+OK\r\na\r\n.\r\n+OK\r\n.\r\n")
    found = []
    for _ in range(3):
        assert buffer.line() == b"+OK"
        found.append(buffer.part())
    assert found == [Part(b".\r\n", last=True), Part(b"a\r\n.\r\n", last=True), Part(b".\r\n", last=True)]


def parts_of(block: bytes, feeds: list[bytes], part_octets: int) -> list[Part]:
    """Return the parts in which a block is handed out; what follows the block must stay."""
    buffer = ReceiveBuffer()
    parts: list[Part] = []
    for feed in feeds:
        buffer.append(feed)
        while (not parts or not parts[-1].last) and (part := buffer.part(part_octets)) is not None:
            parts.append(part)
            assert len(part.data) > 0
    assert b"".join(part.data for part in parts) + buffer.clear() == b"".join(feeds)
    assert b"".join(part.data for part in parts) == block
    return parts


@given(octets, cuts, st.integers(6, 20))
def test_a_large_block_comes_in_parts(content: bytes, places: list[int], part_octets: int) -> None:
    block = re.sub(rb"\r\n(?=\.)", b"\r\n.", b"\r\n" + content)[2:] + b"\r\n.\r\n"
    parts = parts_of(block, cut_up(block + b"+OK\r\n", places), part_octets)
    assert [part.last for part in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[-1].data.endswith(b".\r\n")
    for part, following in itertools.pairwise(parts):
        assert not (part.data.endswith(b"\r") and following.data.startswith(b"\n"))  # a CR and its LF stay together
    if len(block) + 5 <= part_octets:
        assert len(parts) == 1


def test_the_memory_of_a_block_without_end_is_bounded() -> None:
    buffer = ReceiveBuffer()
    for _ in range(1000):
        buffer.append(b"x" * 100)
        while buffer.part(500) is not None:
            pass
        assert len(buffer) <= 500


# Dot-stuffing (RFC 1939 3, RFC 5321 4.5.2)

STUFFED = [
    (b"", b".\r\n"),
    (b"a\r\n", b"a\r\n.\r\n"),
    (b".\r\n", b"..\r\n.\r\n"),
    (b".a\r\n..b\r\n", b"..a\r\n...b\r\n.\r\n"),
    (b"a\r\n.\r\n.\r\n", b"a\r\n..\r\n..\r\n.\r\n"),
    (b"a\n.\n\r\n", b"a\n.\n\r\n.\r\n"),
    (b"\r\n", b"\r\n.\r\n"),
]


@pytest.mark.parametrize(("content", "block"), STUFFED)
def test_stuffing(content, block) -> None:
    assert stuff(content) == block
    assert unstuff(block) == content
    assert b"".join(stuff_parts(one_by_one(content))) == block
    assert b"".join(unstuff_parts(one_by_one(block))) == content + b".\r\n"


def test_content_without_a_last_line_end_gets_one() -> None:
    assert stuff(b"a") == b"".join(stuff_parts([b"a"])) == b"a\r\n.\r\n"
    assert stuff(b"a\r") == b"".join(stuff_parts([b"a", b"\r"])) == b"a\r\r\n.\r\n"


def test_a_server_that_does_not_stuff_loses_nothing() -> None:
    assert unstuff(b".profile\r\n.x\r\n.\r\n") == b".profile\r\n.x\r\n"


@given(octets)
def test_stuffing_is_undone(content: bytes) -> None:
    whole = content if not content or content.endswith(b"\r\n") else content + b"\r\n"
    block = stuff(content)
    assert unstuff(block) == whole
    assert feed_whole(block, ReceiveBuffer.part) == Part(block, last=True)


@given(octets, cuts)
def test_stuffing_in_parts(content: bytes, places: list[int]) -> None:
    assert b"".join(stuff_parts(cut_up(content, places))) == stuff(content)


@given(octets, cuts)
def test_unstuffing_in_parts(content: bytes, places: list[int]) -> None:
    # Any content, whether or not it was stuffed well, with an end.
    block = content + b"\r\n.\r\n"
    assert b"".join(unstuff_parts(cut_up(block, places))) == unstuff(block) + b".\r\n"


# Dots far from each other, close together, and both: they are looked for in two ways.

spaced = st.lists(
    st.sampled_from(
        [b"\r\n.", b"\r\n..", b".", b"..", b"\r\n", b"\r", b"\n", b"a" * 300, b"b" * 2000, b"." * 40, b"\r\n." * 9]
    ),
    max_size=30,
).map(b"".join)
far_cuts = st.lists(st.integers(0, 20_000), max_size=8)


@given(spaced, far_cuts)
def test_dots_at_any_distance_are_stuffed(content: bytes, places: list[int]) -> None:
    assert b"".join(stuff_parts(cut_up(content, places))) == stuff(content)
    block = content + b"\r\n.\r\n"
    assert b"".join(unstuff_parts(cut_up(block, places))) == unstuff(block) + b".\r\n"


@given(spaced, far_cuts, st.sampled_from([50, 5000, 1 << 20]))
def test_the_end_is_found_behind_dots_at_any_distance(content: bytes, places: list[int], part_octets: int) -> None:
    block = stuff(b"".join(mend_parts([content])))
    parts = parts_of(block, cut_up(block + b"+OK\r\n.\r\n", places), part_octets)
    assert parts[-1].last


@pytest.mark.parametrize(
    "octets", [b".", b"..", b"\r\n.", b"\r\n..", b".\r\n", b"\r\n", b"\n.", b"a", b"\r\n." + b"a" * 600]
)
def test_no_content_makes_looking_for_dots_slow(octets: bytes) -> None:
    content = octets * ((4 << 20) // len(octets)) + b"\r\n"
    pieces = [content[begin : begin + (1 << 18)] for begin in range(0, len(content), 1 << 18)]
    began = time.process_time()
    block = b"".join(stuff_parts(pieces))
    parts = parts_of(block, [block[begin : begin + (1 << 18)] for begin in range(0, len(block), 1 << 18)], 1 << 20)
    assert b"".join(unstuff_parts([part.data for part in parts])) == content + b".\r\n"
    assert time.process_time() - began < 1  # it takes 0.05 s


# Mended line ends

MENDED = [
    (b"a\nb", b"a\r\nb"),
    (b"a\rb", b"a\r\nb"),
    (b"a\r\nb", b"a\r\nb"),
    (b"a\r\r\nb", b"a\r\nb"),
    (b"a\r\r\r\nb", b"a\r\nb"),
    (b"a\n\rb", b"a\r\n\r\nb"),
    (b"a\n\nb", b"a\r\n\r\nb"),
    (b"a\r\rb", b"a\r\n\r\nb"),
    (b"\r", b"\r\n"),
    (b"\n", b"\r\n"),
    (b"a\n.\nb", b"a\r\n.\r\nb"),
    (b"a\n.\r\nb\r.\r", b"a\r\n.\r\nb\r\n.\r\n"),
    (b"", b""),
]


@pytest.mark.parametrize(("content", "mended"), MENDED)
def test_mending(content, mended) -> None:
    assert b"".join(mend_parts([content])) == mended
    assert b"".join(mend_parts(one_by_one(content))) == mended


def without_line_ends(data: bytes) -> bytes:
    return data.replace(b"\r", b"").replace(b"\n", b"")


@given(octets, cuts)
def test_mending_in_parts(content: bytes, places: list[int]) -> None:
    mended = b"".join(mend_parts([content]))
    assert mended == re.sub(rb"\r+\n|\r|\n", b"\r\n", content)
    assert b"".join(mend_parts(cut_up(content, places))) == mended
    assert mended.count(b"\r\n") == mended.count(b"\r") == mended.count(b"\n")
    assert without_line_ends(mended) == without_line_ends(content)
    assert b"".join(mend_parts(cut_up(mended, places))) == mended


@given(octets, cuts)
def test_what_is_mended_and_stuffed_is_one_block(content: bytes, places: list[int]) -> None:
    block = b"".join(stuff_parts(mend_parts(cut_up(content, places))))
    assert feed_whole(block, ReceiveBuffer.part) == Part(block, last=True)
    check = CanonicalCheck()
    check.add(block)
    assert check.canonical


def test_a_megabyte_of_carriage_returns_is_mended_in_little_time() -> None:
    mended = b"".join(mend_parts([b"\r" * (1 << 20), b"\r" * (1 << 20)]))
    assert mended == b"\r\n" * (2 << 20)


@given(octets)
def test_canonical_check(content: bytes) -> None:
    check = CanonicalCheck()
    check.add(content)
    stray = re.search(rb"\r(?!\n)|(?<!\r)\n", content)
    assert check.canonical is (stray is None)
    assert check.ascii is content.isascii()
    assert check.nul is (b"\0" in content)


def test_canonical_check_remembers_every_part() -> None:
    check = CanonicalCheck()
    for part in (b"a\nb", b"\0", b"\xff", b"clean\r\n"):
        check.add(part)
    assert (check.canonical, check.ascii, check.nul) == (False, False, True)


@given(octets, cuts)
def test_canonical_check_of_parts(content: bytes, places: list[int]) -> None:
    parts = cut_up(content, places)
    check = CanonicalCheck()
    for part in parts:
        check.add(part)
    apart = any(one.endswith(b"\r") and other.startswith(b"\n") for one, other in pairwise(filter(None, parts)))
    if not apart:  # a part never ends between a CR and its LF
        assert check.canonical is (re.search(rb"\r(?!\n)|(?<!\r)\n", content) is None)
    assert check.ascii is content.isascii()
    assert check.nul is (b"\0" in content)


# Text for people

HARMFUL = "\0\a\b\t\r\n\x1b\x7f\x80\x9b\x9f\u200b\u200e\u202a\u202e\u2028\u2029\u2066\u2069\ufeff\ud800\U000e0041"


@pytest.mark.parametrize("character", HARMFUL)
def test_harmful_characters_become_visible(character) -> None:
    shown = printable(f"a{character}b")
    assert shown[0] + shown[-1] == "ab"
    assert shown[1] == "\\"
    assert shown.isascii()


@given(st.one_of(st.text(), st.binary()), st.integers(2, 60))
def test_printable_is_harmless_and_bounded(text: str | bytes, limit: int) -> None:
    shown = printable(text, limit)
    assert len(shown) <= limit
    assert shown.isprintable()
    assert not any(unicodedata.category(character).startswith("C") for character in shown)


@pytest.mark.parametrize("text", ["\x1b" * 1000, "x" * 1000, b"\xff" * 1000, "é" * 1000, "x" * 499 + "\0"])
def test_printable_says_that_it_cut(text) -> None:
    assert len(printable(text)) == 500
    assert printable(text).endswith("…")


@pytest.mark.parametrize("text", ["", "plain text", "Grüße, 世界", "x" * 500, "[red]not markup[/red]"])
def test_printable_leaves_text_alone(text) -> None:
    assert printable(text) == printable(text.encode()) == text


@pytest.mark.parametrize("bad", ["\r", "\n", "\0", "x\r\nPASS y", b"\r\n"])
def test_an_argument_is_no_second_command(bad) -> None:
    with pytest.raises(LocalProtocolError, match="the user name contains"):
        argument(bad, "user name")


def test_an_argument_is_utf8() -> None:
    assert argument("Ü", "user name") == argument(b"\xc3\x9c", "user name") == b"\xc3\x9c"
