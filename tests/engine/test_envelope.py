"""The letter: our Received field, the loop it finds, and the reverse path."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email import message_from_bytes
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poprep_cli.engine.envelope import POSSIBLE_DUPLICATE, Letter, Trace, reverse_path, token
from poprep_cli.engine.message import Message, receive
from poprep_cli.protocol.wire import stuff, unstuff

NOW = datetime(2026, 11, 3, 9, 4, 5, tzinfo=UTC)
TOKEN = "0123456789abcdef01234567"

# RFC 5321 4.4: a Time-stamp-line, as narrow as ours needs it.
_DOMAIN = rb"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*"
_ADDRESS = rb"\[(?:\d{1,3}(?:\.\d{1,3}){3}|IPv6:[0-9A-Fa-f:.]+)\]"
_HOST = rb"(?:%b(?:(?: |\r\n\t)\(%b\))?|%b \(%b\))" % (_DOMAIN, _ADDRESS, _ADDRESS, _ADDRESS)
STAMP = re.compile(
    rb"Received: from %b(?: |\r\n\t)by %b\r\n\twith POP3S? \(poprep [\w.+]+\) id [0-9a-f]{24}(?:\r\n\tfor <[^<>\s]+>)?;\r\n"
    rb"\t(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d{1,2} [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d \+0000\r\n" % (_HOST, _HOST)
)


def trace(**changes) -> Trace:
    defaults = {"server": "pop.example.net:995", "peer": "192.0.2.1", "tls": True, "by": "gw.example", "token": TOKEN}
    return Trace(**(defaults | changes))


def message(content: bytes = b"Subject: x\r\n\r\nbody\r\n") -> Message:
    return receive(b"u", iter([stuff(content)]), Path("never.part"))


def test_the_trace() -> None:
    front = trace().front(message(), (b"a@corp.example",), NOW)
    assert re.fullmatch(
        rb"Received: from pop\.example\.net \(\[192\.0\.2\.1\]\) by gw\.example\r\n"
        rb"\twith POP3S \(poprep [^)]+\) id 0123456789abcdef01234567\r\n"
        rb"\tfor <a@corp\.example>;\r\n"
        rb"\tTue, 3 Nov 2026 09:04:05 \+0000\r\n",
        front,
    )
    received = message_from_bytes(front + b"\r\n")["Received"]
    assert parsedate_to_datetime(received.rpartition(";")[2]) == NOW


def test_the_trace_without_tls_and_with_several_recipients() -> None:
    front = trace(tls=False, peer="").front(message(), (b"a@b", b"c@d"), NOW)
    assert front.startswith(b"Received: from pop.example.net by gw.example\r\n\twith POP3 (poprep ")
    assert b"for <" not in front  # the recipients may not know of each other
    assert front.count(b";") == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"server": "evil\r\nX: y:110"},
        {"by": "a b\r\n\r\nbody"},
        {"server": "[::1]:110", "peer": "::1"},
        {"by": "bücher"},
    ],
)
def test_the_trace_is_one_field_whatever_the_names(changes) -> None:
    front = trace(**changes).front(message(), (), NOW)
    assert STAMP.fullmatch(front), front
    assert message_from_bytes(front + b"\r\n").keys() == ["Received"]
    assert max(map(len, front.split(b"\r\n"))) < 998


HOSTS = [
    ("pop.example.net:995", "192.0.2.1", b"pop.example.net ([192.0.2.1])"),
    ("pop.example.net:995", "2001:db8::1", b"pop.example.net ([IPv6:2001:db8::1])"),
    ("pop.example.net:995", "fe80::1%eth0", b"pop.example.net ([IPv6:fe80::1])"),
    ("pop.example.net:995", "", b"pop.example.net"),
    ("192.0.2.1:110", "192.0.2.1", b"[192.0.2.1] ([192.0.2.1])"),
    ("[::1]:110", "::1", b"[IPv6:::1] ([IPv6:::1])"),
    ("[::1]:110", "", b"[IPv6:::1] ([IPv6:::1])"),
    ("pop_3.internal:110", "10.0.0.1", b"pop-3.internal ([10.0.0.1])"),
    ("-a..b-.:110", "", b"a.b"),
    ("b\u00fccher.example:110", "", b"xn--bcher-kva.example"),
    ("\u00fc..\u00fc:110", "", b"unknown"),
    ("$(id) (x) <y>; \\:110", "not an address) by", b"id---x---y"),
    ("evil\r\nX: y:110", "1.2.3.4\n", b"evil--X--y"),
]


@pytest.mark.parametrize(("server", "peer", "shown"), HOSTS)
def test_hosts_in_the_trace(server: str, peer: str, shown: bytes) -> None:
    front = trace(server=server, peer=peer).front(message(), (), NOW)
    assert front.startswith(b"Received: from " + shown + b" by gw.example\r\n")
    assert STAMP.fullmatch(front), front


@pytest.mark.parametrize("by", ["[192.0.2.9]", "[IPv6:2001:db8::9]", "192.0.2.9", "gw_1", "x" * 300, "", "\x00"])
def test_our_own_name_in_the_trace(by: str) -> None:
    front = trace(by=by).front(message(), (b"a@corp.example",), NOW)
    assert STAMP.fullmatch(front), front


@given(st.text(max_size=300), st.text(max_size=60), st.text(max_size=300))
def test_the_trace_is_right_whatever_the_names(server: str, peer: str, by: str) -> None:
    front = trace(server=server, peer=peer, by=by).front(message(), (b"a@corp.example",), NOW)
    assert STAMP.fullmatch(front), front
    assert trace().is_loop(message(front + b"\r\n"))


def test_lines_of_the_trace_are_short() -> None:
    names = {
        "server": "pop." + "p" * 40 + ".example.net:995",
        "by": "gw." + "g" * 40 + ".example",
        "peer": "2001:db8::1",
    }
    for front in (trace().front(message(), (b"a@corp.example",), NOW), trace(**names).front(message(), (), NOW)):
        assert max(map(len, front.split(b"\r\n"))) <= 78
        assert STAMP.fullmatch(front)
    both = names | {"server": "pop.example.net:995"}
    assert max(map(len, trace(**both).front(message(), (), NOW).split(b"\r\n"))) <= 78


def test_the_recipient_stays_secret_when_it_must() -> None:
    assert b"\tfor <a@b.example>;\r\n" in trace().front(message(), (b"a@b.example",), NOW)
    for paths in ((), (b"a@b.example", b"bcc@b.example"), ("j\u00fcrgen@b.example".encode(),)):
        assert b"for <" not in trace().front(message(), paths, NOW)


def test_a_message_in_doubt_says_so() -> None:
    doubtful = message()
    doubtful.in_doubt = True
    assert trace().front(doubtful, (), NOW).endswith(b"\r\n" + POSSIBLE_DUPLICATE)
    assert POSSIBLE_DUPLICATE not in trace().front(message(), (), NOW)


def test_our_own_trace_is_a_loop() -> None:
    content = b"Subject: x\r\n\r\nbody\r\n"
    front = trace().front(message(content), (b"a@b",), NOW)
    again = message(b"Received: by another hop;\r\n\tdate\r\n" + front + content)
    assert trace().is_loop(again)
    assert not trace().is_loop(message(content))
    assert not trace(token="f" * 24).is_loop(again)
    bounce = message(b"Subject: bounce\r\n\r\n" + front + content)
    assert not trace().is_loop(bounce)  # in a body it is a quotation


def test_the_token_is_of_this_installation_and_connector(tmp_path) -> None:
    first = token(tmp_path, "office")
    assert re.fullmatch(r"[0-9a-f]{24}", first)
    assert token(tmp_path, "Office") == first
    assert token(tmp_path, "other") != first
    (tmp_path / "elsewhere").mkdir()
    assert token(tmp_path / "elsewhere", "office") != first


REVERSE_PATHS = [
    (b"Return-Path: <s@example.net>\r\n", b"s@example.net"),
    (b"Return-Path:<s+tag@example.net>\r\n", b"s+tag@example.net"),
    (b"return-path:\r\n <s@example.net> \r\n", b"s@example.net"),
    (b"Return-Path: <first@a.example>\r\nReturn-Path: <second@b.example>\r\n", b"first@a.example"),
    (b"Return-Path: <>\r\n", b""),
    (b"Return-Path:\r\n", b""),
    (b"", b""),
    (b"From: not@this.example\r\n", b""),
    (b"Return-Path: s@example.net\r\n", b""),
    (b"Return-Path: <no-at-sign>\r\n", b""),
    (b"Return-Path: <two words@example.net>\r\n", b""),
    (b"Return-Path: <s@example.net> SIZE=1\r\n", b""),
    (b"Return-Path: <s@example.net>> RCPT\r\n", b""),
    (b"Return-Path: <<s@example.net>\r\n", b""),
    (b"Return-Path: <s\0@example.net>\r\n", b""),
    (b"Return-Path: <s\r@example.net>\r\n", b""),
    (b"Return-Path: <\xfc@example.net>\r\n", b""),
    (b"Return-Path: <" + b"x" * 300 + b"@example.net>\r\n", b""),
]


@pytest.mark.parametrize(("header", "path"), REVERSE_PATHS)
def test_the_sender_is_kept(header, path) -> None:
    one = receive(
        b"u", iter([header + b"Subject: x\r\n\r\nReturn-Path: <body@x.example>\r\n.\r\n"]), Path("never.part")
    )
    assert reverse_path("keep", one) == path


def test_the_sender_may_be_set() -> None:
    one = message(b"Return-Path: <s@example.net>\r\n\r\n")
    assert reverse_path("null", one) == b""
    assert reverse_path("bounces@corp.example", one) == b"bounces@corp.example"


@pytest.mark.parametrize("content", [b".dot\r\n", b"Subject: x\r\n\r\n\xff\r\n", b"a\nb\r\n"])
def test_a_letter(content) -> None:
    block = (b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n"
    one = receive(b"u", iter([block]), Path("never.part"))
    letter = Letter(one, b"", (b"a@b",), b"Received: x\r\n")
    data = b"".join(letter.wire())
    assert unstuff(data) == b"Received: x\r\n" + content.replace(b"a\nb", b"a\r\nb")
    assert letter.eight_bit is not content.isascii()
    assert letter.octets == len(b"Received: x\r\n") + len(content)
