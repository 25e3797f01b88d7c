"""Logging in to the embedded server: methods in turn, TLS by the rules, and no credential where it must not be."""

from __future__ import annotations

import base64
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from poprep_cli.config.model import Address, Pop3, Secret, TlsSettings
from poprep_cli.embedded.pop3 import Pop3Faults, Pop3Server
from poprep_cli.errors import (
    AuthenticationFailed,
    ConnectionFailed,
    ExitCode,
    PoprepError,
    RemoteProtocolError,
    ReplyError,
    Stopped,
    TemporaryReplyError,
    TlsError,
)
from poprep_cli.net.login import Session, log_in
from poprep_cli.net.stop import Stop
from poprep_cli.net.stream import Stream

PASSWORD = "tr0ub4dor-and-3"
CREDENTIAL_VERBS = {"USER", "PASS", "APOP", "AUTH"}


def settings(server: Pop3Server, **changes) -> Pop3:
    defaults = {
        "address": Address("127.0.0.1", server.port),
        "tls": "off",
        "user": "office",
        "password": Secret(value=PASSWORD),
        "auth": ("apop", "user"),
        "timeout": 2.0,
    }
    return Pop3(**(defaults | changes))


@contextmanager
def logged_in(server: Pop3Server, password: str = PASSWORD, **changes) -> Iterator[Session]:
    with server:
        session = log_in(settings(server, **changes), password, Stop())
        try:
            yield session
        finally:
            session.link.close()


def refused(server: Pop3Server, error: type[PoprepError], password: str = PASSWORD, **changes) -> str:
    """Return the message and hint of the error that a login ends with, which must not have the password in it."""
    with server, pytest.raises(error) as caught:
        log_in(settings(server, **changes), password, Stop())
    text = f"{caught.value} {caught.value.hint}"
    assert type(caught.value) is error
    assert password not in text
    return text


def mailbox(context: ssl.SSLContext | None = None, *, at_connect: bool = False, **faults) -> Pop3Server:
    return Pop3Server(user="office", password=PASSWORD, context=context, ssl=at_connect, faults=Pop3Faults(**faults))


def verbs(server: Pop3Server) -> list[list[str]]:
    """Return the verbs of each session."""
    return [session.verbs for session in server.sessions]


def assert_nothing_in_the_clear(server: Pop3Server) -> None:
    """Assert on the octets themselves that no credential, in whatever form, has crossed the line in the clear."""
    for session in server.sessions:
        seen = bytes(session.clear).upper()
        for forbidden in (*CREDENTIAL_VERBS, "office", PASSWORD, base64.b64encode(PASSWORD.encode()).decode()):
            assert forbidden.upper().encode() not in seen
        assert not any(command.verb in CREDENTIAL_VERBS for command in session.commands if not command.tls)


# Methods


def test_apop_comes_first() -> None:
    server = mailbox()
    with logged_in(server) as session:
        assert session.method == "apop"
        assert session.warnings == []
        assert session.capabilities is not None
        assert "PIPELINING" in session.capabilities
    assert verbs(server) == [["CAPA", "APOP"]]
    assert PASSWORD.encode() not in bytes(server.sessions[0].clear)


@pytest.mark.parametrize(
    "faults",
    [
        {"apop": False},
        {"greeting": b"+OK <no-at-sign>\r\n"},
        {"greeting": b"+OK <a\xff@b>\r\n"},
        {"greeting": b"+OK <a@b> <c@d>\r\n"},
    ],
)
def test_without_a_timestamp_user_is_used(faults) -> None:
    server = mailbox(**faults)
    with logged_in(server) as session:
        assert session.method == "user"
    assert verbs(server) == [["CAPA", "USER", "PASS"]]


def test_a_refused_apop_falls_to_user() -> None:
    server = mailbox(refuse_apop=b"-ERR no APOP for you\r\n")
    with logged_in(server) as session:
        assert session.method == "user"
    assert verbs(server) == [["CAPA", "APOP", "USER", "PASS"]]


def test_a_server_that_hangs_up_after_a_refusal_gets_a_second_connection() -> None:
    server = mailbox(refuse_apop=b"-ERR no APOP for you\r\n", drop_after_failed_login=True)
    with logged_in(server) as session:
        assert session.method == "user"
    assert [session[-1] for session in verbs(server)] == ["APOP", "PASS"]
    assert len(server.sessions) == 2


def test_a_server_that_hangs_up_instead_of_an_answer_gets_a_second_connection() -> None:
    server = mailbox(replies={"APOP": "drop"})
    with logged_in(server) as session:
        assert session.method == "user"
    assert verbs(server) == [["CAPA", "APOP"], ["CAPA", "USER", "PASS"]]


