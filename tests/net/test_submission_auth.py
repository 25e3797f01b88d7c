"""Logging in to an SMTP server (RFC 4954): methods in turn, the right errors, and no secret where it must not be."""

from __future__ import annotations

import ssl
from base64 import b64decode, b64encode
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme

from poprep_cli.config.model import Address, Smtp, TlsSettings
from poprep_cli.embedded.deliveries import without_trace
from poprep_cli.embedded.smtp import SmtpFaults, SmtpServer
from poprep_cli.embedded.smtp_auth import RESPONSE
from poprep_cli.embedded.smtp_faults import Stage
from poprep_cli.errors import (
    AuthenticationFailed,
    ConnectionFailed,
    ExitCode,
    PoprepError,
    RemoteProtocolError,
    TemporaryReplyError,
    TlsError,
)
from poprep_cli.net.smtp_login import INITIAL_RESPONSE
from poprep_cli.net.stop import Stop
from poprep_cli.net.stream import Stream
from poprep_cli.net.submission import Submission
from poprep_cli.protocol.sasl.mechanism import Credentials
from tests.poll.world import World, make

USER, PASSWORD, WRONG = "relay", "C0rrect-h0rse", "Wr0ng-h0rse"
PLAIN = b64encode(f"\0{USER}\0{PASSWORD}".encode())
REFUSED = b"535 5.7.8 no\r\n"


def guarded(*mechanisms: str, clear: bool = True, **settings: Any) -> SmtpServer:
    chosen: dict[str, Any] = {"mechanisms": mechanisms} if mechanisms else {}
    return SmtpServer(user=USER, password=PASSWORD, auth_in_clear=clear, **chosen, **settings)


def refusing(*prefixes: bytes, reply: bytes = REFUSED) -> SmtpFaults:
    """Return the fault of a server that refuses these AUTH commands, whatever the credentials."""
    return SmtpFaults(replies={"auth": lambda said: reply if said.startswith(prefixes) else None})


def opened(server: SmtpServer, password: str = PASSWORD, user: str = USER, **changes: Any) -> Submission:
    defaults: dict[str, Any] = {"addresses": (Address("127.0.0.1", server.port),), "tls": "off", "timeout": 2.0}
    return Submission.open(Smtp(**(defaults | changes)), Stop(), Credentials(user, password))


def logs_in(server: SmtpServer, **changes: Any) -> None:
    """Assert that the login succeeds, and that mail may be sent then."""
    with server:
        session = opened(server, **changes)
        assert session.alive
        session.quit()


def fails(server: SmtpServer, error: type[PoprepError], password: str = PASSWORD, **changes: Any) -> PoprepError:
    """Return the error with which the login fails: it names the server and has no secret in it."""
    with server, pytest.raises(PoprepError) as caught:
        opened(server, password, **changes)
    assert type(caught.value) is error, caught.value
    text = f"{caught.value} {caught.value.hint}"
    assert server.address in text
    for secret in secrets(password):
        assert secret.decode() not in text
    assert "MAIL" not in server.sessions[-1].verbs
    return caught.value


def secrets(password: str) -> set[bytes]:
    """Return the forms in which a password can cross the wire."""
    return {password.encode(), b64encode(password.encode()), b64encode(f"\0{USER}\0{password}".encode())}


def said(server: SmtpServer) -> list[bytes]:
    """Return the AUTH commands and responses of the last session."""
    return [command.line for command in server.sessions[-1].commands if command.verb in ("AUTH", RESPONSE)]


def nothing_leaked(server: SmtpServer, password: str = PASSWORD) -> None:
    for session in server.sessions:
        assert not any(secret in session.clear for secret in secrets(password))
        assert not any(command.verb in ("AUTH", RESPONSE) and not command.tls for command in session.commands)


# Methods


def test_plain() -> None:
    server = guarded("PLAIN")
    logs_in(server)
    assert said(server) == [b"AUTH PLAIN " + PLAIN]


