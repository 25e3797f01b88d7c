"""The flawless SMTP server, asked by smtplib and by raw octets."""

from __future__ import annotations

import smtplib
import ssl
from hashlib import sha256
from pathlib import Path

import pytest

from poprep_cli.embedded.deliveries import without_trace
from poprep_cli.embedded.smtp import Delivered, SmtpServer

from .conftest import Wire, Wires

CONTENT = b"Subject: x\r\n\r\n.dot\r\n..\r\n.\r\nend\r\n"
ENVELOPE = b"MAIL FROM:<a@b.example> BODY=8BITMIME SIZE=99\r\nRCPT TO:<c@d.example>\r\nRCPT TO:<e@f.example>\r\n"


def greeted(connect: Wires, server: SmtpServer, hello: bytes = b"EHLO me") -> Wire:
    wire = connect(server.port)
    assert wire.until(b"\r\n").startswith(b"220 ")
    wire.send(hello + b"\r\nNOOP\r\n")
    wire.until(b"250 2.0.0 ok\r\n")
    return wire


def test_a_session_with_smtplib() -> None:
    with SmtpServer() as server:
        with smtplib.SMTP("127.0.0.1", server.port, local_hostname="me", timeout=5) as client:
            refused = client.sendmail("a@b.example", ["c@d.example", "e@f.example"], CONTENT, ["BODY=8BITMIME"])
            assert refused == {}
            client.sendmail("", ["c@d.example"], b"second\r\n")
        assert len(server.delivered) == 2
        first, second = server.delivered
    size = b"size=%d" % len(CONTENT)
    assert first == Delivered(
        b"a@b.example",
        (b"c@d.example", b"e@f.example"),
        CONTENT,
        len(CONTENT),
        sha256(CONTENT).hexdigest(),
        (size, b"BODY=8BITMIME"),
    )
    assert (second.reverse_path, second.content) == (b"", b"second\r\n")
    assert server.sessions[0].verbs == ["EHLO", *["MAIL", "RCPT", "RCPT", "DATA"], *["MAIL", "RCPT", "DATA"], "QUIT"]


def test_ehlo_announces_what_it_can(connect: Wires, server_context: ssl.SSLContext) -> None:
    with SmtpServer(context=server_context, size_limit=1234) as server:
        wire = connect(server.port)
        wire.until(b"\r\n")
        keywords = wire.ask(b"EHLO me", b"STARTTLS\r\n").split(b"\r\n")
    assert {keyword[4:] for keyword in keywords} >= {
        b"PIPELINING",
        b"SIZE 1234",
        b"8BITMIME",
        b"SMTPUTF8",
        b"CHUNKING",
        b"ENHANCEDSTATUSCODES",
        b"STARTTLS",
    }


def test_starttls_and_tls_at_connect(server_context: ssl.SSLContext, client_context: ssl.SSLContext) -> None:
    with SmtpServer(context=server_context) as server:
        with smtplib.SMTP("localhost", server.port, timeout=5) as client:
            client.starttls(context=client_context)
            client.ehlo("me")
            assert not client.has_extn("starttls")
            client.sendmail("a@b.example", "c@d.example", CONTENT)
        assert server.delivered[0].tls
    with SmtpServer(context=server_context, ssl=True) as server:
        with smtplib.SMTP_SSL("localhost", server.port, context=client_context, timeout=5) as client:
            client.sendmail("a@b.example", "c@d.example", CONTENT)
        assert server.delivered[0].content == CONTENT
        assert server.sessions[0].clear == b""


