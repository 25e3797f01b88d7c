"""Content that is not as SMTP wants it: what is noticed, kept back, mended, removed, and said."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from poprep_cli.config.model import Delivery
from poprep_cli.engine.content import hops, objection, remarks
from poprep_cli.engine.envelope import Trace
from poprep_cli.engine.message import HEADER_OCTETS, Message, receive
from poprep_cli.protocol.wire import TERMINATOR, CanonicalCheck, mend_parts, stuff, unstuff

TRACE = Trace("pop.example.net:995", "192.0.2.1", tls=True, by="gw.example", token="0123456789abcdef01234567")
HEADER = b"From: a@example.net\r\nSubject: x\r\n\r\n"
FRONT = b"Received: x\r\n"
DEFAULT = Delivery()


def raw_block(content: bytes) -> bytes:
    """Return the block that a server makes of content; only CRLF starts a line."""
    return (b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:] + TERMINATOR


def message(content: bytes) -> Message:
    return receive(b"u", iter([raw_block(content)]), Path("never.part"))


def parts_of(block: bytes, places: list[int]) -> list[bytes]:
    """Cut a block, never between a CR and its LF."""
    cuts = sorted({place for place in places if place < len(block) and block[place - 1 : place + 1] != b"\r\n"})
    return [block[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(block)], strict=True)]


def finds_long_lines(parts: list[bytes]) -> bool:
    check = CanonicalCheck()
    for part in parts:
        check.add(part)
    return check.long_lines


def has_long_lines(content: bytes) -> bool:
    """Tell it the slow way, by the lines as they are sent."""
    return any(len(line) > 998 for line in b"".join(mend_parts([content])).split(b"\r\n"))


# Long lines

pieces = st.sampled_from([b"\r\n", b"\r", b"\n", b".", b"..", b"x", b"x" * 300, b"y" * 700, b"z" * 997, b"z" * 998])
contents = st.lists(pieces, max_size=40).map(b"".join)


@given(contents, st.lists(st.integers(1, 4000), max_size=6))
@example(b"x" * 998, [1, 998])
@example(b"x" * 999, [1, 998])
@example(b"." + b"x" * 997 + b"\r\n", [1])
@example(b"." + b"x" * 998 + b"\r\n", [2])
@example(b"x" * 998 + b"\r\r\r\n." + b"x" * 997, [999])
@example(b"\n." + b"x" * 998, [])
@example(b"\r\n." + b"x" * 998, [2])
def test_long_lines_are_found_however_the_block_is_cut(content: bytes, places: list[int]) -> None:
    block = raw_block(content)
    assert finds_long_lines(parts_of(block, places)) is has_long_lines(content + b"\r\n")


@pytest.mark.parametrize("end", [b"\r\n", b"\n", b"\r"])
@pytest.mark.parametrize("start", [b"", b"."])
@pytest.mark.parametrize("place", [0, 5, 700, 1_000_000])
def test_998_octets_are_no_long_line(end: bytes, start: bytes, place: int) -> None:
    before = (b"x" * 60 + end) * (place // 60)
    for length, found in ((998, False), (999, True)):
        line = start + b"y" * (length - len(start))
        assert message(before + line + end + b"after").long_lines is found


def test_looking_at_canonical_mail_costs_next_to_nothing() -> None:
    data = (b"x" * 74 + b"\r\n") * 13_000
    check = CanonicalCheck()
    began = time.process_time()
    for _ in range(20):
        check.add(data)
    assert time.process_time() - began < 0.5  # 20 MB; it takes 0.05 s
    assert (check.canonical, check.long_lines, check.nul, check.ascii) == (True, False, False, True)


@pytest.mark.parametrize("octets", [b"x", b"\r", b"\n", b".", b"\r\n", b"\n.", b"\r."])
def test_no_content_makes_looking_slow(octets: bytes) -> None:
    check = CanonicalCheck()
    data = octets * ((1 << 20) // len(octets))
    began = time.process_time()
    check.add(data)
    check.add(data)
    assert time.process_time() - began < 0.5


# What is kept back


@pytest.mark.parametrize(
    ("body", "settings", "why"),
    [
        (b"one\ntwo", Delivery(bare_newlines="badmail"), "stray CRs or LFs"),
        (b"one\rtwo", Delivery(bare_newlines="badmail"), "stray CRs or LFs"),
        (b"x" * 999, Delivery(long_lines="badmail"), "lines of more than 998 octets"),
        (b"one\0two", Delivery(nul="badmail"), "NULs"),
    ],
)
def test_what_the_user_does_not_want_is_not_sent(body: bytes, settings: Delivery, why: str) -> None:
    found = objection(message(HEADER + body), settings, TRACE)
    assert found is not None
    assert why in found.why
    assert not found.loop
    assert objection(message(HEADER + body), DEFAULT, TRACE) is None
    assert objection(message(HEADER + b"body"), settings, TRACE) is None


HOP = b"Received: from a.example by b.example\r\n\tid 1;\r\n\tMon, 3 Nov 2025 10:00:00 +0100\r\n"


@pytest.mark.parametrize(
    ("content", "count"),
    [
        (HEADER, 0),
        (HOP * 3 + HEADER, 3),
        (HOP * 2 + HEADER + HOP * 5, 2),  # in a body they are quoted
        (HOP.replace(b"Received", b"rEceIved") * 2 + HEADER, 2),
        (HOP.replace(b"Received:", b"Received :") * 2 + HEADER, 2),
        (HOP.replace(b"Received", b"X-Received") * 2 + HEADER, 0),
        (b"Subject: Received: x\r\n Received: y\r\n\r\n", 0),
        ((HOP * 2 + HEADER + HOP * 5).replace(b"\r\n", b"\n"), 2),
        ((HOP * 2 + HEADER + HOP * 5).replace(b"\r\n", b"\r\r\n"), 2),
        (b"\r\n" + HOP, 0),
        (b"", 0),
    ],
)
def test_hops_are_counted_in_the_header(content: bytes, count: int) -> None:
    assert hops(message(content)) == count
    if count:
        assert objection(message(content), Delivery(max_hops=count), TRACE) is None
    if count > 1:
        found = objection(message(content), Delivery(max_hops=count - 1), TRACE)
        assert found is not None
        assert found.loop
        assert re.search(f"mail loop: it has {count} Received fields, and delivery.max_hops is {count - 1}", found.why)


def test_hops_are_counted_in_a_bounded_part_of_the_header() -> None:
    endless = message(HOP + b"X: " + b"y" * HEADER_OCTETS + b"\r\n" + HOP * 99 + HEADER)
    assert hops(endless) == 1


def test_a_header_of_line_ends_takes_no_time() -> None:
    began = time.process_time()
    for octets in (b"\r", b"\n", b"\r\n\r", b"a\r", b"\n\r\r", b"Received\r", b"received:\n "):
        hops(message(b"X" + octets * (HEADER_OCTETS // len(octets))))
    assert time.process_time() - began < 2


def test_our_own_trace_is_a_loop_before_all_else() -> None:
    front = TRACE.front(message(b""), (b"a@b.example",), datetime(2026, 11, 23, tzinfo=UTC))
    found = objection(message(front + HEADER + b"one\ntwo"), Delivery(bare_newlines="badmail"), TRACE)
    assert found is not None
    assert found.loop
    assert "this connector" in found.why


# What is sent


@given(st.lists(st.sampled_from([b"\0", b"\r", b"\n", b"\r\n", b".", b"x", b"\xff"]), max_size=30).map(b"".join))
@example(b"\r\0\n.\r\n")
@example(b"\r\n\0.\r\n")
@example(b"\0")
def test_without_nul(tmp_path_factory, body: bytes) -> None:
    """NULs go before line ends are mended and dots are doubled: they could hide either."""
    content = HEADER + body + b"\r\n"
    expected = FRONT + re.sub(rb"\r+\n|\r|\n", b"\r\n", content.replace(b"\0", b""))
    block = raw_block(HEADER + body)
    small = message(HEADER + body)
    large = receive(b"u", iter(parts_of(block, [30, 40])), tmp_path_factory.getbasetemp() / "large.part")
    for one in (small, large):
        one.without_nul = True
        data = b"".join(one.wire(FRONT))
        assert data == stuff(expected)
        assert data.find(TERMINATOR) == len(data) - len(TERMINATOR)
        assert b"".join(one.plain(FRONT)) == expected
        assert b"".join(one.content()) == content


SMUGGLING = [
    b"\n.\n",
    b"\n.\r\n",
    b"\n.\r",
    b"\r.\r",
    b"\r.\n",
    b"\r.\r\n",
    b"\r\n.\n",
    b"\r\n.\r",
    b"\r\r\n.\r\r\n",
    b"\r\n.\r\r\n",
    b"\r\r\n.\r\n",
    b"\n\r.\r\n",
    b"\n\n.\r\n",
    b"\r\n\0.\r\n",
    b"\r\n.\0\r\n",
    b"\r\0\n.\r\0\n",
    b"\0\r\n.\n\0",
]


@pytest.mark.parametrize("end", SMUGGLING, ids=repr)
@pytest.mark.parametrize("without_nul", [False, True])
def test_nothing_in_a_message_ends_it(end: bytes, without_nul: bool) -> None:
    one = message(
        HEADER + b"one" + end + b"MAIL FROM:<evil@example.com>\r\nRCPT TO:<x@example.com>\r\nDATA\r\nforged\r\n"
    )
    one.without_nul = without_nul
    data = b"".join(one.wire(FRONT))
    assert data.count(b"\r\n") == data.count(b"\r") == data.count(b"\n")
    assert data.find(TERMINATOR) == len(data) - len(TERMINATOR)
    plain = b"".join(one.plain(FRONT))
    assert plain.count(b"\r\n") == plain.count(b"\r") == plain.count(b"\n")
    assert unstuff(data) == plain


# What is said


@pytest.mark.parametrize(
    ("content", "remark"),
    [
        (HEADER + b"body", None),
        (HEADER + b"one\ntwo", "with stray CRs or LFs, each sent as a line end (delivery.bare_newlines)"),
        (HEADER + b"x" * 999, "with lines of more than 998 octets, sent as they are (delivery.long_lines)"),
        (HEADER + b"\0", "with NULs, sent as they are (delivery.nul)"),
        (HEADER + b"\xff", "with octets over 127, sent as they are to a server that does not announce 8BITMIME"),
    ],
)
def test_what_is_odd_is_said(content: bytes, remark: str | None) -> None:
    assert list(remarks(message(content), ())) == ([remark] if remark else [])


def test_what_the_server_announces_is_not_odd() -> None:
    one = message(b"Subject: \xc3\xbc\r\n\r\n\xff")
    assert list(remarks(one, {"8BITMIME": "", "SMTPUTF8": ""})) == []
    (header,) = remarks(one, {"8BITMIME": ""})
    assert header == "with a header that is not ASCII, sent as it is to a server that does not announce SMTPUTF8"


def test_removed_nuls_are_said() -> None:
    one = message(HEADER + b"\0")
    one.without_nul = True
    assert list(remarks(one, ())) == ["with NULs, which were removed (delivery.nul)"]