def test_only_enabled_methods_are_tried() -> None:
    server = mailbox()
    assert "apop (-ERR [AUTH]" in refused(server, AuthenticationFailed, "not-that-one", auth=("apop",))
    assert verbs(server) == [["CAPA", "APOP"]]
    server = mailbox()
    with logged_in(server, auth=("user",)) as session:
        assert session.method == "user"
    assert verbs(server) == [["CAPA", "USER", "PASS"]]


def test_user_that_is_not_announced_is_skipped() -> None:
    server = mailbox(apop=False, capa=(b"UIDL", b"TOP"))
    assert "not announced" in refused(server, AuthenticationFailed)
    assert verbs(server) == [["CAPA"]]


def test_a_wrong_password() -> None:
    server = mailbox()
    text = refused(server, AuthenticationFailed, "not-that-one")
    assert f"127.0.0.1:{server.port} refused the login of office" in text
    assert "[AUTH]" in text
    assert AuthenticationFailed.exit_code == ExitCode.NOPERM
    assert verbs(server) == [["CAPA", "APOP", "USER", "PASS"]]


def test_auth_stops_at_a_refused_password() -> None:
    server = mailbox(apop=False)
    refused(server, AuthenticationFailed, "not-that-one")
    assert verbs(server) == [["CAPA", "USER", "PASS"]]
    assert len(server.sessions) == 1


ECHOES = [
    ({"echo_password_in_error": True}, AuthenticationFailed),
    ({"apop": False, "echo_password_in_error": True}, AuthenticationFailed),
    ({"apop": False, "refuse_user": b"-ERR [IN-USE] by not-that-one\r\n"}, TemporaryReplyError),
    ({"apop": False, "replies": {"PASS": b"PASS not-that-one\r\n"}}, PoprepError),
]


@pytest.mark.parametrize(("faults", "error"), ECHOES)
def test_a_password_that_the_server_echoes_is_not_told(faults, error) -> None:
    server = mailbox(**faults)
    with server, pytest.raises(error) as caught:
        log_in(settings(server), "not-that-one", Stop())
    assert "***" in str(caught.value)
    assert "not-that-one" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize(
    "refusal",
    [b"[IN-USE] x", b"[LOGIN-DELAY] x", b"[SYS/TEMP] x", b"maildrop is locked", b"mailbox in use", b"server busy"],
)
@pytest.mark.parametrize("stage", ["greeting", "apop", "pass"])
def test_a_refusal_for_now_is_no_wrong_password(refusal, stage) -> None:
    reply = b"-ERR " + refusal + b"\r\n"
    faults = {
        "greeting": {"greeting": reply},
        "apop": {"refuse_apop": reply},
        "pass": {"apop": False, "refuse_user": reply},
    }
    server = mailbox(**faults[stage])
    refused(server, TemporaryReplyError)
    assert TemporaryReplyError.exit_code == ExitCode.TEMPFAIL
    last = {"greeting": [], "apop": ["CAPA", "APOP"], "pass": ["CAPA", "USER", "PASS"]}
    assert verbs(server) == [last[stage]]  # and no weaker method after it


def test_a_refused_connection() -> None:
    assert "go away" in refused(mailbox(greeting=b"-ERR go away\r\n"), ReplyError)
    refused(mailbox(greeting=b"220 mx ESMTP\r\n"), RemoteProtocolError)


@pytest.mark.parametrize("verb", ["USER", "PASS"])
@pytest.mark.parametrize("rule", ["drop", "hang"])
def test_a_line_that_breaks_at_the_login_is_no_wrong_password(verb, rule) -> None:
    text = refused(mailbox(apop=False, replies={verb: rule}), ConnectionFailed, timeout=0.2)
    assert "check pop3.user and pop3.password" in text


def test_a_hostile_refusal_is_harmless() -> None:
    text = refused(
        mailbox(apop=False, refuse_user=b"-ERR \x1b[2J[red]\xe2\x80\xae" + b"y" * 5000 + b"\r\n"), AuthenticationFailed
    )
    assert text.isprintable()
    assert len(text) < 1000


# CAPA


@pytest.mark.parametrize("capa", ["drop", "hang"])
def test_a_server_without_an_answer_to_capa_costs_one_reconnect(capa) -> None:
    server = mailbox(capa=capa)
    with logged_in(server, timeout=0.2) as session:
        assert session.capabilities is None
        assert session.method == "apop"
    assert verbs(server) == [["CAPA"], ["APOP"]]


def test_a_refused_capa_leaves_user_usable() -> None:
    server = mailbox(capa="err", apop=False)
    with logged_in(server) as session:
        assert session.capabilities is None
        assert session.method == "user"
    assert verbs(server) == [["CAPA", "USER", "PASS"]]


