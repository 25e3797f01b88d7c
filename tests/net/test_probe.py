"""Probing the embedded servers: what is found out, whatever is wrong with them, and that no credential is ever sent."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from poprep_cli.config.model import Address, Pop3, Secret, Smtp, TlsSettings
from poprep_cli.embedded.pop3 import Pop3Faults, Pop3Server
from poprep_cli.embedded.smtp import SmtpFaults, SmtpServer
from poprep_cli.errors import ConnectionFailed, ExitCode, ReplyError, Stopped, TemporaryReplyError, TlsError
from poprep_cli.net.probe import probe_pop3
from poprep_cli.net.probe_found import Found, Method, Pop3Found, SmtpFound
from poprep_cli.net.probe_smtp import probe_smtp, smtp_exit_code
from poprep_cli.net.stop import Stop
from poprep_cli.protocol.sasl.methods import ORDER, SMTP_DEFAULT

SASL_SERVER = (b"UIDL", b"TOP", b"USER", b"SASL PLAIN CRAM-MD5 XOAUTH2", b"STLS")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def ca_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


@pytest.fixture(scope="module")
def context(authority: trustme.CA) -> ssl.SSLContext:
    return server_context(authority, "localhost", "127.0.0.1")


def server_context(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(made)
    return made


def mailbox(context: ssl.SSLContext | None = None, *, at_connect: bool = False, **faults) -> Pop3Server:
    return Pop3Server(context=context, ssl=at_connect, faults=Pop3Faults(**faults))


def probed(server: Pop3Server, *, free: bool = False, **changes) -> Pop3Found:
    """Return what a probe finds, and assert that it sent nothing but questions."""
    with server:
        defaults = {
            "address": Address("127.0.0.1", server.port),
            "tls": "required",
            "user": "office",
            "password": Secret(value="tr0ub4dor"),
            "timeout": 0.6,
        }
        settings = Pop3(**(defaults | changes))
        found = Pop3Found(str(settings.address), ssl=settings.ssl)
        probe_pop3(settings, Stop(), found, free=free)
    for session in server.sessions:
        if not session.clear.startswith(b"\x16"):  # else it is a ClientHello to a server that takes it for commands
            assert set(session.verbs) <= {"CAPA", "STLS", "AUTH", "*", "QUIT"}
        assert all(command.line == b"AUTH" for command in session.commands if command.verb == "AUTH")
        sent = bytes(session.clear + session.secured)
        assert b"office" not in sent
        assert b"tr0ub4dor" not in sent
    return found


def method(found: Found, name: str) -> Method:
    return next(one for one in found.methods if one.name == name)


# What there is


def test_everything_behind_stls(context: ssl.SSLContext, ca_file: str) -> None:
    found = probed(mailbox(context, capa=SASL_SERVER), tls_settings=TlsSettings(ca_file=ca_file))
    assert found.problem is None
    assert found.exit_code == ExitCode.OK
    assert (found.peer, found.apop, found.secure) == ("127.0.0.1", True, True)
    assert found.connect_seconds is not None
    assert 0 < found.connect_seconds < 1
    assert found.greeting is not None
    assert found.greeting.startswith("+OK POP3 ready <")
    assert found.clear is not None
    assert found.secured is not None
    assert found.secured.capabilities is not None
    assert found.secured.capabilities["SASL"] == ("PLAIN", "CRAM-MD5", "XOAUTH2")
    assert found.unsupported == ("XOAUTH2",)
    assert found.starttls == "+OK begin TLS"
    assert found.tls is not None
    assert found.tls.version == "TLS 1.3"
    assert found.tls.cipher.startswith("TLS_")
    assert (found.tls.refused, found.tls.verified, found.tls.expected_name) == ("", "verified", "127.0.0.1")
    assert found.tls.certificate is not None
    assert found.tls.certificate.names == ("localhost", "127.0.0.1")
    assert found.method == "cram-md5"
    assert [one.name for one in found.methods] == list(ORDER)
    assert [(one.name, one.order) for one in found.methods if one.order] == [
        ("cram-md5", 1),
        ("apop", 2),
        ("plain", 3),
        ("user", 4),
    ]
    assert method(found, "cram-md5").announced_by == ("CAPA",)
    assert method(found, "apop").announced_by == ("welcome",)
    assert method(found, "scram-sha-256").why_not == "not announced"
    assert method(found, "external").why_not.startswith("switched off (pop3.auth)")


def test_round_trips_are_those_of_a_login(context: ssl.SSLContext, ca_file: str) -> None:
    """What is counted is what the embedded server counts when somebody really logs in."""
    from poprep_cli.net.login import log_in

    server = mailbox(context)
    found = probed(server, tls_settings=TlsSettings(ca_file=ca_file))
    names = [name for name, _ in found.steps]
    assert names == ["connection", "greeting", "CAPA", "STLS", "TLS", "CAPA", "AUTH", "apop"]
    with server:
        settings = Pop3(
            address=Address("127.0.0.1", server.port),
            tls_settings=TlsSettings(ca_file=ca_file),
            user="demo",
            password=Secret(),
        )
        log_in(settings, "demo", Stop()).link.close()
    assert len(server.sessions[-1].commands) == found.round_trips - 3  # connection, greeting, TLS


def test_tls_at_connect(context: ssl.SSLContext, ca_file: str) -> None:
    server = mailbox(context, at_connect=True)
    found = probed(server, ssl=True, tls_settings=TlsSettings(ca_file=ca_file))
    assert found.problem is None
    assert [name for name, _ in found.steps][:3] == ["connection", "TLS", "greeting"]
    assert found.clear is None
    assert len(server.sessions) == 1


def test_the_auth_list_is_asked_for_and_bounded_to_what_is_printable() -> None:
    listing = b"+OK\r\nCRAM-MD5\r\nNTLM\r\nX\x1b[31m\r\n.\r\n"
    found = probed(mailbox(replies={"AUTH": listing}), tls="off")
    assert found.clear is not None
    assert found.clear.listed == ("CRAM-MD5", "NTLM", "X\\x1b[31m")
    assert method(found, "cram-md5").announced_by == ("AUTH",)
    assert method(found, "ntlm").order == 2


def test_the_auth_list_is_asked_for_even_if_capa_says_it_all() -> None:
    server = mailbox(capa=(b"UIDL", b"USER", b"SASL CRAM-MD5"))
    found = probed(server, tls="off", auth=("cram-md5",))
    assert "AUTH" in server.sessions[0].verbs
    assert "AUTH" not in [name for name, _ in found.steps]


def test_auth_taken_for_the_beginning_of_an_exchange_is_cancelled() -> None:
    server = mailbox(replies={"AUTH": b"+ \r\n", "*": b"-ERR cancelled\r\n"})
    found = probed(server, tls="off")
    assert server.sessions[0].verbs == ["CAPA", "AUTH", "*", "QUIT"]
    assert found.exit_code == ExitCode.OK


def test_ntlm_without_tls_can_be_relayed(context: ssl.SSLContext, ca_file: str) -> None:
    capa = (b"UIDL", b"USER", b"STLS", b"SASL NTLM")
    found = probed(mailbox(capa=capa), tls="off")
    assert "relayed" in method(found, "ntlm").warning
    assert any("ntlm: without TLS" in warning for warning in found.warnings)
    inside = probed(mailbox(context, capa=capa), tls_settings=TlsSettings(ca_file=ca_file))
    assert method(inside, "ntlm").warning == ""


def test_switches_are_respected() -> None:
    server = mailbox()
    found = probed(server, tls="off", detect=("welcome",), auth=("apop",))
    assert server.sessions[0].verbs == ["QUIT"]
    assert found.clear is not None
    assert "switched off" in found.clear.replies["CAPA"]
    assert found.method == "apop"
    assert method(found, "user").why_not == "switched off (pop3.auth)"


def test_no_enabled_method() -> None:
    found = probed(mailbox(apop=False), tls="off", auth=("cram-md5", "apop"))
    assert found.problem is None
    assert found.exit_code == ExitCode.NOPERM
    assert method(found, "apop").why_not == "the greeting has no timestamp"


def test_what_capabilities_mean() -> None:
    found = probed(mailbox(capa=(b"USER", b"EXPIRE 0", b"LOGIN-DELAY 900")), tls="off")
    told = " ".join(found.warnings + found.notes)
    for word in ("UIDL", "EXPIRE 0", "900 seconds", "PIPELINING"):
        assert word in told


# What is wrong with TLS


@pytest.mark.parametrize("at_connect", [False, True])
def test_a_certificate_that_is_not_trusted_is_shown_all_the_same(context: ssl.SSLContext, at_connect: bool) -> None:
    server = mailbox(context, at_connect=at_connect)
    found = probed(server, ssl=at_connect)
    assert isinstance(found.problem, TlsError)
    assert found.exit_code == ExitCode.PROTOCOL
    assert found.tls is not None
    assert "unable to get local issuer certificate" in found.tls.refused
    assert found.tls.certificate is not None
    assert found.secured is not None
    assert method(found, "apop").order == 1
    assert len(server.sessions) == 2


def test_another_name(authority: trustme.CA, ca_file: str) -> None:
    other = server_context(authority, "other.example")
    found = probed(mailbox(other), tls_settings=TlsSettings(ca_file=ca_file))
    assert found.tls is not None
    assert "IP address mismatch" in found.tls.refused
    assert found.tls.expected_name == "127.0.0.1"
    assert found.tls.certificate is not None
    assert found.tls.certificate.names == ("other.example",)


def test_a_wrong_pin_and_the_right_one(context: ssl.SSLContext) -> None:
    found = probed(mailbox(context), tls_settings=TlsSettings(fingerprint="0" * 64))
    assert found.tls is not None
    assert "not the pinned one" in found.tls.refused
    assert found.tls.certificate is not None
    again = probed(mailbox(context), tls_settings=TlsSettings(fingerprint=found.tls.certificate.sha256))
    assert again.problem is None
    assert again.tls is not None
    assert again.tls.verified == "pinned by tls_fingerprint"


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_an_old_version_of_tls(authority: trustme.CA, ca_file: str) -> None:
    old = server_context(authority, "127.0.0.1")
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    old.minimum_version = ssl.TLSVersion.TLSv1
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    found = probed(mailbox(old), tls_settings=TlsSettings(ca_file=ca_file))
    assert isinstance(found.problem, TlsError)
    assert found.tls is not None
    assert found.tls.version == "TLS 1.1"


@pytest.mark.parametrize(
    ("faults", "says"),
    [
        ({"capa": (b"UIDL", b"USER")}, "not offered"),
        ({"stls": "refuse"}, "-ERR no TLS here"),
        ({"stls": "drop"}, "accepted, but the handshake failed"),
        ({"stls": "hang"}, "accepted, but the handshake failed"),
        ({"stls_injected": b"+OK evil\r\n"}, ""),
        ({"replies": {"STLS": "drop"}}, "no answer"),
    ],
)
def test_stls_that_can_not_be_had(context: ssl.SSLContext, faults, says: str) -> None:
    found = probed(mailbox(context, **faults))
    assert found.problem is not None
    assert found.exit_code == ExitCode.PROTOCOL
    assert found.starttls.startswith(says)
    assert found.tls is None
    assert found.clear is not None
    assert method(found, "user").why_not == ""  # on loopback; it was looked at all the same
    assert not found.secure


def test_wanted_goes_on_in_the_clear(context: ssl.SSLContext) -> None:
    found = probed(mailbox(context), tls="wanted")
    assert found.problem is None
    assert found.tls is not None
    assert found.tls.refused
    assert not found.secure
    assert found.method == "apop"
    assert any("in the clear" in warning for warning in found.warnings)
    assert probed(mailbox(), tls="wanted").problem is None


# The wrong kind of port


def test_a_port_that_speaks_tls_at_once(context: ssl.SSLContext) -> None:
    found = probed(mailbox(context, at_connect=True))
    assert isinstance(found.problem, ConnectionFailed)
    assert found.speaks_tls_at_once
    assert found.tls is not None
    assert found.greeting is not None


def test_a_free_probe_takes_tls_at_once_for_meant(context: ssl.SSLContext, ca_file: str) -> None:
    server = mailbox(context, at_connect=True)
    found = probed(server, free=True, tls_settings=TlsSettings(ca_file=ca_file))
    assert found.problem is None
    assert found.ssl
    assert found.tls is not None
    assert found.tls.refused == ""
    assert any("TLS at once" in note for note in found.notes)


def test_a_port_that_greets_in_the_clear(context: ssl.SSLContext) -> None:
    found = probed(mailbox(context), ssl=True)
    assert isinstance(found.problem, TlsError)
    assert found.speaks_clear
    assert found.greeting is not None
    assert found.clear is not None
    assert found.clear.capabilities is not None
    assert "STLS" in found.clear.capabilities


# Servers that break


@pytest.mark.parametrize(
    ("faults", "question"),
    [
        ({"capa": "hang"}, "CAPA"),
        ({"capa": "drop"}, "CAPA"),
        ({"replies": {"AUTH": "hang"}}, "AUTH"),
        ({"replies": {"AUTH": "drop"}}, "AUTH"),
    ],
)
def test_a_question_without_an_answer_costs_a_connection(faults, question: str) -> None:
    server = mailbox(**faults)
    found = probed(server, tls="off")
    assert found.problem is None
    assert found.muted == (question,)
    assert found.clear is not None
    assert found.clear.replies[question] == "no answer"
    assert found.method == "apop"
    assert len(server.sessions) == 2
    assert question not in [name for name, _ in found.steps]
    assert any(warning.startswith(f"{question} is not answered") for warning in found.warnings)


def test_a_server_without_capa() -> None:
    found = probed(mailbox(capa="err"), tls="off")
    assert found.clear is not None
    assert found.clear.capabilities is None
    assert found.clear.replies["CAPA"].startswith("-ERR")
    assert found.exit_code == ExitCode.OK


@pytest.mark.parametrize(
    ("greeting", "error"),
    [(b"-ERR [SYS/TEMP] later\r\n", TemporaryReplyError), (b"-ERR go away\r\n", ReplyError)],
)
def test_a_greeting_that_refuses(greeting: bytes, error: type[Exception]) -> None:
    found = probed(mailbox(greeting=greeting), tls="off")
    assert type(found.problem) is error
    assert found.greeting == greeting.decode().strip()


def test_silence_and_garbage() -> None:
    silent = probed(mailbox(no_greeting=True), tls="off")
    assert isinstance(silent.problem, ConnectionFailed)
    assert silent.peer == "127.0.0.1"
    garbage = probed(mailbox(greeting=b"SSH-2.0-\x1b[2J\r\n"), tls="off")
    assert garbage.exit_code == ExitCode.PROTOCOL
    assert "\x1b" not in str(garbage.problem)


def test_nobody_there() -> None:
    server = mailbox()
    with server:
        pass
    found = Pop3Found("nobody")
    probe_pop3(
        Pop3(address=Address("127.0.0.1", server.port), user="u", password=Secret(), timeout=0.5),
        Stop(),
        found,
        free=True,
    )
    assert isinstance(found.problem, ConnectionFailed)
    assert found.exit_code == ExitCode.TEMPFAIL
    assert found.peer == ""


def test_a_stop_ends_it() -> None:
    stop = Stop()
    stop.trip()
    with mailbox() as server:
        found = Pop3Found("x")
        settings = Pop3(address=Address("127.0.0.1", server.port), user="u", password=Secret(), timeout=5)
        probe_pop3(settings, stop, found, free=False)
    assert isinstance(found.problem, Stopped)


# SMTP


def smtp_probed(*servers: SmtpServer, **changes) -> list[SmtpFound]:
    defaults = {
        "addresses": tuple(Address("127.0.0.1", server.port) for server in servers),
        "tls": "required",
        "user": "office",
        "password": Secret(value="tr0ub4dor"),
        "timeout": 0.6,
    }
    found: list[SmtpFound] = []
    probe_smtp(Smtp(**(defaults | changes)), Stop(), found)
    for server in servers:
        for session in server.sessions:
            assert set(session.verbs) <= {"EHLO", "HELO", "LHLO", "STARTTLS", "QUIT"}
    return found


def test_smtp_behind_starttls(context: ssl.SSLContext, ca_file: str) -> None:
    with SmtpServer(context=context, user="x", size_limit=1000) as server:
        (found,) = smtp_probed(server, tls_settings=TlsSettings(ca_file=ca_file))
    assert found.problem is None
    assert found.clear is not None
    assert "AUTH" not in found.clear
    assert found.extensions is not None
    assert (found.extensions["AUTH"], found.extensions["SIZE"]) == ("PLAIN LOGIN CRAM-MD5", "1000")
    assert found.method == "cram-md5"
    assert found.starttls.startswith("220")
    assert len(found.methods) == len(SMTP_DEFAULT) + 1


@pytest.mark.parametrize(
    ("server", "changes", "code"),
    [
        (lambda context: SmtpServer(context=context), {}, 76),
        (lambda _: SmtpServer(), {}, 76),
        (lambda _: SmtpServer(), {"tls": "wanted"}, 77),
        (lambda _: SmtpServer(), {"tls": "off", "user": None, "password": None}, 0),
        (lambda context: SmtpServer(context=context), {"tls": "wanted", "user": None, "password": None}, 0),
        (lambda _: SmtpServer(faults=SmtpFaults(replies={"greeting": b"554 no\r\n"})), {"tls": "off"}, 69),
        (lambda _: SmtpServer(faults=SmtpFaults(replies={"greeting": b"421 busy\r\n"})), {"tls": "off"}, 75),
        (lambda _: SmtpServer(faults=SmtpFaults(hang="ehlo")), {"tls": "off"}, 75),
        (lambda _: SmtpServer(faults=SmtpFaults(refuse_ehlo=True)), {"tls": "off", "user": None}, 0),
        (lambda context: SmtpServer(context=context, ssl=True), {"ssl": True}, 76),
    ],
)
def test_smtp_outcomes(
    server: Callable[[ssl.SSLContext], SmtpServer], changes, code: int, context: ssl.SSLContext
) -> None:
    with server(context) as running:
        found = smtp_probed(running, **changes)
    assert smtp_exit_code(found) == code, found


def test_smtp_untrusted_is_shown(context: ssl.SSLContext) -> None:
    with SmtpServer(context=context, user="x") as server:
        (found,) = smtp_probed(server)
    assert isinstance(found.problem, TlsError)
    assert found.tls is not None
    assert found.tls.certificate is not None
    assert len(found.tls.certificate.sha256) == 64
    assert found.secured is not None
    assert "AUTH" in found.secured


def test_smtp_addresses_are_tried_in_turn() -> None:
    with SmtpServer() as gone:
        pass
    with SmtpServer() as there:
        found = smtp_probed(gone, there, tls="off", user=None)
    assert [one.exit_code for one in found] == [75, 0]
    assert smtp_exit_code(found) == 0
