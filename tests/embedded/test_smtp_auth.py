"""AUTH of the embedded SMTP server, asked by smtplib and by raw octets."""

from __future__ import annotations

import smtplib
import ssl
from base64 import b64encode
from typing import Any

import pytest

from poprep_cli.embedded.smtp import SmtpFaults, SmtpServer
from poprep_cli.embedded.smtp_auth import RESPONSE

from .conftest import Wire, Wires

USER, PASSWORD = "relay", "s3cr:et pass"
PLAIN = b64encode(f"\0{USER}\0{PASSWORD}".encode())


def guarded(**settings: Any) -> SmtpServer:
    return SmtpServer(user=USER, password=PASSWORD, **({"auth_in_clear": True} | settings))


def greeted(connect: Wires, server: SmtpServer) -> Wire:
    wire = connect(server.port)
    wire.until(b"\r\n")
    wire.send(b"EHLO me\r\nNOOP\r\n")
    wire.until(b"250 2.0.0 ok\r\n")
    return wire


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
def test_each_mechanism(mechanism: str) -> None:
    with guarded(mechanisms=(mechanism,)) as server:
        with smtplib.SMTP("127.0.0.1", server.port, local_hostname="me", timeout=5) as client:
            client.ehlo()
            assert client.esmtp_features["auth"].split() == [mechanism]
            with pytest.raises(smtplib.SMTPAuthenticationError) as refused:
                client.login(USER, "wrong")
            assert refused.value.smtp_code == 535
            with pytest.raises(smtplib.SMTPSenderRefused) as too_early:
                client.sendmail("a@b.example", "c@d.example", b"x\r\n")
            assert too_early.value.smtp_code == 530
            client.login(USER, PASSWORD)
            client.sendmail("a@b.example", "c@d.example", b"x\r\n")
        assert len(server.delivered) == 1
        assert f"AUTH {mechanism}".encode() in server.sessions[0].commands[1].line


