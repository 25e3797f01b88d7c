"""Each fault of the SMTP server, as it shows on the wire."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator

import pytest

from poprep_cli.embedded.smtp import SmtpFaults, SmtpServer
from poprep_cli.embedded.smtp_faults import Stage
from poprep_cli.embedded.smtp_replies import is_reply

from .conftest import Wire, Wires

ENVELOPE = b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nRCPT TO:<e@f.example>\r\n"
MESSAGE = ENVELOPE + b"BDAT 3 LAST\r\nx\r\n"


@pytest.fixture
def server() -> Iterator[SmtpServer]:
    with SmtpServer() as running:
        yield running


def greeted(connect: Wires, server: SmtpServer, faults: SmtpFaults) -> Wire:
    server.faults = faults
    wire = connect(server.port)
    wire.until(b"\r\n")
    wire.send(b"HELO me\r\n")
    wire.until(b"\r\n")
    return wire


def dialogue(
    connect: Wires, server: SmtpServer, faults: SmtpFaults, commands: bytes = MESSAGE + b"QUIT\r\n"
) -> list[bytes]:
    """Return the codes, as far as there are any, of the replies after the greeting and that to HELO."""
    wire = greeted(connect, server, faults)
    wire.send(commands)
    return [line[:3] for line in wire.rest().splitlines()]


@pytest.mark.parametrize(
    ("stage", "codes"),
    [
        ("mail", [b"451", b"503", b"503", b"503", b"221"]),
        ("rcpt", [b"250", b"451", b"451", b"554", b"221"]),
        ("end-of-data", [b"250", b"250", b"250", b"451", b"221"]),
        ("quit", [b"250", b"250", b"250", b"250", b"451"]),
    ],
)
def test_refusals(connect: Wires, server: SmtpServer, stage: Stage, codes: list[bytes]) -> None:
    assert dialogue(connect, server, SmtpFaults(replies={stage: b"451 4.3.0 later\r\n"})) == codes
    assert len(server.delivered) == (stage == "quit")


def test_refusals_by_rule_recipient_and_occurrence(connect: Wires, server: SmtpServer) -> None:
    faults = SmtpFaults(replies={"end-of-data": lambda content: b"554 poison\r\n" if b"x" in content else None})
    twice = MESSAGE + MESSAGE.replace(b"x\r\n", b"y\r\n") + b"QUIT\r\n"
    assert dialogue(connect, server, faults, twice)[3:] == [b"554", b"250", b"250", b"250", b"250", b"221"]
    assert [message.content for message in server.delivered] == [b"y\r\n"]
    faults = SmtpFaults(recipients={b"c@d.example": b"550 5.1.1 unknown\r\n"})
    assert dialogue(connect, server, faults) == [b"250", b"550", b"250", b"250", b"221"]
    assert server.delivered[1].forward_paths == (b"e@f.example",)


def test_refusals_of_the_nth_only() -> None:
    assert SmtpFaults().concerns("mail", 7)
    faults = SmtpFaults(only={"mail": {2, 3}, "rcpt": range(3, 99)})
    assert [faults.concerns("mail", n) for n in range(1, 5)] == [False, True, True, False]
    assert [faults.concerns("rcpt", n) for n in range(1, 5)] == [False, False, True, True]
    assert faults.concerns("data", 1)


def test_the_second_message_only_is_refused(connect: Wires, server: SmtpServer) -> None:
    faults = SmtpFaults(replies={"mail": b"452 later\r\n"}, only={"mail": {2}})
    codes = dialogue(connect, server, faults, (MESSAGE + b"RSET\r\n") * 3 + b"QUIT\r\n")
    assert codes.count(b"452") == 1
    assert len(server.delivered) == 2


@pytest.mark.parametrize(
    "garbage", [b"354 more\r\n", b"150 wait\r\n", b"\r\n", b"hello\r\n", b"250-cut\r\n", b"25\r\n", b"250 no end"]
)
def test_what_is_no_acceptance_stores_nothing(connect: Wires, server: SmtpServer, garbage: bytes) -> None:
    dialogue(connect, server, SmtpFaults(replies={"end-of-data": garbage}))
    assert server.delivered == []


def test_whole_replies() -> None:
    assert is_reply(b"250-a\r\n250 b\r\n", b"2")
    assert is_reply(b"250\r\n", b"2")
    assert not is_reply(b"250 a\r\n250 b\r\n", b"2")


@pytest.mark.parametrize(
    ("stage", "codes", "stored"),
    [
        ("mail", [], 0),
        ("rcpt", [b"250"], 0),
        ("mid-data", [b"250"] * 3, 0),
        ("end-of-data", [b"250"] * 3, 0),
        ("after-accept", [b"250"] * 3, 1),
        ("quit", [b"250"] * 4, 1),
    ],
)
def test_drops_and_silence(connect: Wires, server: SmtpServer, stage: Stage, codes: list[bytes], stored: int) -> None:
    assert dialogue(connect, server, SmtpFaults(drop=stage)) == codes
    assert len(server.delivered) == stored
    wire = greeted(connect, server, SmtpFaults(hang=stage))
    wire.send(MESSAGE + b"QUIT\r\n")
    wire.socket.settimeout(0.1)
    with pytest.raises(TimeoutError):
        while wire.socket.recv(65_536):
            pass
    assert len(server.delivered) == stored * 2


def test_data_refused_and_broken(connect: Wires, server: SmtpServer) -> None:
    codes = dialogue(connect, server, SmtpFaults(replies={"data": b"451 later\r\n"}), ENVELOPE + b"DATA\r\nQUIT\r\n")
    assert codes[3:] == [b"451", b"221"]
    wire = greeted(connect, server, SmtpFaults(drop="mid-data"))
    wire.send(ENVELOPE + b"DATA\r\n")
    wire.until(b"354 go ahead\r\n")
    wire.send(b"half")
    assert wire.rest() == b""
    assert server.delivered == []


def test_greetings_and_hellos(connect: Wires, server: SmtpServer) -> None:
    server.faults = SmtpFaults(replies={"greeting": b"554 no\r\n"})
    assert connect(server.port).until(b"\r\n") == b"554 no\r\n"
    server.faults = SmtpFaults(drop="greeting")
    assert connect(server.port).rest() == b""
    server.faults = SmtpFaults(hang="greeting")
    assert connect(server.port).is_silent()
    wire = greeted(connect, server, SmtpFaults(refuse_ehlo=True))
    assert wire.ask(b"EHLO me").startswith(b"502 ")
    wire = greeted(connect, server, SmtpFaults(announce=(b"SIZE", b"X")))
    assert wire.ask(b"EHLO me", b"X\r\n") == b"250-demo.invalid\r\n250-SIZE\r\n250 X\r\n"
    wire = greeted(connect, server, SmtpFaults(replies={"ehlo": b"421 bye\r\n"}))
    assert wire.ask(b"EHLO me") == b"421 bye\r\n"
    assert wire.ask(b"MAIL FROM:<>").startswith(b"503 ")


def test_an_endless_ehlo(connect: Wires, server: SmtpServer) -> None:
    wire = greeted(connect, server, SmtpFaults(endless_ehlo=True))
    wire.send(b"EHLO me\r\n")
    received = 0
    while received < 2_000_000:
        received += len(wire.socket.recv(65_536))


def test_injection_at_starttls(connect: Wires, server_context: ssl.SSLContext) -> None:
    with SmtpServer(context=server_context) as server:
        wire = greeted(connect, server, SmtpFaults(starttls_injected=b"250 injected\r\n"))
        assert wire.ask(b"STARTTLS", b"injected\r\n").startswith(b"220 ")
        wire = greeted(connect, server, SmtpFaults(replies={"starttls": b"454 not now\r\n"}))
        assert wire.ask(b"STARTTLS") == b"454 not now\r\n"
        assert wire.ask(b"NOOP").startswith(b"250 ")


def test_pipelining_that_breaks(connect: Wires, server: SmtpServer) -> None:
    assert dialogue(connect, server, SmtpFaults(breaks_when_pipelined="drop")) == [b"250"]
    wire = greeted(connect, server, SmtpFaults(breaks_when_pipelined="discard"))
    wire.send(ENVELOPE)
    assert wire.until(b"\r\n").startswith(b"250 ")
    assert wire.is_silent()


def test_limits_of_connections_and_messages(connect: Wires, server: SmtpServer) -> None:
    first = greeted(connect, server, SmtpFaults(max_connections=1, max_messages=1))
    assert connect(server.port).rest().startswith(b"421 ")
    first.send(MESSAGE)
    first.until(b"250 2.0.0 ok\r\n")
    first.send(b"MAIL FROM:<>\r\n")
    assert first.rest().startswith(b"421 ")


def test_a_closed_session_makes_room(connect: Wires, server: SmtpServer) -> None:
    for _ in range(3):
        wire = greeted(connect, server, SmtpFaults(max_connections=1))
        assert wire.ask(b"QUIT").startswith(b"221 ")
    assert server.open_sessions == 0


def test_delays(connect: Wires, server: SmtpServer) -> None:
    started = time.monotonic()
    dialogue(connect, server, SmtpFaults(delay={"end-of-data": 0.1}, latency=0.01))
    assert 0.1 < time.monotonic() - started < 1


def test_lmtp_recipients(connect: Wires) -> None:
    with SmtpServer(
        lmtp=True, faults=SmtpFaults(recipients_after_data={b"c@d.example": b"452 4.2.2 full\r\n"})
    ) as server:
        wire = connect(server.port)
        wire.until(b"\r\n")
        wire.ask(b"LHLO me", b"CODES\r\n")
        wire.send(MESSAGE + b"QUIT\r\n")
        assert [line[:3] for line in wire.rest().splitlines()] == [b"250", b"250", b"250", b"452", b"250", b"221"]
        assert [message.forward_paths for message in server.delivered] == [(b"e@f.example",)]
