"""Every method that Dovecot knows: alone and together, over TLS and in the clear, with the right password and a wrong one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import msgspec
import pytest

from poprep_cli.config.model import Address, Pop3, Secret, Smtp, TlsSettings
from poprep_cli.errors import AuthenticationFailed
from poprep_cli.net.detect import NO_MEMORY, Memory
from poprep_cli.net.link import Link
from poprep_cli.net.login import Session, log_in
from poprep_cli.net.stop import Stop
from poprep_cli.net.stream import Stream
from poprep_cli.net.submission import Submission
from poprep_cli.protocol.pop3 import QUIT, Command
from poprep_cli.protocol.sasl.mechanism import Credentials
from poprep_cli.protocol.sasl.methods import Pop3Method, SmtpMethod
from tests.real.dovecot import Dovecot
from tests.real.postfix import Postfix

pytestmark = pytest.mark.real

USERS = {"joe": "tr0ub4dor-and-3", "jörg": "größer, besser=schneller"}
# A login that failed must not slow down the next one, which comes from the same address.
EXTRA = """\
auth_username_chars =
service anvil {
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}
service auth {
  unix_listener auth-smtp {
    mode = 0666
  }
}
"""
METHODS: tuple[Pop3Method, ...] = ("scram-sha-256", "scram-sha-1", "cram-md5", "apop", "plain", "login", "user")
SMTP_METHODS: tuple[SmtpMethod, ...] = ("scram-sha-256", "scram-sha-1", "cram-md5", "plain", "login")
REVERSIBLE = ("plain", "login", "user")


@pytest.fixture(scope="module")
def dovecot() -> Iterator[Dovecot]:
    with Dovecot(USERS, extra=EXTRA) as server:
        yield server


@pytest.fixture
def distant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make loopback look like a server far away."""
    monkeypatch.setattr(Address, "is_local", property(lambda _: False))
    monkeypatch.setattr(Stream, "is_loopback", property(lambda _: False))


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What is sent on each connection, passwords masked."""
    connections: list[list[str]] = []
    begin, send = Link.__init__, Link.send

    def noting_begin(self: Link, *arguments: Any, **named: Any) -> None:
        connections.append([])
        begin(self, *arguments, **named)

    def noting_send(self: Link, *commands: Command) -> None:
        connections[-1] += [command.shown for command in commands]
        send(self, *commands)

    monkeypatch.setattr(Link, "__init__", noting_begin)
    monkeypatch.setattr(Link, "send", noting_send)
    return connections


def settings(dovecot: Dovecot, user: str = "joe", **changes: Any) -> Pop3:
    defaults: dict[str, Any] = {
        "address": Address("127.0.0.1", dovecot.port),
        "tls": "required",
        "tls_settings": TlsSettings(ca_file=str(dovecot.ca_file)),
        "user": user,
        "password": Secret(value=USERS[user]),
        "timeout": 20.0,
    }
    return Pop3(**(defaults | changes))


def enter(pop3: Pop3, password: str, memory: Memory = NO_MEMORY) -> Session:
    """Log in and take leave, which shows that the server is in the TRANSACTION state."""
    session = log_in(pop3, password, Stop(), memory)
    try:
        assert session.link.ask(QUIT).ok
    finally:
        session.link.close()
    return session


@pytest.mark.usefixtures("distant")
@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("method", METHODS)
def test_each_method_alone_over_stls(dovecot: Dovecot, method: Pop3Method, user: str) -> None:
    session = enter(settings(dovecot, user, auth=(method,)), USERS[user])
    assert session.method == method
    assert session.failures == []
    assert session.link.stream.tls


@pytest.mark.usefixtures("distant")
@pytest.mark.parametrize("method", METHODS)
def test_each_method_alone_with_tls_at_connect(dovecot: Dovecot, method: Pop3Method) -> None:
    pop3 = settings(dovecot, auth=(method,), ssl=True, address=Address("127.0.0.1", dovecot.ssl_port))
    assert enter(pop3, USERS["joe"]).method == method


@pytest.mark.usefixtures("distant")
@pytest.mark.parametrize("method", [method for method in METHODS if method not in REVERSIBLE])
def test_methods_that_keep_the_password_work_in_the_clear(dovecot: Dovecot, method: Pop3Method) -> None:
    session = enter(settings(dovecot, auth=(method,), tls="off", tls_settings=TlsSettings()), USERS["joe"])
    assert session.method == method
    assert not session.link.stream.tls


@pytest.mark.usefixtures("distant")
@pytest.mark.parametrize("method", REVERSIBLE)
def test_methods_that_tell_the_password_need_leave_in_the_clear(
    dovecot: Dovecot, method: Pop3Method, sent: list[list[str]]
) -> None:
    pop3 = settings(dovecot, auth=(method,), tls="off", tls_settings=TlsSettings())
    with pytest.raises(AuthenticationFailed, match="not encrypted"):
        enter(pop3, USERS["joe"])
    assert set(sent[0]) <= {"CAPA", "AUTH"}
    pop3 = settings(dovecot, auth=(method,), tls="off", tls_settings=TlsSettings(), clear_text="allow")
    assert enter(pop3, USERS["joe"]).method == method


@pytest.mark.parametrize("method", METHODS)
def test_a_wrong_password_alone(dovecot: Dovecot, method: Pop3Method) -> None:
    with pytest.raises(AuthenticationFailed, match=f"refused the login of joe: {method} ") as caught:
        enter(settings(dovecot, auth=(method,)), "not-that-one")
    assert "not-that-one" not in str(caught.value)


def test_a_wrong_password_with_everything_enabled(dovecot: Dovecot, sent: list[list[str]]) -> None:
    with pytest.raises(AuthenticationFailed, match="refused the login of joe: scram-sha-256 "):
        enter(settings(dovecot), "not-that-one")
    passwords = [line for line in chain(*sent) if line.startswith(("AUTH PLAIN", "AUTH LOGIN", "PASS"))]
    assert len(passwords) == 1  # [AUTH] is the last word: no other method would fare better, and accounts get locked


@pytest.mark.parametrize("method", METHODS)
def test_a_user_that_is_unknown(dovecot: Dovecot, method: Pop3Method) -> None:
    with pytest.raises(AuthenticationFailed):
        enter(msgspec.structs.replace(settings(dovecot, auth=(method,)), user="nobody"), "x")


def test_everything_enabled_means_scram_in_one_connection_and_no_question_the_next_time(
    dovecot: Dovecot, sent: list[list[str]]
) -> None:
    pop3 = settings(dovecot)
    first = enter(pop3, USERS["joe"])
    assert first.method == "scram-sha-256"
    assert first.failures == []
    assert first.memory.method == "scram-sha-256"
    second = enter(pop3, USERS["joe"], first.memory)
    assert second.method == "scram-sha-256"
    assert second.memory == first.memory
    login = ["CAPA", "STLS", "CAPA", "AUTH SCRAM-SHA-256 ***", "***", "***", "QUIT"]
    assert len(sent) == 2
    assert [line for line in sent[0] if line != "AUTH"] == login
    assert sent[1] == ["STLS", *login[3:]]  # what CAPA answered is remembered


# The same mechanisms on SMTP: Postfix asks this Dovecot


@pytest.fixture(scope="module")
def postfix(dovecot: Dovecot) -> Iterator[Postfix]:
    extra = (
        "smtpd_sasl_auth_enable = yes\n"
        "smtpd_sasl_type = dovecot\n"
        f"smtpd_sasl_path = {dovecot.root}/run/auth-smtp\n"
        "smtpd_sasl_security_options = noanonymous\n"
    )
    with Postfix(tls=True, extra=extra) as server:
        yield server


def submission(postfix: Postfix, user: str, password: str, **changes: Any) -> None:
    """Log in and take leave."""
    defaults: dict[str, Any] = {
        "addresses": (Address("127.0.0.1", postfix.port),),
        "tls_settings": TlsSettings(ca_file=str(postfix.ca_file)),
        "timeout": 20.0,
    }
    Submission.open(Smtp(**(defaults | changes)), Stop(), Credentials(user, password)).quit()


@pytest.mark.usefixtures("distant")
@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("method", SMTP_METHODS)
def test_each_method_alone_over_starttls(postfix: Postfix, method: SmtpMethod, user: str) -> None:
    submission(postfix, user, USERS[user], auth=(method,))


@pytest.mark.usefixtures("distant")
@pytest.mark.parametrize("method", SMTP_METHODS)
def test_each_method_alone_in_the_clear(postfix: Postfix, method: SmtpMethod) -> None:
    clear: dict[str, Any] = {"auth": (method,), "tls": "off", "tls_settings": TlsSettings()}
    if method in REVERSIBLE:
        with pytest.raises(AuthenticationFailed, match="not encrypted"):
            submission(postfix, "joe", USERS["joe"], **clear)
        clear["clear_text"] = "allow"
    submission(postfix, "joe", USERS["joe"], **clear)


@pytest.mark.parametrize("auth", [*((method,) for method in SMTP_METHODS), SMTP_METHODS])
def test_a_wrong_password_on_smtp(postfix: Postfix, auth: tuple[SmtpMethod, ...]) -> None:
    with pytest.raises(AuthenticationFailed, match="joe") as caught:
        submission(postfix, "joe", "not-that-one", auth=auth)
    assert "not-that-one" not in f"{caught.value} {caught.value.hint}"