def test_it_is_announced_inside_tls(
    connect: Wires, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    with guarded(context=server_context, auth_in_clear=False) as server:
        wire = connect(server.port)
        wire.until(b"\r\n")
        assert b"AUTH" not in wire.ask(b"EHLO me", b"STARTTLS\r\n")
        assert wire.ask(b"AUTH PLAIN " + PLAIN).startswith(b"538 5.7.11 ")
        assert wire.ask(b"MAIL FROM:<>").startswith(b"530 5.7.0 ")
        wire.ask(b"STARTTLS")
        wire.secure(client_context)
        assert wire.ask(b"AUTH PLAIN " + PLAIN).startswith(b"503 ")
        assert wire.ask(b"EHLO me", b"CRAM-MD5\r\n").endswith(b"\r\n250 AUTH PLAIN LOGIN CRAM-MD5\r\n")
        assert wire.ask(b"AUTH PLAIN " + PLAIN).startswith(b"235 2.7.0 ")
        assert wire.ask(b"MAIL FROM:<>").startswith(b"250 ")


def test_a_login_before_tls_is_void(
    connect: Wires, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    with guarded(context=server_context) as server:
        wire = greeted(connect, server)
        assert wire.ask(b"AUTH PLAIN " + PLAIN).startswith(b"235 ")
        wire.ask(b"STARTTLS")
        wire.secure(client_context)
        wire.send(b"EHLO me\r\n")
        wire.until(b"CRAM-MD5\r\n")
        assert wire.ask(b"MAIL FROM:<>").startswith(b"530 ")


def test_the_record_shows_what_crossed_the_wire(connect: Wires) -> None:
    with guarded() as server:
        wire = greeted(connect, server)
        assert wire.ask(b"AUTH LOGIN") == b"334 " + b64encode(b"Username:") + b"\r\n"
        assert wire.ask(b64encode(USER.encode())) == b"334 " + b64encode(b"Password:") + b"\r\n"
        assert wire.ask(b64encode(b"wrong")).startswith(b"535 5.7.8 ")
        assert wire.ask(b"AUTH PLAIN") == b"334 \r\n"
        assert wire.ask(PLAIN).startswith(b"235 ")
        session = server.sessions[0]
    assert [(command.verb, command.line) for command in session.commands[2:]] == [
        ("AUTH", b"AUTH LOGIN"),
        (RESPONSE, b64encode(USER.encode())),
        (RESPONSE, b64encode(b"wrong")),
        ("AUTH", b"AUTH PLAIN"),
        (RESPONSE, PLAIN),
    ]


def test_what_is_wrong_is_refused(connect: Wires) -> None:
    with guarded(mechanisms=("PLAIN", "CRAM-MD5")) as server:
        wire = connect(server.port)
        wire.until(b"\r\n")
        assert wire.ask(b"AUTH PLAIN " + PLAIN).startswith(b"503 ")
        wire.ask(b"EHLO me", b"CRAM-MD5\r\n")
        assert wire.ask(b"AUTH LOGIN").startswith(b"504 5.5.4 ")
        assert wire.ask(b"AUTH").startswith(b"504 ")
        assert wire.ask(b"AUTH CRAM-MD5 eA==").startswith(b"501 ")
        assert wire.ask(b"AUTH PLAIN !!").startswith(b"501 5.5.2 ")
        assert wire.ask(b"AUTH PLAIN =").startswith(b"535 ")
        assert wire.ask(b"AUTH PLAIN " + b"A" * 500).startswith(b"500 5.5.6 ")
        assert wire.ask(b"AUTH PLAIN " + b64encode(b"root\0relay\0" + PASSWORD.encode())).startswith(b"535 ")
        assert wire.ask(b"AUTH CRAM-MD5").startswith(b"334 ")
        assert wire.ask(b"*").startswith(b"501 5.7.0 ")
        assert wire.ask(b"auth plain " + PLAIN).startswith(b"235 ")
        assert wire.ask(b"AUTH PLAIN " + PLAIN).startswith(b"503 ")


def test_no_auth_where_there_is_no_user_nor_inside_a_transaction(connect: Wires) -> None:
    with SmtpServer() as server:
        wire = greeted(connect, server)
        assert wire.ask(b"AUTH PLAIN " + PLAIN).startswith(b"502 ")
        server.user = USER.encode()
        server.auth_in_clear = True
        assert wire.ask(b"MAIL FROM:<>").startswith(b"530 ")
        server.user = None
        assert wire.ask(b"MAIL FROM:<>").startswith(b"250 ")
        server.user = USER.encode()
        assert wire.ask(b"AUTH PLAIN " + PLAIN).startswith(b"503 ")


def test_faults(connect: Wires) -> None:
    with guarded() as server:
        wire = greeted(connect, server)
        server.faults = SmtpFaults(replies={"auth": lambda said: b"454 later\r\n" if b"PLAIN" in said else None})
        assert wire.ask(b"AUTH PLAIN " + PLAIN) == b"454 later\r\n"
        assert wire.ask(b"AUTH CRAM-MD5").startswith(b"334 ")
        server.faults = SmtpFaults(replies={"auth-response": lambda said: b"535 not " + said + b"\r\n"})
        assert wire.ask(b"eA==") == b"535 not eA==\r\n"
        assert wire.ask(b"MAIL FROM:<>").startswith(b"530 ")
        server.faults = SmtpFaults(replies={"auth": b"235 whoever you are\r\n"})
        assert wire.ask(b"AUTH CRAM-MD5").startswith(b"235 ")
        assert wire.ask(b"MAIL FROM:<>").startswith(b"250 ")
        wire = greeted(connect, server)
        server.faults = SmtpFaults(drop="auth-response")
        assert wire.ask(b"AUTH PLAIN") == b"334 \r\n"
        wire.send(PLAIN + b"\r\n")
        assert wire.rest() == b""
