"""The SMTP core: replies however they are cut, commands that can't be abused, limits that hold."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poprep_cli.errors import LocalProtocolError, RemoteProtocolError
from poprep_cli.protocol import smtp
from poprep_cli.protocol.smtp import Command, Reply, SmtpClient
from poprep_cli.protocol.wire import MAX_LINE

REPLIES = [
    (b"250 ok\r\n", 250, "", (b"ok",)),
    (b"250\r\n", 250, "", (b"",)),
    (b"250 \r\n", 250, "", (b"",)),
    (b"250 bare line feed\n", 250, "", (b"bare line feed",)),
    (b"220-mx\r\n220-be patient\r\n220 ready\r\n", 220, "", (b"mx", b"be patient", b"ready")),
    (b"250-a\r\n250\r\n", 250, "", (b"a", b"")),
    (b"550 5.1.1 no such user\r\n", 550, "5.1.1", (b"5.1.1 no such user",)),
    (b"250 2.1.5\r\n", 250, "2.1.5", (b"2.1.5",)),
    (b"550 2.1.1 of another class\r\n", 550, "", (b"2.1.1 of another class",)),
    (b"550 5.1.1x\r\n", 550, "", (b"5.1.1x",)),
    (b"354 go ahead\r\n", 354, "", (b"go ahead",)),
    (b"421-4.7.0 a\r\n421 4.7.0 b\r\n", 421, "4.7.0", (b"4.7.0 a", b"4.7.0 b")),
    (b"250 \xff\x00\x1b[31m\r\n", 250, "", (b"\xff\x00\x1b[31m",)),
]
INCOMPLETE = [b"", b"2", b"250 ok", b"250 ok\r", b"250-ok\r\n", b"250-a\r\n250-b\r\n", b"250-a\r\n250"]
MALFORMED = [
    b"\r\n",
    b"ok\r\n",
    b"25 ok\r\n",
    b"2500 ok\r\n",
    b"250ok\r\n",
    b"250\tok\r\n",
    b" 250 ok\r\n",
    b"150 preliminary\r\n",
    b"050 x\r\n",
    b"650 x\r\n",
    b"999 x\r\n",
    b"+OK\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"250-a\r\n251 b\r\n",
    b"250-a\r\n\r\n",
    b"250-a\r\ntext\r\n",
    b"\xb2\xb5\xb0 ok\r\n",
    b"250 " + b"x" * MAX_LINE + b"\r\n",
    b"x" * (MAX_LINE + 1),
    b"250-x\r\n" * smtp.MAX_REPLY_LINES,
]


def feed_whole(client: SmtpClient, data: bytes) -> Reply | None:
    client.receive(data)
    return client.next_reply()


def feed_by_octets(client: SmtpClient, data: bytes) -> Reply | None:
    for position in range(len(data)):
        client.receive(data[position : position + 1])
        reply = client.next_reply()
        if reply is not None:
            assert position == len(data) - 1
            return reply
    return None


def feed_with_more(client: SmtpClient, data: bytes) -> Reply | None:
    client.receive(data + b"221 bye\r\n")
    client.send(smtp.quit())
    reply = client.next_reply()
    following = client.next_reply()
    assert following is not None
    assert (following.code, following.command) == (221, smtp.quit())
    return reply


@pytest.mark.parametrize("feed", [feed_whole, feed_by_octets, feed_with_more])
@pytest.mark.parametrize(("data", "code", "enhanced", "lines"), REPLIES)
def test_reply(feed: Callable[[SmtpClient, bytes], Reply | None], data, code, enhanced, lines) -> None:
    assert feed(SmtpClient(), data) == Reply(code, enhanced, lines, smtp.GREETING)


@pytest.mark.parametrize("feed", [feed_whole, feed_by_octets])
@pytest.mark.parametrize("data", INCOMPLETE)
def test_incomplete_reply(feed, data) -> None:
    client = SmtpClient()
    assert feed(client, data) is None
    assert client.outstanding == 1


@pytest.mark.parametrize("feed", [feed_whole, feed_by_octets, feed_with_more])
@pytest.mark.parametrize("data", MALFORMED)
def test_malformed_reply_breaks_the_session_for_good(feed, data) -> None:
    client = SmtpClient()
    with pytest.raises(RemoteProtocolError):
        feed(client, data)
    with pytest.raises(RemoteProtocolError):
        feed(client, b"250 ok\r\n")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (200, "positive"),
        (250, "positive"),
        (299, "positive"),
        (354, "intermediate"),
        (334, "intermediate"),
        (350, None),
        (400, "transient"),
        (499, "transient"),
        (500, "permanent"),
        (599, "permanent"),
    ],
)
def test_kinds_of_replies(code, kind) -> None:
    reply = Reply(code, "", (b"",), smtp.GREETING)
    kinds = {name for name in ("positive", "intermediate", "transient", "permanent") if getattr(reply, name)}
    assert kinds == ({kind} if kind else set())


def test_the_text_is_harmless_and_bounded() -> None:
    reply = Reply(550, "", (b"\x1b]0;evil\x07", b"second" * 200), smtp.GREETING)
    assert reply.text.isprintable()
    assert len(reply.text) < 700
    assert str(reply).startswith("550 \\x1b]0;evil")


def test_replies_answer_commands_in_order() -> None:
    client = SmtpClient()
    client.receive(b"220 x\r\n")
    assert client.next_reply() is not None
    commands = (smtp.mail(b""), smtp.rcpt(b"a@b.example"), smtp.data())
    assert client.send(*commands) == b"MAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nDATA\r\n"
    client.receive(b"250 1\r\n550 2\r\n354 3\r\n")
    replies = [client.next_reply() for _ in commands]
    assert [reply.command for reply in replies if reply] == list(commands)
    client.expect_end_of_data(2)
    client.receive(b"250 4\r\n450 5\r\n")
    ends = [client.next_reply(), client.next_reply()]
    assert [(reply.code, reply.command) for reply in ends if reply] == [
        (250, smtp.END_OF_DATA),
        (450, smtp.END_OF_DATA),
    ]
    assert client.next_reply() is None


@pytest.mark.parametrize("data", [b"250 ok\r\n", b"2", b"421 closing\r\n"])
def test_a_reply_that_nobody_asked_for(data) -> None:
    client = SmtpClient()
    client.receive(b"220 x\r\n" + data)
    assert client.next_reply() is not None
    with pytest.raises(RemoteProtocolError, match="nobody asked"):
        client.next_reply()


def test_unasked_octets_never_become_a_reply_save_421() -> None:
    client = SmtpClient()
    client.receive(b"220 x\r\n250 early\r\n")
    assert client.next_reply() is not None
    with pytest.raises(RemoteProtocolError, match="nobody asked"):
        client.send(smtp.noop())

    client = SmtpClient()
    client.receive(b"220 x\r\n421 shutting down\r\n")
    assert client.next_reply() is not None
    client.send(smtp.noop())
    assert client.next_reply() == Reply(421, "", (b"shutting down",), smtp.noop())


def test_forget_returns_what_came_too_early() -> None:
    client = SmtpClient()
    client.receive(b"220 x\r\n")
    assert client.next_reply() is not None
    assert client.forget() == b""
    client.send(smtp.starttls())
    client.receive(b"220 go\r\n250-evil\r\n")
    assert client.next_reply() is not None
    assert client.forget() == b"250-evil\r\n"
    assert client.forget() == b""


def test_a_flood_is_bounded() -> None:
    client = SmtpClient()
    with pytest.raises(RemoteProtocolError):
        for _ in range(100):
            client.receive(b"250-x\r\n" * 10_000)
    with pytest.raises(RemoteProtocolError):
        client.next_reply()


@given(st.lists(st.one_of(st.binary(max_size=60), st.sampled_from([b"250-", b"250 ", b"\r\n", b"x" * 9000, b"421"]))))
def test_whatever_comes_is_a_reply_or_a_protocol_error(parts: list[bytes]) -> None:
    client = SmtpClient()
    client.send(*[smtp.noop()] * 3)
    try:
        for part in parts:
            client.receive(part)
            while (reply := client.next_reply()) is not None:
                assert 200 <= reply.code <= 599
                assert reply.text.isprintable()
            assert len(client._buffer) <= MAX_LINE
            assert len(client._lines) < smtp.MAX_REPLY_LINES
    except RemoteProtocolError:
        return
    assert client.outstanding <= 4


COMMANDS = [
    (smtp.ehlo("mx.example.net"), b"EHLO mx.example.net\r\n"),
    (smtp.ehlo("[IPv6:::1]"), b"EHLO [IPv6:::1]\r\n"),
    (smtp.ehlo("a", lmtp=True), b"LHLO a\r\n"),
    (smtp.helo("a"), b"HELO a\r\n"),
    (smtp.starttls(), b"STARTTLS\r\n"),
    (smtp.auth("PLAIN"), b"AUTH PLAIN\r\n"),
    (smtp.auth("PLAIN", b""), b"AUTH PLAIN =\r\n"),
    (smtp.auth("PLAIN", b"\0u\0p"), b"AUTH PLAIN AHUAcA==\r\n"),
    (smtp.auth_response(b"p"), b"cA==\r\n"),
    (smtp.auth_response(b""), b"\r\n"),
    (smtp.auth_response(None), b"*\r\n"),
    (smtp.mail(b""), b"MAIL FROM:<>\r\n"),
    (
        smtp.mail(b"a@b", size=7, body_8bit=True, smtputf8=True),
        b"MAIL FROM:<a@b> SIZE=7 BODY=8BITMIME SMTPUTF8\r\n",
    ),
    (smtp.rcpt("ä@b".encode()), b"RCPT TO:<\xc3\xa4@b>\r\n"),
    (smtp.data(), b"DATA\r\n"),
    (smtp.bdat(5, last=False), b"BDAT 5\r\n"),
    (smtp.bdat(0, last=True), b"BDAT 0 LAST\r\n"),
    (smtp.rset(), b"RSET\r\n"),
    (smtp.noop(), b"NOOP\r\n"),
    (smtp.quit(), b"QUIT\r\n"),
]


@pytest.mark.parametrize(("command", "line"), COMMANDS)
def test_commands(command: Command, line) -> None:
    assert command.line == line
    assert SmtpClient().send(command) == line


def test_a_secret_is_not_shown() -> None:
    assert "AHUAcA" not in repr(smtp.auth("PLAIN", b"\0u\0p"))


@pytest.mark.parametrize("bad", [b"\r", b"\n", b"\0", b"<", b">", b" ", b"\t", b"\x1b", b"\x7f", b"x" * 255])
@pytest.mark.parametrize("make", [smtp.mail, smtp.rcpt])
def test_paths_that_would_be_more_than_a_path(make, bad) -> None:
    with pytest.raises(LocalProtocolError):
        make(b"a" + bad + b"@b.example")


@pytest.mark.parametrize(
    "make",
    [
        lambda: smtp.rcpt(b""),
        lambda: smtp.ehlo("a\r\nQUIT"),
        lambda: smtp.ehlo("a b"),
        lambda: smtp.ehlo(""),
        lambda: smtp.helo("bücher.example"),
        lambda: smtp.auth("PLAIN\r\n"),
        lambda: smtp.auth("plain"),
        lambda: smtp.auth("PLAIN", b"x" * 10_000),
        lambda: smtp.auth_response(b"x" * 10_000),
    ],
)
def test_commands_that_are_not_made(make) -> None:
    with pytest.raises(LocalProtocolError):
        make()


def test_extensions() -> None:
    lines = (
        b"SIZE",
        b"size 1000",
        b"SIZE 5",
        b"8bitmime",
        b"AUTH=LOGIN PLAIN",
        b"AUTH PLAIN CRAM-MD5 login",
        b"",
        b"-x",
        b"\xff",
        b"XLONG " + b"y" * 5000,
    )
    found = smtp.parse_extensions(Reply(250, "", lines, smtp.ehlo("a")))
    assert found.pop("XLONG") == "y" * smtp.MAX_PARAMETERS
    assert found == {"SIZE": "1000", "8BITMIME": "", "AUTH": "LOGIN PLAIN CRAM-MD5"}


def test_it_is_cheap() -> None:
    client = SmtpClient()
    client.receive(b"220 x\r\n")
    client.next_reply()
    start = time.process_time()
    for _ in range(2000):
        client.expect_end_of_data()
        client.send(smtp.mail(b"a@b.example", size=1000), smtp.rcpt(b"c@d.example"), smtp.data())
        client.receive(b"250 2.0.0 ok\r\n250 2.1.0 ok\r\n250 2.1.5 ok\r\n354 go\r\n")
        for _ in range(4):
            assert client.next_reply() is not None
    assert time.process_time() - start < 0.2
