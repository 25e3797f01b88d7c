"""The flawless POP3 server, asked by poplib and by raw octets."""

from __future__ import annotations

import poplib
import ssl
import time
from collections.abc import Iterator
from hashlib import md5

import pytest

from poprep_cli.embedded.pop3 import Mail, Maildrop, Pop3Faults, Pop3Server
from poprep_cli.embedded.pop3_replies import block, top

from .conftest import Wires

CONTENTS = (
    b"Subject: a\r\n\r\nfirst\r\nsecond\r\nthird\r\n",
    b"Subject: b\r\n\r\n.\r\n..two\r\n.one\r\n",
    b"Subject: c\r\n\r\n",
)


@pytest.fixture
def server() -> Iterator[Pop3Server]:
    maildrop = Maildrop(Mail(b"id-%d" % number, content) for number, content in enumerate(CONTENTS, 1))
    with Pop3Server(maildrop, user="joe", password="secret") as running:
        yield running


def logged_in(server: Pop3Server) -> poplib.POP3:
    client = poplib.POP3("127.0.0.1", server.port, timeout=5)
    try:
        client.user("joe")
        client.pass_("secret")
    except poplib.error_proto:
        client.close()
        raise
    return client


def test_a_session_with_poplib(server: Pop3Server) -> None:
    client = logged_in(server)
    assert client.stat() == (3, sum(map(len, CONTENTS)))
    assert client.list()[1] == [b"%d %d" % (number, len(content)) for number, content in enumerate(CONTENTS, 1)]
    assert client.uidl()[1] == [b"1 id-1", b"2 id-2", b"3 id-3"]
    assert client.uidl(3) == b"+OK 3 id-3"
    for number, content in enumerate(CONTENTS, 1):
        assert b"".join(line + b"\r\n" for line in client.retr(number)[1]) == content
    assert client.top(1, 2)[1] == [b"Subject: a", b"", b"first", b"second"]
    assert client.noop() == b"+OK"
    client.quit()
    session = server.sessions[0]
    assert session.verbs == [
        "USER",
        "PASS",
        "STAT",
        "LIST",
        "UIDL",
        "UIDL",
        *["RETR"] * 3,
        "TOP",
        "NOOP",
        "QUIT",
    ]
    assert session.batches == len(session.commands)
    assert session.quit
    assert server.retrieved == 3