def test_login() -> None:
    server = guarded("LOGIN")
    logs_in(server)
    assert said(server) == [b"AUTH LOGIN", b64encode(USER.encode()), b64encode(PASSWORD.encode())]


def test_cram_md5() -> None:
    server = guarded("CRAM-MD5")
    logs_in(server)
    command, response = said(server)
    assert command == b"AUTH CRAM-MD5"
    assert b64decode(response).startswith(b"relay ")
    assert not any(secret in server.sessions[0].clear for secret in secrets(PASSWORD))


def test_the_digest_comes_before_the_password() -> None:
    server = guarded("LOGIN", "PLAIN", "CRAM-MD5")
    logs_in(server)
    assert [line.split()[1] for line in said(server) if line.startswith(b"AUTH ")] == [b"CRAM-MD5"]


@pytest.mark.parametrize("code", [b"504 5.5.4", b"534 5.7.9", b"501"])
def test_after_a_refusal_the_next_is_tried(code: bytes) -> None:
    server = guarded(faults=refusing(b"CRAM-MD5", b"PLAIN", reply=code + b" no\r\n"))
    logs_in(server)
    assert [line.split()[1] for line in said(server) if line.startswith(b"AUTH ")] == [b"CRAM-MD5", b"PLAIN", b"LOGIN"]
    assert len(server.sessions) == 1


def test_a_server_that_has_seen_the_password_is_not_sent_it_again() -> None:
    server = guarded(faults=refusing(b"CRAM-MD5", b"PLAIN", reply=b"535 5.7.8 no\r\n"))
    error = fails(server, AuthenticationFailed)
    assert isinstance(error, AuthenticationFailed)
    assert error.rejected_by == "SMTP"
    assert [line.split()[1] for line in said(server) if line.startswith(b"AUTH ")] == [b"CRAM-MD5", b"PLAIN"]


def test_only_what_is_enabled_is_tried() -> None:
    server = guarded()
    logs_in(server, auth=("login",))
    assert said(server)[0] == b"AUTH LOGIN"


def test_mail_flows_after_the_login_and_not_without() -> None:
    with guarded() as server:
        session = opened(server)
        assert session.pipelining
        assert session.tls is False
        session.quit()
        assert server.sessions[0].quit
        assert server.sessions[0].verbs[-1] == "QUIT"