def test_what_came_before_the_handshake_is_forgotten(
    connect: Wires, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    with SmtpServer(context=server_context) as server:
        wire = greeted(connect, server)
        wire.send(b"STARTTLS\r\nEHLO injected\r\n")
        wire.until(b"begin TLS\r\n")
        wire.secure(client_context)
        assert wire.ask(b"MAIL FROM:<>").startswith(b"503 ")


def test_groups_with_the_end_of_one_message_and_the_start_of_the_next(connect: Wires) -> None:
    with SmtpServer() as server:
        wire = greeted(connect, server)
        batches = server.sessions[0].batches
        wire.send(ENVELOPE + b"DATA\r\n")
        assert wire.until(b"354 go ahead\r\n").count(b"250 ") == 3
        wire.send(b"..first\r\n.\r\n" + ENVELOPE + b"DATA\r\n")
        assert wire.until(b"354 go ahead\r\n").count(b"250 ") == 4
        wire.send(b".\r\nQUIT\r\n")
        assert wire.rest() == b"250 2.0.0 ok\r\n221 2.0.0 bye\r\n"
        assert [message.content for message in server.delivered] == [b".first\r\n", b""]
        assert server.sessions[0].batches == batches + 3


@pytest.mark.parametrize(
    "ending", [b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r\n.\r", b"\n\n.\r\n", b"\r\r\n.\r\r\n"]
)
def test_only_a_dot_between_two_line_ends_ends_the_data(connect: Wires, ending: bytes) -> None:
    with SmtpServer() as server:
        wire = greeted(connect, server)
        wire.send(ENVELOPE + b"DATA\r\n")
        wire.until(b"354 go ahead\r\n")
        for place in range(len(ending)):
            wire.send(b"a"[:1] * (place == 0) + ending[place : place + 1])
        wire.send(b"MAIL FROM:<smuggled@b.example>\r\n.\r\nQUIT\r\n")
        wire.rest()
        assert len(server.delivered) == 1
        assert b"smuggled" in server.delivered[0].content


def test_chunks(connect: Wires) -> None:
    with SmtpServer() as server:
        wire = greeted(connect, server)
        wire.send(ENVELOPE + b"BDAT 5\r\na\r\n.\rBDAT 0\r\nBDAT 3 LAST\r\n\nb.BDAT 3 LAST\r\nxyzQUIT\r\n")
        replies = wire.rest()
        assert b"250 2.0.0 5 octets received\r\n250 2.0.0 0 octets received\r\n250 2.0.0 ok\r\n503 " in replies
        assert [message.content for message in server.delivered] == [b"a\r\n.\r\nb."]


def test_what_is_out_of_order_is_refused(connect: Wires) -> None:
    with SmtpServer(size_limit=1000) as server:
        wire = connect(server.port)
        wire.until(b"\r\n")
        assert wire.ask(b"MAIL FROM:<>").startswith(b"503 ")
        assert wire.ask(b"HELO me") == b"250 demo.invalid\r\n"
        assert wire.ask(b"RCPT TO:<a@b.example>").startswith(b"503 ")
        assert wire.ask(b"MAIL FROM:<> SIZE=1001").startswith(b"552 ")
        assert wire.ask(b"MAIL FROM:<> SIZE=x").startswith(b"501 ")
        assert wire.ask(b"MAIL FROM:a@b.example").startswith(b"501 ")
        assert wire.ask("MAIL FROM:<ü@b.example>".encode()).startswith(b"553 ")
        assert wire.ask("mail from:<ü@b.example> SMTPUTF8".encode()).startswith(b"250 ")
        assert wire.ask(b"MAIL FROM:<>").startswith(b"503 ")
        assert wire.ask(b"DATA").startswith(b"554 ")
        assert wire.ask(b"RCPT TO:<>").startswith(b"501 ")
        assert wire.ask(b"RCPT TO:<a@b.example>").startswith(b"250 ")
        assert wire.ask(b"RSET").startswith(b"250 ")
        assert wire.ask(b"DATA").startswith(b"503 ")
        assert wire.ask(b"LHLO me").startswith(b"500 ")
        wire.send(b"MAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nDATA\r\n")
        wire.until(b"354 go ahead\r\n")
        assert wire.ask(b"x" * 1000 + b"\r\n.").startswith(b"552 ")
        assert wire.ask(b"BDAT x").startswith(b"501 ")
        assert wire.rest() == b""
        assert server.delivered == []


def test_lmtp_replies_once_a_recipient(connect: Wires) -> None:
    with SmtpServer(lmtp=True) as server:
        wire = greeted(connect, server, b"LHLO me")
        assert wire.ask(b"EHLO me").startswith(b"500 ")
        wire.send(ENVELOPE + b"DATA\r\n")
        wire.until(b"354 go ahead\r\n")
        wire.send(b"x\r\n.\r\nQUIT\r\n")
        assert wire.rest().startswith(b"250 2.0.0 ok\r\n250 2.0.0 ok\r\n221 ")
        assert [message.forward_paths for message in server.delivered] == [(b"c@d.example", b"e@f.example")]


def test_large_messages_leave_a_digest(tmp_path: Path) -> None:
    told: list[Delivered] = []
    content = b"0123456789abcdef" * 64 + b"\r\n"
    large = content * 8000
    with SmtpServer(digest_only=True, folder=tmp_path, sink=told.append) as server:
        with smtplib.SMTP("127.0.0.1", server.port, timeout=5) as client:
            client.sendmail("a@b.example", "c@d.example", large)
            client.sendmail("a@b.example", "c@d.example", b"x\r\n")
        assert server.delivered == told
    assert (told[0].content, told[0].size, told[0].sha256) == (b"", len(large), sha256(large).hexdigest())
    assert (tmp_path / "0001.eml").read_bytes() == large
    assert (tmp_path / "0002.eml").read_bytes() == b"x\r\n"


@pytest.mark.parametrize(
    ("content", "rest"),
    [
        (b"Received: by x\r\nA: 1\r\n", b"A: 1\r\n"),
        (b"Received: by x\r\n\tfor y;\r\n today\r\nA: 1\r\n", b"A: 1\r\n"),
        (b"Received: by x\r\n\ty\r\nReceived: z\r\n", b"Received: z\r\n"),
        (b"A: 1\r\nReceived: by x\r\n", b"A: 1\r\nReceived: by x\r\n"),
    ],
)
def test_a_message_without_its_trace(content: bytes, rest: bytes) -> None:
    assert without_trace(content) == rest


@pytest.mark.parametrize(
    ("header", "subject"),
    [
        (b"A: 1\r\nsubject: x y\r\n\r\n", "x y"),
        (b"A: 1\r\n\r\nSubject: x", "(no subject)"),
        (b"Subject: \xff\x1b[2J\r\n", "??[2J"),
    ],
)
def test_subjects(header: bytes, subject: str) -> None:
    assert Delivered(b"", (), header, len(header), "").subject == subject