def test_capabilities_without_and_with_tls(
    server: Pop3Server, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    with Pop3Server(server.maildrop, user="joe", password="secret", context=server_context) as secured:
        client = poplib.POP3("localhost", secured.port, timeout=5)
        assert {"TOP", "UIDL", "USER", "PIPELINING", "RESP-CODES", "STLS"} <= set(client.capa())
        client.stls(client_context)
        assert "STLS" not in client.capa()
        client.user("joe")
        client.pass_("secret")
        client.quit()
    session = secured.sessions[0]
    assert [command.tls for command in session.commands] == [False] * 3 + [True] * 4
    assert b"secret" in session.secured
    assert b"secret" not in session.clear
    plain = logged_in(server)
    assert "STLS" not in plain.capa()
    plain.quit()


def test_tls_at_connect(server_context: ssl.SSLContext, client_context: ssl.SSLContext) -> None:
    drop = Maildrop()
    drop.add(b"x" * 999 + b"\r\n")
    with Pop3Server(drop, context=server_context, ssl=True) as server:
        client = poplib.POP3_SSL("localhost", server.port, context=client_context, timeout=5)
        client.user("demo")
        client.pass_("demo")
        assert client.retr(1)[1] == [b"x" * 999]
        client.quit()
    assert server.sessions[0].tls
    assert server.sessions[0].clear == b""
    with pytest.raises(ValueError, match="context"):
        Pop3Server(ssl=True)


def test_apop_and_a_wrong_password(server: Pop3Server, connect: Wires) -> None:
    client = poplib.POP3("127.0.0.1", server.port, timeout=5)
    client.apop("joe", "secret")
    client.quit()
    wire = connect(server.port)
    greeting = wire.until(b"\r\n")
    assert wire.ask(b"APOP joe " + md5(greeting, usedforsecurity=False).hexdigest().encode()).startswith(b"-ERR [AUTH]")
    assert wire.ask(b"USER joe").startswith(b"+OK")
    assert wire.ask(b"PASS Secret") == b"-ERR [AUTH] user name or password is wrong\r\n"
    assert wire.ask(b"STAT").startswith(b"-ERR")
    timestamp = greeting[greeting.index(b"<") : greeting.index(b">") + 1]
    digest = md5(timestamp + b"secret", usedforsecurity=False).hexdigest().encode()
    assert wire.ask(b"apop joe " + digest) == b"+OK 3 messages\r\n"


def test_deletions_are_committed_at_quit_only(server: Pop3Server) -> None:
    client = logged_in(server)
    client.dele(1)
    client.dele(2)
    assert client.stat()[0] == 1
    with pytest.raises(poplib.error_proto):
        client.retr(1)
    client.rset()
    assert client.stat()[0] == 3
    client.dele(3)
    client.close()
    assert len(server.maildrop.mail()) == 3
    client = wait_for_login(server)
    client.dele(2)
    client.quit()
    assert [mail.uidl for mail in server.maildrop.mail()] == [b"id-1", b"id-3"]


def wait_for_login(server: Pop3Server) -> poplib.POP3:
    deadline = time.monotonic() + 5
    while True:
        try:
            return logged_in(server)
        except poplib.error_proto:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_one_session_at_a_time(server: Pop3Server) -> None:
    first = logged_in(server)
    with pytest.raises(poplib.error_proto, match="IN-USE"):
        logged_in(server)
    first.quit()
    logged_in(server).quit()


def test_everything_in_one_write_is_answered_in_one(server: Pop3Server, connect: Wires) -> None:
    wire = connect(server.port)
    wire.until(b"\r\n")
    wire.send(b"USER joe\r\nPASS secret\r\nUIDL\r\nRETR 2\r\nDELE 2\r\nDELE 9\r\nRETR x\r\nWHAT\r\nQUIT\r\n")
    replies = wire.rest()
    assert replies == (
        b"+OK password, please\r\n+OK 3 messages\r\n+OK listing follows\r\n1 id-1\r\n2 id-2\r\n3 id-3\r\n.\r\n"
        b"+OK 30 octets\r\nSubject: b\r\n\r\n..\r\n...two\r\n..one\r\n.\r\n+OK deleted\r\n"
        b"-ERR no such message\r\n-ERR no such message\r\n-ERR unknown command, or not now\r\n+OK bye\r\n"
    )
    assert server.sessions[0].batches == 1
    assert len(server.maildrop.mail()) == 2


@pytest.mark.parametrize(
    ("content", "sent"),
    [
        (b"a\r\n", b"a\r\n.\r\n"),
        (b"a", b"a\r\n.\r\n"),
        (b"a\n", b"a\n\r\n.\r\n"),
        (b"a\r", b"a\r\r\n.\r\n"),
        (b"", b".\r\n"),
        (b".", b"..\r\n.\r\n"),
        (b"a\n.\nb\r.\rc\r\n.\r\n", b"a\n.\nb\r.\rc\r\n..\r\n.\r\n"),
    ],
)
def test_blocks(content: bytes, sent: bytes) -> None:
    assert block(content) == sent


def test_the_top_of_a_message() -> None:
    assert top(b"A: 1\r\n\r\none\r\ntwo\r\n", 0) == b"A: 1\r\n\r\n"
    assert top(b"A: 1\r\n\r\none\r\ntwo\r\n", 1) == b"A: 1\r\n\r\none\r\n"
    assert top(b"A: 1\r\n\r\none\r\ntwo", 9) == b"A: 1\r\n\r\none\r\ntwo"
    assert top(b"A: 1\r\n", 9) == b"A: 1\r\n"


def test_two_thousand_messages_in_well_under_a_second(connect: Wires) -> None:
    drop = Maildrop()
    for number in range(2000):
        drop.add(b"Subject: %d\r\n\r\n" % number + b"abcdefgh\r\n" * 400)
    with Pop3Server(drop) as server:
        wire = connect(server.port)
        wire.until(b"\r\n")
        started = time.monotonic()
        wire.send(b"USER demo\r\nPASS demo\r\n" + b"".join(b"RETR %d\r\n" % n for n in range(1, 2001)) + b"QUIT\r\n")
        assert len(wire.rest()) > 8_000_000
        assert time.monotonic() - started < 1
    assert server.sessions[0].batches <= 3


def test_mail_with_the_same_octets_and_unique_id_is_told_apart() -> None:
    twins = Mail(b"same", b"x"), Mail(b"same", b"x")
    drop = Maildrop(twins)
    drop.remove(twins[1:])
    assert drop.mail()[0] is twins[0]
    drop.mark_read(twins)
    assert drop.mail(unread=True) == ()
    drop.replace(twins)
    assert drop.mail(unread=True) == twins


def test_stopping_breaks_every_line_and_it_can_start_again(server: Pop3Server, connect: Wires) -> None:
    server.faults = Pop3Faults(no_greeting=True)
    wire = connect(server.port)
    assert wire.is_silent()
    server.stop()
    wire.socket.settimeout(5)
    assert wire.rest() == b""
    server.stop()
    server.faults = Pop3Faults()
    server.start()
    logged_in(server).quit()
    with pytest.raises(ValueError, match="started"):
        server.start()
