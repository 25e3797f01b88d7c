"""The POP3 core: replies however they are cut, +OK and nothing else, pairing, APOP, secrets that never show."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poprep_cli.errors import LocalProtocolError, RemoteProtocolError
from poprep_cli.protocol import pop3
from poprep_cli.protocol.pop3 import Command, Pop3Client, Reply
from poprep_cli.protocol.wire import MAX_LINE, PART_OCTETS

Feed = Callable[[Pop3Client, bytes], Reply | None]


def greeted(*commands: Command) -> Pop3Client:
    """Return a client that has its greeting and has sent these commands."""
    client = Pop3Client()
    client.receive(b"+OK ready\r\n")
    assert client.next_reply() == Reply(True, b"ready", pop3.GREETING)
    client.send(*commands)
    return client


def feed_whole(client: Pop3Client, data: bytes) -> Reply | None:
    client.receive(data)
    return client.next_reply()


def feed_by_octets(client: Pop3Client, data: bytes) -> Reply | None:
    for position in range(len(data)):
        client.receive(data[position : position + 1])
        reply = client.next_reply()
        if reply is not None:
            assert position == len(data) - 1
            return reply
    return None


def feed_with_more(client: Pop3Client, data: bytes) -> Reply | None:
    client.send(pop3.QUIT)
    client.receive(data + b"+OK bye\r\n")
    reply = client.next_reply()
    assert client.next_reply() == Reply(True, b"bye", pop3.QUIT)
    assert client.outstanding == 0
    return reply


every_way = pytest.mark.parametrize("feed", [feed_whole, feed_by_octets, feed_with_more])
PLAIN = pop3.auth("PLAIN")
REPLIES = [
    (pop3.NOOP, b"+OK\r\n", True, b""),
    (pop3.NOOP, b"+OK \r\n", True, b""),
    (pop3.NOOP, b"+ok Done\r\n", True, b"Done"),
    (pop3.NOOP, b"+OK a bare line feed\n", True, b"a bare line feed"),
    (pop3.NOOP, b"-ERR no\r\n", False, b"no"),
    (pop3.NOOP, b"-err\r\n", False, b""),
    (pop3.NOOP, b"+OK \xff\0\x1b[31m\r\n", True, b"\xff\0\x1b[31m"),
    (pop3.retr(1), b"-ERR message expunged\r\n", False, b"message expunged"),
]


@every_way
@pytest.mark.parametrize(("command", "data", "ok", "text"), REPLIES)
def test_reply(feed: Feed, command, data, ok, text) -> None:
    assert feed(greeted(command), data) == Reply(ok, text, command)


@pytest.mark.parametrize("feed", [feed_whole, feed_by_octets])
@pytest.mark.parametrize("data", [b"", b"+OK", b"+OK x\r", b"-", b"hello"])
def test_incomplete_reply(feed: Feed, data) -> None:
    client = greeted(pop3.NOOP)
    assert feed(client, data) is None
    assert client.outstanding == 1


NO_REPLIES = [
    b"\r\n",
    b"\n",
    b" \r\n",
    b"+\r\n",
    b"+ \r\n",
    b"+ERR can't open\r\n",
    b"+OKAY\r\n",
    b"+OK\t\r\n",
    b"+OK\0\r\n",
    b" +OK\r\n",
    b"\r+OK\r\n",
    b"+O\r\n",
    b"OK\r\n",
    b"-OK\r\n",
    b"-ERROR\r\n",
    b"-\r\n",
    b"250 ok\r\n",
    b"* OK\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"\xff\xfe\r\n",
    b".\r\n",
    b"x" * (MAX_LINE + 1),
    b"+OK " + b"x" * MAX_LINE + b"\r\n",
]


@every_way
@pytest.mark.parametrize("command", [pop3.NOOP, pop3.retr(1), pop3.dele(1)])
@pytest.mark.parametrize("data", NO_REPLIES)
def test_what_is_no_reply(feed: Feed, command, data) -> None:
    with pytest.raises(RemoteProtocolError):
        feed(greeted(command), data)


@pytest.mark.parametrize("data", NO_REPLIES)
def test_what_is_no_greeting(data) -> None:
    with pytest.raises(RemoteProtocolError):
        feed_whole(Pop3Client(), data)


@pytest.mark.parametrize(
    ("data", "ok", "code"),
    [
        (b"-ERR [IN-USE] locked\r\n", False, "IN-USE"),
        (b"-ERR [in-use]\r\n", False, "IN-USE"),
        (b"-ERR [SYS/TEMP] later\r\n", False, "SYS/TEMP"),
        (b"-ERR [AUTH]\r\n", False, "AUTH"),
        (b"+OK [X] y\r\n", True, "X"),
        (b"-ERR \r\n", False, ""),
        (b"-ERR in [AUTH] the middle\r\n", False, ""),
        (b"-ERR []\r\n", False, ""),
        (b"-ERR [AU TH]\r\n", False, ""),
        (b"-ERR [AUTH\r\n", False, ""),
    ],
)
def test_response_codes(data, ok, code) -> None:
    reply = feed_whole(greeted(pop3.NOOP), data)
    assert reply is not None
    assert (reply.ok, reply.code) == (ok, code)


def test_a_reply_for_people_is_harmless() -> None:
    reply = Reply(False, b"\x1b]0;evil\x07 \xe2\x80\xae" + b"x" * 9000, pop3.NOOP)
    assert str(reply).startswith("-ERR \\x1b]0;evil\\x07 \\u202e")
    assert str(reply).isprintable()
    assert len(str(reply)) <= 500
    assert str(Reply(True, b"", pop3.NOOP)) == "+OK"


@every_way
@pytest.mark.parametrize("block", [b".\r\n", b"1 a\r\n.\r\n", b"..\r\n.\r\n", b"a\n.\nb\n.\r\nc\r\n.\r\n"])
def test_multi_line_reply(feed: Feed, block) -> None:
    assert feed(greeted(pop3.LIST), b"+OK 2 messages\r\n" + block) == Reply(True, b"2 messages", pop3.LIST, block)


def test_a_long_block_comes_in_parts() -> None:
    client = greeted(pop3.retr(1), pop3.retr(2))
    content = b"x" * 998 + b"\r\n"
    client.receive(b"+OK\r\n" + content * 1100)
    reply = client.next_reply()
    assert reply is not None
    assert reply.more
    assert PART_OCTETS < len(reply.block) < PART_OCTETS + 100_000
    with pytest.raises(RuntimeError, match="not read to its end"):
        client.next_reply()
    assert client.next_part() is None
    client.receive(content + b".\r\n+OK second\r\n.\r\n")
    part = client.next_part()
    assert part is not None
    assert part.last
    assert reply.block + part.data == content * 1101 + b".\r\n"
    assert client.next_reply() == Reply(True, b"second", pop3.retr(2), b".\r\n")


def test_replies_answer_commands_in_order() -> None:
    commands = [pop3.STAT, pop3.LIST, *(pop3.retr(number) for number in range(1, 100)), pop3.dele(1), pop3.QUIT]
    client = Pop3Client()
    client.receive(b"+OK\r\n")
    client.next_reply()
    assert client.send(*commands) == b"".join(command.line + b"\r\n" for command in commands)
    assert client.outstanding == len(commands)
    for command in commands:
        # What looks like a reply inside a block is none.
        client.receive(b"+OK\r\n+OK forged\r\n-ERR\r\n.\r\n" if command.multi_line else b"-ERR no\r\n")
    replies = [client.next_reply() for _ in commands]
    assert [reply.command for reply in replies if reply] == commands
    assert {reply.ok for reply in replies[1:101] if reply} == {True}
    assert (client.outstanding, client.next_reply()) == (0, None)


@pytest.mark.parametrize("data", [b"+OK\r\n", b"-ERR\r\n", b"+", b"\r\n"])
def test_a_reply_that_nobody_asked_for(data) -> None:
    client = Pop3Client()
    client.receive(b"+OK ready\r\n" + data)
    assert client.next_reply() is not None
    with pytest.raises(RemoteProtocolError, match="nobody asked"):
        client.next_reply()


def test_a_reply_from_before_the_command_is_not_its_reply() -> None:
    client = Pop3Client()
    client.receive(b"+OK ready\r\n+OK deleted\r\n")
    assert client.next_reply() is not None
    with pytest.raises(RemoteProtocolError, match="nobody asked"):
        client.send(pop3.dele(1))


def test_commands_may_be_sent_while_replies_are_on_their_way() -> None:
    client = greeted(pop3.retr(1))
    client.receive(b"+OK\r\nhalf")
    assert client.next_reply() is None
    client.send(pop3.retr(2))
    client.receive(b"\r\n.\r\n+OK\r\n.\r\n")
    assert client.next_reply() == Reply(True, b"", pop3.retr(1), b"half\r\n.\r\n")
    client.send(pop3.QUIT)
    assert client.next_reply() == Reply(True, b"", pop3.retr(2), b".\r\n")


def test_what_came_before_tls_is_found() -> None:
    client = greeted(pop3.STLS)
    client.receive(b"+OK begin\r\n+OK injected\r\n")
    assert client.next_reply() == Reply(True, b"begin", pop3.STLS)
    assert client.forget_received() == b"+OK injected\r\n"
    assert client.forget_received() == b""


# APOP

GREETING_OF_RFC_1939 = b"POP3 server ready <1896.697170952@dbc.mtview.ca.us>"


def test_apop_example_of_rfc_1939() -> None:
    timestamp = pop3.timestamp(Reply(True, GREETING_OF_RFC_1939, pop3.GREETING))
    assert timestamp == b"<1896.697170952@dbc.mtview.ca.us>"
    assert pop3.apop("mrose", "tanstaaf", timestamp).line == b"APOP mrose c4c9334bac560ecc979e58001b3e22fb"


@pytest.mark.parametrize(
    ("text", "timestamp"),
    [
        (b"<1.2@host>", b"<1.2@host>"),
        (b"<1.2@host> at the start", b"<1.2@host>"),
        (b"Dovecot ready.<12.3.host@x-y_z>", b"<12.3.host@x-y_z>"),
        (b"<" + b"a" * 512 + b"@b>", b"<" + b"a" * 512 + b"@b>"),
        (b"", None),
        (b"ready", None),
        (b"<no-at-sign>", None),
        (b"<@host>", None),
        (b"<local@>", None),
        (b"<a@b@c>", b"<a@b@c>"),
        (b"<a b@host>", None),
        (b"<a@host", None),
        (b"<a@host\0>", None),
        (b"<a\x80@host>", None),
        (b"<a@host\xff\xff\xff>", None),
        (b"<a@b> \x80", None),  # an eighth bit anywhere: CVE-2007-1558 needs octets of the attacker's choice
        (b"<a\r@host>", None),
        (b"<a@b> <c@d>", None),
        (b"<<a@b>", None),
        (b"<" + b"a" * 513 + b"@b>", None),
    ],
)
def test_timestamps(text, timestamp) -> None:
    assert pop3.timestamp(Reply(True, text, pop3.GREETING)) == timestamp


# CAPA


def test_capabilities() -> None:
    block = b"top\r\nUSER\r\nSASL PLAIN SCRAM-SHA-256\r\n\r\nLogin-Delay 900 USER\r\nX-\xff\r\nEXPIRE NEVER\r\n.\r\n"
    assert pop3.parse_capabilities(block) == {
        "TOP": (),
        "USER": (),
        "SASL": ("PLAIN", "SCRAM-SHA-256"),
        "LOGIN-DELAY": ("900", "USER"),
        "X-\ufffd": (),
        "EXPIRE": ("NEVER",),
    }
    assert pop3.parse_capabilities(b".\r\n") == {}


def test_capabilities_are_bounded() -> None:
    assert len(pop3.parse_capabilities(b"".join(b"X%d\r\n" % number for number in range(10_000)) + b".\r\n")) == 256


# SASL (RFC 5034)


@pytest.mark.parametrize(
    ("data", "ok", "challenge"),
    [
        (b"+ cGFzcw==\r\n", False, b"cGFzcw=="),
        (b"+ \r\n", False, b""),
        (b"+\r\n", False, b""),
        (b"+OK\r\n", True, b""),
        (b"+OK cGFzcw==\r\n", True, b"cGFzcw=="),
        (b"-ERR [AUTH] no\r\n", False, None),
    ],
)
def test_sasl_continuation(data, ok, challenge) -> None:
    for command in (PLAIN, pop3.auth("PLAIN", b"eA=="), pop3.auth_response(b"eA==")):
        reply = feed_whole(greeted(command), data)
        assert reply is not None
        assert (reply.ok, reply.challenge) == (ok, challenge)


@pytest.mark.parametrize("data", [b"+cGFzcw==\r\n", b"+ERR\r\n", b"\r\n"])
def test_what_is_no_sasl_continuation(data) -> None:
    with pytest.raises(RemoteProtocolError):
        feed_whole(greeted(PLAIN), data)


# Commands and secrets

COMMANDS = [
    (pop3.CAPA, b"CAPA"),
    (pop3.STLS, b"STLS"),
    (pop3.UIDL, b"UIDL"),
    (pop3.user("ü"), b"USER \xc3\xbc"),
    (pop3.password("two words "), b"PASS two words "),
    (pop3.auth("CRAM-MD5"), b"AUTH CRAM-MD5"),
    (pop3.auth("PLAIN", b"AHUAcA=="), b"AUTH PLAIN AHUAcA=="),
    (pop3.auth_response(b"*"), b"*"),
    (pop3.retr(7), b"RETR 7"),
    (pop3.top(7, 0), b"TOP 7 0"),
    (pop3.dele(7), b"DELE 7"),
]


@pytest.mark.parametrize(("command", "line"), COMMANDS)
def test_commands(command: Command, line) -> None:
    assert command.line == line
    assert greeted().send(command) == line + b"\r\n"


@pytest.mark.parametrize(
    "command",
    [
        pop3.password("s3cret"),
        pop3.apop("u", "s3cret", b"<a@b>"),
        pop3.auth("PLAIN", b"czNjcmV0"),
        pop3.auth_response(b"czNjcmV0"),
    ],
)
def test_secrets_are_not_shown(command: Command) -> None:
    hidden = command.line.split()[-1].decode()
    for shown in (command.shown, repr(command), str(command), repr(Reply(False, b"no", command)), f"{[command]}"):
        assert hidden not in shown
    # What a server that echoes says to it is not shown either.
    with pytest.raises(RemoteProtocolError) as caught:
        feed_whole(greeted(command), b"? " + command.line + b"\r\n")
    assert hidden not in str(caught.value)
    # Nor what it says to a command that came together with it.
    client = greeted(command, pop3.UIDL)
    client.receive(b"+OK\r\n" + b"x" * 60 + command.line + b"\r\n")
    assert client.next_reply() is not None
    with pytest.raises(RemoteProtocolError) as caught:
        client.next_reply()
    assert "UIDL is not POP3: a line that is not shown" in str(caught.value)


@pytest.mark.parametrize("bad", ["\r", "\n", "\0", "x\r\nDELE 1"])
@pytest.mark.parametrize("make", [pop3.user, pop3.password, lambda bad: pop3.apop(bad, "x", b"<a@b>"), pop3.auth])
def test_commands_that_are_not_made(make, bad) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        make(bad)
    assert "x" not in str(caught.value).split("contains")[0].split()


PIECES = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"+OK", b"-ERR", b"+OK\r\n", b"\r\n", b".\r\n", b"..", b" [", b"] ", b"x" * 9000, b"+ ", b"\n"]),
)


@given(st.lists(PIECES), st.lists(st.sampled_from([pop3.NOOP, pop3.LIST, pop3.CAPA, PLAIN, pop3.retr(1)]), max_size=4))
def test_whatever_comes_is_a_reply_or_a_protocol_error(pieces: list[bytes], commands: list[Command]) -> None:
    client = Pop3Client()
    client.send(*commands)
    try:
        for piece in pieces:
            client.receive(piece)
            while (reply := client.next_reply()) is not None:
                assert str(reply).isprintable()
                assert not reply.code or reply.code.isprintable()
                pop3.timestamp(reply)
                if reply.block:
                    assert reply.block.endswith(b".\r\n")
                    pop3.parse_capabilities(reply.block)
    except RemoteProtocolError as error:
        assert str(error).isprintable()  # noqa: PT017 - whether it is raised is up to the octets
    assert client.outstanding <= len(commands) + 1