def test_capabilities_without_end() -> None:
    refused(mailbox(replies={"CAPA": b"+OK\r\n" + b"X-MORE\r\n" * 400_000 + b".\r\n"}), RemoteProtocolError)


# TLS


@dataclass(frozen=True)
class Pki:
    ca_file: str
    context: ssl.SSLContext
    wrong_name: ssl.SSLContext
    strangers: ssl.SSLContext

    @property
    def trusting(self) -> TlsSettings:
        return TlsSettings(ca_file=self.ca_file)


@pytest.fixture(scope="module")
def pki(tmp_path_factory) -> Pki:
    folder: Path = tmp_path_factory.mktemp("pki")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    contexts = []
    for issuer, name in ((authority, "127.0.0.1"), (authority, "other.example"), (trustme.CA(), "127.0.0.1")):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        issuer.issue_cert(name).configure_cert(context)
        contexts.append(context)
    return Pki(str(folder / "ca.pem"), *contexts)


def test_stls(pki) -> None:
    server = mailbox(pki.context)
    with logged_in(server, tls="required", tls_settings=pki.trusting) as session:
        assert session.link.stream.tls
        assert session.warnings == []
        assert session.capabilities is not None
        assert "STLS" not in session.capabilities  # asked again: what was said in the clear is void
    assert verbs(server) == [["CAPA", "STLS", "CAPA", "APOP"]]
    assert_nothing_in_the_clear(server)


def test_tls_at_connect(pki) -> None:
    server = mailbox(pki.context, at_connect=True)
    with logged_in(server, ssl=True, tls_settings=pki.trusting, auth=("user",)) as session:
        assert session.link.stream.tls
    assert verbs(server) == [["CAPA", "USER", "PASS"]]
    assert bytes(server.sessions[0].clear) == b""


def test_tls_off_asks_for_none(pki) -> None:
    server = mailbox(pki.context)
    with logged_in(server, tls="off") as session:
        assert not session.link.stream.tls
    assert verbs(server) == [["CAPA", "APOP"]]


NO_TLS = [
    {"capa": (b"USER", b"UIDL")},  # STLS stripped from the list
    {"stls": "refuse"},
    {"stls": "drop"},
    {"stls": "hang"},
    {"stls": "refuse", "capa": "err"},
    {"stls": "refuse", "capa": "drop"},
    {"stls": "hang", "capa": "hang"},
    {"replies": {"STLS": "drop"}},
    {"replies": {"STLS": "hang"}},
]


@pytest.mark.parametrize("method", [("apop",), ("user",), ("apop", "user")])
@pytest.mark.parametrize("faults", NO_TLS)
def test_required_tls_that_is_not_to_be_had(pki, faults, method) -> None:
    server = mailbox(pki.context, **faults)
    refused(server, TlsError, tls="required", tls_settings=pki.trusting, auth=method, timeout=0.2, clear_text="allow")
    assert TlsError.exit_code == ExitCode.PROTOCOL
    assert_nothing_in_the_clear(server)


def test_a_server_without_tls(pki) -> None:
    server = mailbox()
    text = refused(server, TlsError, tls="required")
    assert "does not offer STLS" in text
    assert "ssl = true" in text
    assert_nothing_in_the_clear(server)


@pytest.mark.parametrize("capa", ["err", "drop"])
def test_stls_is_tried_without_capabilities(pki, capa) -> None:
    server = mailbox(pki.context, capa=capa)
    with logged_in(server, tls="required", tls_settings=pki.trusting) as session:
        assert session.link.stream.tls
        assert session.capabilities is None
    assert_nothing_in_the_clear(server)


@pytest.mark.parametrize("which", ["wrong_name", "strangers"])
@pytest.mark.parametrize("at_connect", [True, False])
def test_certificates_that_are_not_trusted(pki, which, at_connect) -> None:
    server = mailbox(getattr(pki, which), at_connect=at_connect)
    text = refused(server, TlsError, ssl=at_connect, tls="required", tls_settings=pki.trusting)
    assert "the certificate of" in text
    assert_nothing_in_the_clear(server)
    assert not any(session.secured for session in server.sessions)


def test_tls_at_connect_with_a_server_that_speaks_first(pki) -> None:
    server = mailbox()
    assert "is this a TLS port?" in refused(server, TlsError, ssl=True, tls_settings=pki.trusting)
    assert_nothing_in_the_clear(server)