@pytest.mark.parametrize(
    ("length", "at_once"), [(INITIAL_RESPONSE // 4 * 3, True), (INITIAL_RESPONSE // 4 * 3 + 1, False)]
)
def test_an_initial_response_goes_along_only_if_it_fits(length: int, at_once: bool) -> None:
    password = "x" * (length - len(f"\0{USER}\0"))
    server = SmtpServer(user=USER, password=password, mechanisms=("PLAIN",), auth_in_clear=True)
    with server:
        opened(server, password).quit()
    response = b64encode(f"\0{USER}\0{password}".encode())
    assert said(server) == ([b"AUTH PLAIN " + response] if at_once else [b"AUTH PLAIN", response])
    assert all(len(line) <= 510 for line in said(server) if line.startswith(b"AUTH "))


# Errors


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
def test_a_wrong_password(mechanism: str) -> None:
    error = fails(guarded(mechanism), AuthenticationFailed, WRONG)
    assert error.exit_code == ExitCode.NOPERM
    assert USER in str(error)
    assert "535 5.7.8 user name or password is wrong" in str(error)
    assert "smtp.password" in str(error.hint)


def test_a_wrong_password_by_all_methods() -> None:
    server = guarded()
    text = str(fails(server, AuthenticationFailed, WRONG))
    assert [text.count(f"{method} (535 ") for method in ("cram-md5", "plain", "login")] == [1, 1, 0]
    assert "not announced" not in text


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_a_server_that_echoes_what_it_got(mechanism: str) -> None:
    def echo(line: bytes) -> bytes | None:
        last = line.split()[-1]
        if line == b"LOGIN" or last == b64encode(USER.encode()):
            return None
        return b"535 5.7.8 " + last + b" is " + b64decode(last).replace(b"\0", b" ") + b", no\r\n"

    faults = SmtpFaults(replies={"auth": echo, "auth-response": echo})
    assert "***" in str(fails(guarded(mechanism, faults=faults), AuthenticationFailed))


@pytest.mark.parametrize("stage", ["auth", "auth-response"])
@pytest.mark.parametrize("reply", [b"454 4.7.0 not now\r\n", b"421 4.3.2 closing\r\n"])
def test_a_refusal_for_now_is_no_wrong_password(stage: Stage, reply: bytes) -> None:
    server = guarded("CRAM-MD5", "PLAIN", faults=SmtpFaults(replies={stage: reply}))
    error = fails(server, TemporaryReplyError)
    assert error.exit_code == ExitCode.TEMPFAIL
    assert reply[:3].decode() in str(error)
    # And no reason to try a weaker one.
    assert not any(line.startswith(b"AUTH PLAIN") for line in said(server))


def test_a_server_that_has_had_enough_after_a_refusal() -> None:
    replies: dict[Stage, Any] = {
        "auth": lambda said: b"421 4.7.0 too many errors\r\n" if said.startswith(b"PLAIN") else REFUSED
    }
    text = str(fails(guarded(faults=SmtpFaults(replies=replies)), AuthenticationFailed))
    assert "535 5.7.8 no" in text
    assert "421 4.7.0" in text


def test_a_server_that_hangs_up_after_a_refusal() -> None:
    server = guarded(faults=SmtpFaults(drop="auth", only={"auth": {2}}))
    text = str(fails(server, AuthenticationFailed, WRONG))
    assert "cram-md5 (535 " in text
    assert "plain (" in text
    assert "login (" not in text


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
@pytest.mark.parametrize("fault", ["drop", "hang"])
def test_a_line_that_breaks_in_the_exchange(mechanism: str, fault: str) -> None:
    stage: Stage = "auth" if mechanism == "PLAIN" else "auth-response"
    server = guarded(mechanism, faults=SmtpFaults(drop=stage) if fault == "drop" else SmtpFaults(hang=stage))
    error = fails(server, ConnectionFailed, timeout=0.3)
    assert error.exit_code == ExitCode.TEMPFAIL


@pytest.mark.parametrize(
    ("mechanism", "replies"),
    [
        ("CRAM-MD5", {"auth": b"334 \r\n"}),  # an empty challenge
        ("CRAM-MD5", {"auth": b"235 2.7.0 welcome\r\n"}),  # a yes without one
        ("CRAM-MD5", {"auth": b"354 go ahead\r\n"}),
        ("CRAM-MD5", {"auth-response": b"334 PHguMUB4Pg==\r\n"}),  # one too many
        ("PLAIN", {"auth": b"334 eA==\r\n"}),
        ("PLAIN", {"auth": b"+OK\r\n"}),
        ("LOGIN", {"auth-response": b"334 VXNlcm5hbWU6\r\n"}),
    ],
)
def test_nonsense_in_the_exchange(mechanism: str, replies: dict[Stage, bytes]) -> None:
    error = fails(guarded(mechanism, faults=SmtpFaults(replies=replies)), RemoteProtocolError)
    assert error.exit_code == ExitCode.PROTOCOL


@pytest.mark.parametrize("faults", [{"announce": (b"PIPELINING",)}, {"refuse_ehlo": True}])
def test_a_server_without_auth(faults: dict[str, Any]) -> None:
    server = guarded(faults=SmtpFaults(**faults))
    error = fails(server, AuthenticationFailed)
    assert "does not announce AUTH on a line without TLS" in str(error)
    assert USER in str(error)
    assert said(server) == []


def test_a_server_with_other_mechanisms_only() -> None:
    server = guarded(faults=SmtpFaults(announce=(b"AUTH XOAUTH2 GSSAPI",)))
    error = fails(server, AuthenticationFailed)
    assert "plain (not announced)" in str(error)
    assert "XOAUTH2 GSSAPI" in str(error.hint)
    assert said(server) == []


def test_a_busy_server_has_a_second_address() -> None:
    busy = guarded(faults=SmtpFaults(replies={"auth": b"454 4.7.0 not now\r\n"}))
    with busy, guarded() as server:
        addresses = (Address("127.0.0.1", busy.port), Address("127.0.0.1", server.port))
        session = opened(server, addresses=addresses)
        assert session.server == server.address
        session.quit()


# Encryption


@dataclass(frozen=True)
class Pki:
    trusting: TlsSettings
    context: ssl.SSLContext
    stranger: ssl.SSLContext


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    folder: Path = tmp_path_factory.mktemp("pki")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    contexts = []
    for name in ("127.0.0.1", "other.example"):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(context)
        contexts.append(context)
    return Pki(TlsSettings(ca_file=str(folder / "ca.pem")), *contexts)


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the server look like one on another machine."""
    monkeypatch.setattr(Stream, "is_loopback", property(lambda _: False))
    monkeypatch.setattr(Address, "is_local", property(lambda _: False))


@pytest.mark.usefixtures("far")
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
def test_inside_tls(pki: Pki, mechanism: str) -> None:
    server = guarded(mechanism, context=pki.context, clear=False)
    logs_in(server, tls="required", tls_settings=pki.trusting)
    nothing_leaked(server)
    assert server.sessions[0].verbs[:4] == ["EHLO", "STARTTLS", "EHLO", "AUTH"]
    at_connect = guarded(mechanism, context=pki.context, ssl=True, clear=False)
    logs_in(at_connect, ssl=True, tls="required", tls_settings=pki.trusting)
    nothing_leaked(at_connect)


@pytest.mark.parametrize(
    ("faults", "trusted", "error"),
    [
        ({"announce": (b"AUTH PLAIN LOGIN CRAM-MD5",)}, True, TlsError),
        ({"refuse_ehlo": True}, True, TlsError),
        ({"replies": {"starttls": b"454 4.7.0 not now\r\n"}}, True, TlsError),
        ({"drop": "starttls"}, True, ConnectionFailed),
        ({"starttls_injected": b"250-evil\r\n250 AUTH PLAIN\r\n"}, True, RemoteProtocolError),
        ({}, False, TlsError),
    ],
)
def test_no_credential_before_required_tls(
    pki: Pki, faults: dict[str, Any], trusted: bool, error: type[PoprepError]
) -> None:
    context = pki.context if trusted else pki.stranger
    server = guarded(context=context, faults=SmtpFaults(**faults))
    fails(server, error, tls="required", tls_settings=pki.trusting)
    nothing_leaked(server)
    assert said(server) == []


def test_auth_announced_before_tls_is_void(pki: Pki) -> None:
    """What is announced in the clear counts for nothing inside TLS."""
    replies: dict[Stage, Any] = {"ehlo": b"250-x\r\n250-STARTTLS\r\n250 AUTH PLAIN\r\n"}
    server = guarded("LOGIN", context=pki.context, faults=SmtpFaults(replies=replies, only={"ehlo": {1}}))
    logs_in(server, tls="required", tls_settings=pki.trusting)
    nothing_leaked(server)
    assert said(server)[0] == b"AUTH LOGIN"


@pytest.mark.usefixtures("far")
@pytest.mark.parametrize("tls", ["off", "wanted"])
def test_no_password_in_the_clear(tls: str) -> None:
    server = guarded("PLAIN", "LOGIN")
    text = str(fails(server, AuthenticationFailed, tls=tls))
    assert 'plain (the line is not encrypted; smtp.clear_text = "allow"' in text
    assert said(server) == []
    nothing_leaked(server)


@pytest.mark.usefixtures("far")
def test_a_refused_digest_is_no_reason_to_send_the_password_in_the_clear() -> None:
    server = guarded(faults=refusing(b"CRAM-MD5"))
    text = str(fails(server, AuthenticationFailed))
    assert "cram-md5 (535 " in text
    assert "login (the line is not encrypted" in text
    assert said(server) == [b"AUTH CRAM-MD5"]


@pytest.mark.usefixtures("far")
def test_a_bad_certificate_with_wanted_tls_keeps_the_password_back(pki: Pki) -> None:
    server = guarded("PLAIN", context=pki.stranger)
    fails(server, AuthenticationFailed, tls="wanted", tls_settings=pki.trusting)
    assert len(server.sessions) == 2
    nothing_leaked(server)


@pytest.mark.usefixtures("far")
def test_a_password_in_the_clear_where_it_is_allowed() -> None:
    server = guarded("PLAIN")
    logs_in(server, clear_text="allow")
    assert said(server) == [b"AUTH PLAIN " + PLAIN]


# A whole pass


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = make(tmp_path)
    made.smtp = guarded()
    made.timeout = 5
    return made


def configure(world: World, password: str) -> None:
    world.smtp_lines = f'user = "{USER}"\npassword = "{password}"'
    world.write()


def no_secret_left(world: World) -> None:
    for path in world.state.rglob("*"):
        if path.is_file():
            assert not any(secret in path.read_bytes() for secret in secrets(PASSWORD) | secrets(WRONG)), path


def test_a_pass_with_a_login(world: World) -> None:
    with world.pop3, world.smtp:
        world.letters(3)
        configure(world, PASSWORD)
        world.run().ended(0)
        assert world.arrived == world.sent
        assert world.left == []
        no_secret_left(world)


def test_a_pass_with_a_wrong_password_loses_nothing(world: World) -> None:
    with world.pop3, world.smtp:
        world.letters(12)
        configure(world, WRONG)
        done = world.run()
        assert done.code == ExitCode.NOPERM, done
        assert done.sentences[0].startswith(f"office: {world.smtp.address} refused the login of {USER}: ")
        assert not any(secret.decode() in done.err + done.out for secret in secrets(WRONG))
        held = world.kept("held")
        assert 1 <= len(held) <= 8
        assert world.pop3.retrieved == len(held)
        assert len(world.left) == 12
        assert world.smtp.delivered == []
        assert world.kept("badmail") == []
        assert [slip.get("attempts", 0) for slip in held] == [0] * len(held)  # the messages are not to blame
        no_secret_left(world)

        again = world.run()
        assert again.code == ExitCode.NOPERM, again
        assert len(world.kept("held")) == len(held)  # nothing more is read while SMTP is not to be had
        assert len(world.left) == 12

        configure(world, PASSWORD)
        world.run().ended(0)
        assert Counter(world.arrived) == Counter(world.sent)
        assert world.kept("held") == []
        assert world.left == []
        assert not any(b"Possible-Duplicate" in without_trace(message.content) for message in world.smtp.delivered)
        no_secret_left(world)


def test_a_login_refused_for_now_holds_too(world: World) -> None:
    with world.pop3, world.smtp:
        world.letters(2)
        configure(world, PASSWORD)
        world.smtp.faults = SmtpFaults(replies={"auth": b"454 4.7.0 try later\r\n"})
        done = world.run()
        assert done.code == ExitCode.TEMPFAIL, done
        assert "454 4.7.0 try later" in done.sentences[0]
        assert len(world.kept("held")) == 2
        world.smtp.faults = SmtpFaults()
        world.run().ended(0)
        assert world.arrived == world.sent


def test_a_login_refused_in_the_middle_of_a_pass(world: World) -> None:
    """The server wants a new session after two messages, and doesn't let anybody in any more."""
    with world.pop3, world.smtp:
        world.letters(20)
        configure(world, PASSWORD)
        world.smtp.faults = SmtpFaults(max_messages=2, replies={"auth": REFUSED}, only={"auth": range(2, 99)})
        done = world.run()
        assert done.code == ExitCode.NOPERM, done
        assert len(world.smtp.delivered) == 2
        assert len(world.kept("held")) + 2 == world.pop3.retrieved
        assert world.kept("badmail") == []
        world.smtp.faults = SmtpFaults()
        world.run().ended(0)
        assert Counter(world.arrived) == Counter(world.sent)
        assert world.left == []
