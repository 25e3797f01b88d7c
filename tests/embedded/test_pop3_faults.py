"""Each fault of the POP3 server, as it shows on the wire."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator

import pytest

from poprep_cli.embedded.pop3 import Mail, Maildrop, Pop3Faults, Pop3Server

from .conftest import Wire, Wires

CONTENT = b"Subject: x\r\n\r\n" + b"a line of text\r\n" * 20
LOGIN = b"USER demo\r\nPASS demo\r\n"


@pytest.fixture
def server() -> Iterator[Pop3Server]:
    with Pop3Server(Maildrop(Mail(b"id-%d" % number, CONTENT) for number in range(1, 4))) as running:
        yield running


def session(server: Pop3Server, connect: Wires, faults: Pop3Faults) -> Wire:
    server.faults = faults
    wire = connect(server.port)
    wire.until(b"\r\n")
    wire.send(LOGIN)
    wire.until(b"messages\r\n")
    return wire


def dialogue(server: Pop3Server, connect: Wires, faults: Pop3Faults, commands: bytes) -> bytes:
    """Return all that the server says in a session, without the greeting and the replies to the login."""
    wire = session(server, connect, faults)
    wire.send(commands)
    return wire.rest()


def greeted(server: Pop3Server, connect: Wires, faults: Pop3Faults) -> Wire:
    server.faults = faults
    wire = connect(server.port)
    wire.until(b"\r\n")
    return wire


def test_greetings(server: Pop3Server, connect: Wires) -> None:
    server.faults = Pop3Faults(greeting=b"-ERR [SYS/TEMP] {timestamp}\r\n")
    assert connect(server.port).until(b"\r\n").startswith(b"-ERR [SYS/TEMP] <")
    server.faults = Pop3Faults(no_greeting=True)
    assert connect(server.port).is_silent()
    server.faults = Pop3Faults(greeting_delay=0.1)
    started = time.monotonic()
    connect(server.port).until(b"\r\n")
    assert time.monotonic() - started >= 0.09


def test_capa(server: Pop3Server, connect: Wires) -> None:
    wire = greeted(server, connect, Pop3Faults(capa="hang"))
    wire.send(b"CAPA\r\n")
    assert wire.is_silent()
    wire = greeted(server, connect, Pop3Faults(capa="drop"))
    wire.send(b"CAPA\r\n")
    assert wire.rest() == b""
    assert greeted(server, connect, Pop3Faults(capa="err")).ask(b"CAPA").startswith(b"-ERR")
    assert (
        greeted(server, connect, Pop3Faults(capa=(b"uidl",)))
        .ask(b"CAPA", b".\r\n")
        .endswith(b"follow\r\nuidl\r\n.\r\n")
    )
    assert b"PIPELINING" not in greeted(server, connect, Pop3Faults(announce_pipelining=False)).ask(b"CAPA", b".\r\n")


def test_pipelining_that_breaks(server: Pop3Server, connect: Wires) -> None:
    wire = session(server, connect, Pop3Faults())
    wire.ask(b"QUIT")
    server.faults = Pop3Faults(breaks_when_pipelined="drop")
    wire = connect(server.port)
    wire.until(b"\r\n")
    wire.send(LOGIN)
    assert wire.rest() == b"+OK password, please\r\n"
    wire = greeted(server, connect, Pop3Faults(breaks_when_pipelined="discard"))
    wire.send(LOGIN)
    assert wire.until(b"\r\n") == b"+OK password, please\r\n"
    assert wire.is_silent()


def test_stls(connect: Wires, server_context: ssl.SSLContext, client_context: ssl.SSLContext) -> None:
    with Pop3Server(context=server_context) as server:
        assert greeted(server, connect, Pop3Faults(stls="refuse")).ask(b"STLS").startswith(b"-ERR")
        wire = greeted(server, connect, Pop3Faults(stls="hang"))
        assert wire.ask(b"STLS").startswith(b"+OK")
        wire.send(b"\x16\x03\x01")
        assert wire.is_silent()
        wire = greeted(server, connect, Pop3Faults(stls="drop"))
        wire.send(b"STLS\r\n")
        assert wire.rest() == b"+OK begin TLS\r\n"
        wire = greeted(server, connect, Pop3Faults(stls_injected=b"+OK injected\r\n"))
        assert wire.ask(b"STLS", b"injected\r\n") == b"+OK begin TLS\r\n+OK injected\r\n"
        wire.secure(client_context)
        assert wire.ask(b"NOOP").startswith(b"-ERR")
        wire = greeted(server, connect, Pop3Faults())
        wire.send(b"STLS\r\nUSER demo\r\n")
        wire.until(b"\r\n")
        wire.secure(client_context)
        assert wire.ask(b"PASS demo").startswith(b"-ERR")


def test_logins_refused(server: Pop3Server, connect: Wires) -> None:
    wire = greeted(
        server, connect, Pop3Faults(refuse_user=b"-ERR [LOGIN-DELAY] wait\r\n", refuse_apop=b"-ERR no APOP\r\n")
    )
    assert wire.ask(b"APOP demo x") == b"-ERR no APOP\r\n"
    wire.ask(b"USER demo")
    assert wire.ask(b"PASS demo") == b"-ERR [LOGIN-DELAY] wait\r\n"
    wire = greeted(server, connect, Pop3Faults(drop_after_failed_login=True, echo_password_in_error=True))
    wire.ask(b"USER demo")
    wire.send(b"PASS hush\r\n")
    reply = wire.rest()
    assert reply.startswith(b"-ERR [AUTH]")
    assert reply.endswith(b": hush\r\n")
    server.faults = Pop3Faults(apop=False)
    wire = connect(server.port)
    assert b"<" not in wire.until(b"\r\n")
    assert wire.ask(b"APOP demo x").startswith(b"-ERR unknown")


def test_retr(server: Pop3Server, connect: Wires) -> None:
    said = dialogue(server, connect, Pop3Faults(retr={1: "err", 2: "cut"}), b"RETR 1\r\nRETR 2\r\nQUIT\r\n")
    assert said.startswith(b"-ERR message can not load\r\n+OK %d octets\r\nSubject" % len(CONTENT))
    assert said.endswith(b"text\r\n.\r\n+OK bye\r\n")
    assert len(said) < len(CONTENT)
    said = dialogue(server, connect, Pop3Faults(retr={1: "drop-mid"}), b"RETR 1\r\nQUIT\r\n")
    assert said == b"+OK %d octets\r\n" % len(CONTENT) + CONTENT[: len(CONTENT) // 2]


def test_retr_that_never_ends(server: Pop3Server, connect: Wires) -> None:
    wire = session(server, connect, Pop3Faults(retr={1: "hang-mid"}))
    wire.ask(b"RETR 1", CONTENT[: len(CONTENT) // 2])
    assert wire.is_silent()
    wire.close()
    server.maildrop = Maildrop([Mail(b"x", b"abc\r\n")])
    wire = session(server, connect, Pop3Faults(retr={1: "drip"}, drip_seconds=0.01))
    started = time.monotonic()
    assert wire.ask(b"RETR 1", b"\r\n.\r\n").endswith(b"abc\r\n.\r\n")
    assert time.monotonic() - started > 0.07


def test_retr_drops_after_some_messages(server: Pop3Server, connect: Wires) -> None:
    said = dialogue(server, connect, Pop3Faults(retr_drop_after=2), b"RETR 1\r\nRETR 2\r\nRETR 3\r\nQUIT\r\n")
    assert said.count(b"octets\r\n") == 2
    assert b"bye" not in said
    wire = connect(server.port)
    wire.until(b"\r\n")
    wire.send(LOGIN + b"RETR 1\r\n")
    assert b"octets" not in wire.rest()


def test_listings(server: Pop3Server, connect: Wires) -> None:
    faults = Pop3Faults(list_sizes={2: 7}, uidl={1: b"", 3: b"id-2"}, list_limit=2)
    said = dialogue(server, connect, faults, b"LIST\r\nSTAT\r\nUIDL\r\nQUIT\r\n")
    size = len(CONTENT)
    assert b"\r\n1 %d\r\n2 7\r\n.\r\n+OK 2 %d\r\n" % (size, size + 7) in said
    assert b"\r\n1 \r\n2 id-2\r\n.\r\n" in said
    said = dialogue(server, connect, Pop3Faults(list_sizes=lambda _, octets: octets // 2), b"LIST 3\r\nQUIT\r\n")
    assert said.startswith(b"+OK 3 %d\r\n" % (size // 2))
    assert dialogue(server, connect, Pop3Faults(uidl="err"), b"UIDL\r\nQUIT\r\n").startswith(b"-ERR")


def test_mail_that_is_hidden_or_removed_by_reading(server: Pop3Server, connect: Wires) -> None:
    hiding = Pop3Faults(hide_read=True)
    dialogue(server, connect, hiding, b"RETR 2\r\nQUIT\r\n")
    assert dialogue(server, connect, hiding, b"UIDL\r\nQUIT\r\n").startswith(
        b"+OK listing follows\r\n1 id-1\r\n2 id-3\r\n.\r\n"
    )
    assert len(server.maildrop.mail()) == 3
    dialogue(server, connect, Pop3Faults(delete_on_retr=True), b"RETR 1\r\nQUIT\r\n")
    assert [mail.uidl for mail in server.maildrop.mail()] == [b"id-2", b"id-3"]


def test_dele(server: Pop3Server, connect: Wires) -> None:
    assert dialogue(server, connect, Pop3Faults(dele="err"), b"DELE 1\r\nQUIT\r\n").startswith(b"-ERR")
    assert dialogue(server, connect, Pop3Faults(dele="ignore"), b"DELE 1\r\nQUIT\r\n").startswith(b"+OK")
    assert dialogue(server, connect, Pop3Faults(dele="drop"), b"DELE 1\r\nQUIT\r\n") == b""
    settle(server)
    assert dialogue(server, connect, Pop3Faults(dele="empty-line"), b"DELE 1\r\nQUIT\r\n") == b"\r\n"
    assert len(server.maildrop.mail()) == 3


def test_top(server: Pop3Server, connect: Wires) -> None:
    assert dialogue(server, connect, Pop3Faults(top_refused=True), b"TOP 1 0\r\nQUIT\r\n").startswith(b"-ERR")
    said = dialogue(server, connect, Pop3Faults(truncate_top=25), b"TOP 1 99\r\nQUIT\r\n")
    assert said == b"+OK top of message follows\r\n" + CONTENT[:25] + b"\r\n.\r\n+OK bye\r\n"


def test_quit(server: Pop3Server, connect: Wires) -> None:
    assert dialogue(server, connect, Pop3Faults(quit="err"), b"DELE 1\r\nQUIT\r\n").count(b"-ERR") == 1
    assert dialogue(server, connect, Pop3Faults(quit="drop-before-commit"), b"DELE 1\r\nQUIT\r\n") == b"+OK deleted\r\n"
    settle(server)
    wire = session(server, connect, Pop3Faults(quit="hang"))
    wire.ask(b"DELE 1")
    wire.send(b"QUIT\r\n")
    assert wire.is_silent()
    wire.close()
    settle(server)
    assert len(server.maildrop.mail()) == 3
    assert dialogue(server, connect, Pop3Faults(quit="drop-after-commit"), b"DELE 1\r\nQUIT\r\n") == b"+OK deleted\r\n"
    assert len(server.maildrop.mail()) == 2


def settle(server: Pop3Server) -> None:
    """Wait until the last session has noticed that its line is gone, and freed the maildrop."""
    deadline = time.monotonic() + 5
    while not server.sessions[-1].ended:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_replies_in_place_of_the_usual_ones(server: Pop3Server, connect: Wires) -> None:
    faults = Pop3Faults(
        replies={"STAT": b"+OK nonsense\r\n", "RETR": lambda number: b"+\r\n" if number == b"1" else None}
    )
    said = dialogue(server, connect, faults, b"STAT\r\nRETR 1\r\nRETR 9\r\nQUIT\r\n")
    assert said == b"+OK nonsense\r\n+\r\n-ERR no such message\r\n+OK bye\r\n"
    assert dialogue(server, connect, Pop3Faults(replies={"LIST": "drop"}), b"LIST\r\n") == b""
    settle(server)
    wire = session(server, connect, Pop3Faults(replies={"LIST": "hang"}))
    wire.send(b"LIST\r\n")
    assert wire.is_silent()


def test_latency_counts_once_a_group(server: Pop3Server, connect: Wires) -> None:
    started = time.monotonic()
    dialogue(server, connect, Pop3Faults(latency=0.03), b"NOOP\r\n" * 50 + b"QUIT\r\n")
    assert 0.08 < time.monotonic() - started < 0.8