@pytest.mark.parametrize("injected", [b"+OK injected\r\n", b"x", b"-ERR\r\n", b"+OK\r\nUSER\r\n.\r\n+OK\r\n"])
def test_what_is_injected_before_tls_ends_the_session(pki, injected) -> None:
    server = mailbox(pki.context, stls_injected=injected)
    assert "before TLS began" in refused(server, RemoteProtocolError, tls="required", tls_settings=pki.trusting)
    assert verbs(server) == [["CAPA", "STLS"]]
    assert_nothing_in_the_clear(server)


def test_wanted_tls_is_used(pki) -> None:
    server = mailbox(pki.context)
    with logged_in(server, tls="wanted", tls_settings=pki.trusting) as session:
        assert session.link.stream.tls
        assert session.warnings == []
    assert_nothing_in_the_clear(server)


@pytest.mark.parametrize(
    ("faults", "which", "connections"),
    [
        ({}, "", 1),
        ({"capa": (b"USER",)}, "context", 1),
        ({"stls": "refuse"}, "context", 1),
        ({"stls": "drop"}, "context", 2),
        ({"stls": "hang"}, "context", 2),
        ({}, "wrong_name", 2),
        ({}, "strangers", 2),
        ({"stls_injected": b"+OK\r\n"}, "context", 2),
    ],
)
def test_wanted_tls_that_is_not_to_be_had_is_told(pki, faults, which, connections) -> None:
    server = mailbox(getattr(pki, which) if which else None, **faults)
    with logged_in(server, tls="wanted", tls_settings=pki.trusting, timeout=0.3) as session:
        assert not session.link.stream.tls
        assert len(session.warnings) == 1
        assert "going on in the clear" in session.warnings[0]
    assert len(server.sessions) == connections
    for before in server.sessions[:-1]:
        assert not CREDENTIAL_VERBS & set(before.verbs)


def test_a_refusal_for_now_is_no_reason_to_do_without_tls(pki) -> None:
    server = mailbox(pki.context, greeting=b"-ERR [SYS/TEMP] too many connections\r\n")
    refused(server, TemporaryReplyError, tls="wanted", tls_settings=pki.trusting)
    assert verbs(server) == [[]]


# clear_text


@pytest.fixture
def distant(monkeypatch) -> None:
    """Make loopback look like a server far away."""
    monkeypatch.setattr(Address, "is_local", property(lambda _: False))
    monkeypatch.setattr(Stream, "is_loopback", property(lambda _: False))


@pytest.mark.usefixtures("distant")
@pytest.mark.parametrize("tls", ["off", "wanted"])
def test_a_password_is_not_sent_in_the_clear(tls) -> None:
    server = mailbox(apop=False)
    assert 'pop3.clear_text = "allow"' in refused(server, AuthenticationFailed, tls=tls)
    assert_nothing_in_the_clear(server)


@pytest.mark.usefixtures("distant")
def test_a_refused_digest_is_no_reason_to_send_the_password_in_the_clear() -> None:
    server = mailbox(refuse_apop=b"-ERR [AUTH] no\r\n")
    refused(server, AuthenticationFailed)
    assert verbs(server) == [["CAPA", "APOP"]]
    assert PASSWORD.encode() not in bytes(server.sessions[0].clear)


@pytest.mark.usefixtures("distant")
def test_a_password_in_the_clear_where_it_is_allowed() -> None:
    with logged_in(mailbox(apop=False), clear_text="allow") as session:
        assert session.method == "user"


@pytest.mark.usefixtures("distant")
def test_a_password_inside_tls(pki) -> None:
    server = mailbox(pki.context, apop=False)
    with logged_in(server, tls="required", tls_settings=pki.trusting) as session:
        assert session.method == "user"
    assert_nothing_in_the_clear(server)


# Deadlines and the stop switch


@pytest.mark.parametrize("faults", [{"no_greeting": True}, {"greeting_delay": 5.0}])
def test_a_server_that_says_nothing(faults) -> None:
    assert "no answer came in time" in refused(mailbox(**faults), ConnectionFailed, timeout=0.2)


def test_nobody_listens() -> None:
    server = mailbox()
    with server:
        pop3 = settings(server)
    with pytest.raises(ConnectionFailed, match="can't connect"):
        log_in(pop3, PASSWORD, Stop())


@pytest.mark.parametrize("faults", [{"no_greeting": True}, {"capa": "hang"}, {"replies": {"APOP": "hang"}}])
def test_the_stop_switch_ends_a_login_at_once(faults) -> None:
    server, stop = mailbox(**faults), Stop()
    timer = threading.Timer(0.1, stop.trip)
    with server:
        timer.start()
        with pytest.raises(Stopped):
            log_in(settings(server, timeout=30.0), PASSWORD, stop)
    timer.join()
    assert len(server.sessions) == 1
