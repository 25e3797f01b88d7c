"""TLS that is stripped, refused, spoilt or not trusted, against each way it is asked for: what happens, and what was seen.

Every row asserts on all octets that the server saw in the clear: no credential in whatever form, and no mail.
"""

from __future__ import annotations

import re
import socket
import ssl
import threading
import time
import warnings
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from msgspec.structs import replace

from poprep_cli.config.model import Address, Pop3, Secret, Smtp, TlsSettings
from poprep_cli.embedded.pop3 import Pop3Faults, Pop3Server
from poprep_cli.embedded.sessions import Session
from poprep_cli.embedded.smtp import SmtpFaults, SmtpServer
from poprep_cli.errors import (
    AuthenticationFailed,
    ConfigError,
    ConnectionFailed,
    ExitCode,
    PoprepError,
    RemoteProtocolError,
    Stopped,
    TlsError,
)
from poprep_cli.net import tls
from poprep_cli.net.login import log_in
from poprep_cli.net.stop import Stop
from poprep_cli.net.stream import Stream
from poprep_cli.net.submission import Submission
from poprep_cli.protocol.sasl.mechanism import Credentials
from tests.net.certificates import MISCHIEF, Pki, Rogue, old

USER, PASSWORD = "office", "tr0ub4dor-and-3"
FORMS = (
    PASSWORD.encode(),
    b64encode(PASSWORD.encode()),
    b64encode(f"\0{USER}\0{PASSWORD}".encode()),
    PASSWORD.encode().hex().encode(),
    b64encode(b"\0" + PASSWORD.encode())[4:-4],
    b64encode(b"\0\0" + PASSWORD.encode())[4:-4],
)
LOGIN = re.compile(rb"^(USER|PASS|APOP|AUTH) ", re.MULTILINE | re.IGNORECASE)  # AUTH alone only asks for a list
MAIL = re.compile(rb"^(MAIL|RCPT|DATA|BDAT)\b", re.MULTILINE | re.IGNORECASE)

NEGOTIATION = ("stripped", "refused", "dropped", "injected with it")  # only with STLS and STARTTLS
CERTIFICATES = ("wrong name", "expired", "not yet valid", "self-signed", "unknown CA")
CLIENT = ("client certificate", "client certificate 1.2")
PROBLEMS = (*NEGOTIATION, *MISCHIEF, *CERTIFICATES, *CLIENT, "old version")

SAYS = {  # what the message says, or the hint
    "stripped": "not offer|n't offer",
    "refused": "refuse[sd] (STLS|STARTTLS)",
    "dropped": "closed the connection",
    "injected with it": "in the clear before TLS began",
    "injected later": "wrong version number",
    "garbage": "handshake with .* failed: wrong version number",
    "hang": "handshake with .* failed: timed out",
    "drip": "handshake with .* failed: timed out",
    "drop": "handshake with .* failed: (eof|connection reset|unexpected eof)",
    "wrong name": r"not trusted as that of 127\.0\.0\.1: .*mismatch.*: other\.example, 192\.0\.2\.1;",
    "expired": r"not trusted as that of 127\.0\.0\.1: certificate has expired.*must renew",
    "not yet valid": r"not trusted as that of 127\.0\.0\.1: certificate is not yet valid.*clock",
    "self-signed": r"not trusted as that of 127\.0\.0\.1: self.signed certificate",
    "unknown CA": r"not trusted as that of 127\.0\.0\.1: unable to get local issuer certificate.*tls_ca_file",
    "client certificate": "certificate required.*tls_client_cert",
    "client certificate 1.2": "handshake failure.*tls_client_cert",
    "old version": "(protocol version|unsupported protocol).*tls_min_version",
}


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def distant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make loopback look like a server far away, to which a line without TLS is not encrypted."""
    monkeypatch.setattr(Address, "is_local", property(lambda _: False))
    monkeypatch.setattr(Stream, "is_loopback", property(lambda _: False))


@dataclass
class Side:
    """A server with a problem, and what a client of it is told."""

    protocol: str
    pki: Pki
    problem: str = ""
    at_connect: bool = False
    digest: bool = True  # whether it has a method that does not give the password away
    asked: str = "required"
    changes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.context = self.pki.context(self.problem)
        self.server = self._pop3() if self.protocol == "pop3" else self._smtp()

    def _pop3(self) -> Pop3Server:
        faults: dict[str, dict[str, Any]] = {
            "stripped": {"capa": (b"TOP", b"UIDL", b"USER")},
            "refused": {"stls": "refuse"},
            "dropped": {"replies": {"STLS": "drop"}},
            "injected with it": {"stls_injected": b"+OK\r\nTOP\r\n.\r\n"},
        }
        found = Pop3Faults(**faults.get(self.problem, {}), apop=self.digest)
        return Pop3Server(user=USER, password=PASSWORD, context=self.context, ssl=self.at_connect, faults=found)

    def _smtp(self) -> SmtpServer:
        faults: dict[str, dict[str, Any]] = {
            "stripped": {"announce": (b"AUTH CRAM-MD5 PLAIN LOGIN" if self.digest else b"AUTH PLAIN LOGIN",)},
            "refused": {"replies": {"starttls": b"454 4.7.0 not now\r\n"}},
            "dropped": {"drop": "starttls"},
            "injected with it": {"starttls_injected": b"250-evil\r\n250 AUTH PLAIN\r\n"},
        }
        return SmtpServer(
            context=self.context,
            ssl=self.at_connect,
            user=USER,
            password=PASSWORD,
            mechanisms=("CRAM-MD5", "PLAIN", "LOGIN") if self.digest else ("PLAIN", "LOGIN"),
            auth_in_clear=True,
            faults=SmtpFaults(**faults.get(self.problem, {})),
        )

    def open(self) -> tuple[str, bool, list[str]]:
        """Log in and leave. Return the last command before that, whether there was TLS, and the warnings."""
        common: dict[str, Any] = {
            "ssl": self.at_connect,
            "tls": self.asked,
            "tls_settings": self.pki.trusting,
            "timeout": 0.3 if self.problem in ("hang", "drip") else 5.0,
        } | self.changes
        address = Address("127.0.0.1", self.server.port)
        secret = Secret(value=PASSWORD)
        if self.protocol == "pop3":
            entered = log_in(Pop3(address=address, user=USER, password=secret, **common), PASSWORD, Stop())
            entered.link.close()
            return entered.method, entered.link.stream.tls, entered.warnings
        smtp = Smtp(addresses=(address,), user=USER, password=secret, **common)
        session = Submission.open(smtp, Stop(), Credentials(USER, PASSWORD))
        session.close()
        auth = next(command.line for command in self.server.sessions[-1].commands if command.verb == "AUTH")
        return auth.split()[1].decode().lower(), session.tls, session.warnings

    @property
    def sessions(self) -> list[Session]:
        return self.server.sessions

    def seen(self) -> list[bytes]:
        """Return all octets that crossed the line in the clear, connection by connection, then those of a spoilt handshake."""
        rogue = [bytes(self.context.seen)] if isinstance(self.context, Rogue) else []
        return [bytes(session.clear) for session in self.sessions] + rogue

    def assert_no_password(self) -> None:
        for octets in self.seen():
            assert not any(form in octets for form in FORMS)
            assert not MAIL.search(octets)

    def assert_no_credential(self) -> None:
        self.assert_no_password()
        for octets in self.seen():
            assert not LOGIN.search(octets)
            assert USER.encode() not in octets


def fails(side: Side, error: type[PoprepError]) -> str:
    """Return what the error says, with its hint."""
    with side.server, pytest.raises(error) as caught:
        side.open()
    assert type(caught.value) is error
    text = f"{caught.value} | {caught.value.hint}"
    assert PASSWORD not in text
    return text


def error_of(protocol: str, problem: str) -> type[PoprepError]:
    """Return the error with which required TLS fails."""
    if problem == "injected with it":
        return RemoteProtocolError
    return ConnectionFailed if (protocol, problem) == ("smtp", "dropped") else TlsError


# The tables


@pytest.mark.usefixtures("distant")
@pytest.mark.parametrize("clear_text", ["encrypted-only", "allow"])
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("protocol", ["pop3", "smtp"])
def test_required(pki: Pki, protocol: str, problem: str, clear_text: str) -> None:
    side = Side(protocol, pki, problem, changes={"clear_text": clear_text})
    began = time.monotonic()
    text = fails(side, error_of(protocol, problem))
    assert time.monotonic() - began < 3
    assert re.search(SAYS[problem], text), text
    side.assert_no_credential()
    assert len(side.sessions) == (2 if problem in CERTIFICATES else 1)
    if problem not in CLIENT:  # else it is over only when the client has said its CAPA or EHLO, inside TLS
        assert not any(session.secured for session in side.sessions)


@pytest.mark.usefixtures("distant")
@pytest.mark.parametrize("asked", ["required", "wanted"])  # of no importance with `ssl`
@pytest.mark.parametrize("problem", PROBLEMS[len(NEGOTIATION) :])
@pytest.mark.parametrize("protocol", ["pop3", "smtp"])
def test_at_connect(pki: Pki, protocol: str, problem: str, asked: str) -> None:
    side = Side(protocol, pki, problem, at_connect=True, asked=asked, changes={"clear_text": "allow"})
    text = fails(side, TlsError)
    assert re.search(SAYS[problem], text), text
    for octets in side.seen():
        assert octets == b"" or octets.startswith(b"\x16\x03")  # nothing but a handshake record (RFC 8446 5.1)
    side.assert_no_credential()
    assert not any(session.secured for session in side.sessions)


@pytest.mark.usefixtures("distant")
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("protocol", ["pop3", "smtp"])
def test_wanted(pki: Pki, protocol: str, problem: str) -> None:
    """It goes on in the clear, says so, and the password stays at home: only a digest is sent."""
    side = Side(protocol, pki, problem, asked="wanted")
    with side.server:
        method, encrypted, told = side.open()
    assert (method, encrypted) == ("apop" if protocol == "pop3" else "cram-md5", False)
    assert len(told) == 1
    assert "going on in the clear" in told[0]
    assert side.server.address in told[0]
    side.assert_no_password()
    same = problem == "stripped" or (protocol, problem) == ("pop3", "refused")  # TLS was not begun on it
    assert len(side.sessions) == (1 if same else 2)
    for before in side.sessions[:-1]:
        assert not LOGIN.search(bytes(before.clear) + bytes(before.secured))
    if not same:
        assert not {"STLS", "STARTTLS"} & set(side.sessions[-1].verbs)


@pytest.mark.usefixtures("distant")
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("protocol", ["pop3", "smtp"])
def test_wanted_with_nothing_but_the_password(pki: Pki, protocol: str, problem: str) -> None:
    """There is no method for a line in the clear; the error says which key allows it, and why there was no TLS."""
    side = Side(protocol, pki, problem, asked="wanted", digest=False)
    text = fails(side, AuthenticationFailed)
    assert f'{protocol}.clear_text = "allow"' in text
    assert "going on in the clear" in text
    side.assert_no_credential()


@pytest.mark.usefixtures("distant")
@pytest.mark.parametrize("protocol", ["pop3", "smtp"])
@pytest.mark.parametrize("asked", ["required", "wanted"])
@pytest.mark.parametrize("at_connect", [True, False])
def test_nothing_wrong(pki: Pki, protocol: str, asked: str, at_connect: bool) -> None:
    side = Side(protocol, pki, asked=asked, at_connect=at_connect, digest=False)
    with side.server:
        _, encrypted, told = side.open()
    assert (encrypted, told) == (True, [])
    assert len(side.sessions) == 1
    side.assert_no_credential()
    assert LOGIN.search(bytes(side.sessions[0].secured))
    if at_connect:
        assert side.seen() == [b""]


@pytest.mark.usefixtures("distant")
@pytest.mark.parametrize("protocol", ["pop3", "smtp"])
def test_wanted_tls_that_worked_is_not_given_up_when_the_login_breaks(pki: Pki, protocol: str) -> None:
    """Trouble after the handshake is no trouble with TLS: there is no second try in the clear."""
    side = Side(protocol, pki, asked="wanted", changes={"clear_text": "allow"})
    if isinstance(side.server, Pop3Server):
        side.server.faults = Pop3Faults(replies=dict.fromkeys(("APOP", "USER", "AUTH"), b"garbage\r\n"))
    else:
        side.server.faults = SmtpFaults(replies={"auth": b"garbage\r\n"})
    fails(side, RemoteProtocolError)
    side.assert_no_credential()


# The certificate in the error


@pytest.mark.parametrize("at_connect", [True, False])
@pytest.mark.parametrize("problem", CERTIFICATES)
@pytest.mark.parametrize("protocol", ["pop3", "smtp"])
def test_the_error_prints_the_fingerprint_to_paste(pki: Pki, protocol: str, problem: str, at_connect: bool) -> None:
    side = Side(protocol, pki, problem, at_connect=at_connect, digest=False)
    text = fails(side, TlsError)
    found = re.search(r'tls_fingerprint = "([0-9a-f]{64})"', text)
    assert found
    assert found[1] == pki.certificates[problem].fingerprint
    usual, looking = side.seen()
    if at_connect:
        assert (usual, looking) == (b"", b"")
    elif protocol == "pop3":
        assert (usual, looking) == (b"CAPA\r\nSTLS\r\n", b"STLS\r\n")
    else:
        assert re.fullmatch(rb"EHLO \S+\r\nSTARTTLS\r\n", looking)
    assert not any(session.secured for session in side.sessions)
    pinned = Side(protocol, pki, problem, at_connect=at_connect, digest=False)
    pinned.changes["tls_settings"] = TlsSettings(fingerprint=found[1])
    with pinned.server:
        assert pinned.open()[1:] == (True, [])
    pinned.assert_no_credential()


@pytest.mark.parametrize("protocol", ["pop3", "smtp"])
@pytest.mark.parametrize("at_connect", [True, False])
def test_a_pin_is_the_only_thing_that_counts(pki: Pki, protocol: str, at_connect: bool) -> None:
    """A certificate that the CA vouches for is not enough; the error tells the one that is there."""
    pin = TlsSettings(ca_file=pki.trusting.ca_file, fingerprint="ab" * 32)
    side = Side(protocol, pki, at_connect=at_connect, changes={"tls_settings": pin})
    text = fails(side, TlsError)
    assert "not the pinned one" in text
    assert pki.good.fingerprint in text
    side.assert_no_credential()
    assert len(side.sessions) == 1
    assert not side.sessions[0].secured


@pytest.mark.parametrize("protocol", ["pop3", "smtp"])
def test_a_certificate_that_can_not_be_read_a_second_time(pki: Pki, protocol: str) -> None:
    """The error stays what it is, and comes soon."""
    side = Side(protocol, pki, "self-signed", changes={"timeout": 0.3})
    contexts: Iterator[Any] = iter([side.context, Rogue(MISCHIEF["drip"])])

    class Changing:
        def wrap_socket(self, connection: socket.socket, *, server_side: bool) -> socket.socket:
            wrapped: socket.socket = next(contexts).wrap_socket(connection, server_side=server_side)
            return wrapped

    side.server.context = Changing()  # type: ignore[assignment]
    began = time.monotonic()
    text = fails(side, TlsError)
    assert time.monotonic() - began < 2
    assert "not trusted as that of 127.0.0.1" in text
    assert "tls_fingerprint" not in text
    assert len(side.sessions) == 2


def test_a_stop_while_the_certificate_is_read() -> None:
    error = TlsError("not trusted")
    error.__cause__ = ssl.SSLCertVerificationError()

    def stopped() -> bytes:
        raise Stopped

    with pytest.raises(Stopped):
        tls.add_fingerprint(error, stopped)


# Names


@dataclass(frozen=True)
class Shown:
    """What a server was asked for and what came of the handshake."""

    name: str | None
    error: PoprepError | None


def handshake(host: str, server: ssl.SSLContext, settings: TlsSettings) -> Shown:
    """Shake hands over a pair of sockets, so that the host may be any."""
    asked: list[str | None] = []
    server.sni_callback = lambda _socket, name, _context: asked.append(name)
    ours, theirs = socket.socketpair()
    stop = Stop()

    def serve() -> None:
        try:
            with server.wrap_socket(theirs, server_side=True) as wrapped:
                wrapped.recv(1)
        except OSError:
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    stream = Stream(ours, "server", host, stop)
    error = None
    try:
        stream.start_tls(settings, 5.0)
    except PoprepError as caught:
        error = caught
    finally:
        stream.close()
        thread.join()
    return Shown(asked[0] if asked else None, error)


@pytest.mark.parametrize(
    ("host", "names", "trusted"),
    [
        ("mail.example.net", ["mail.example.net"], True),
        ("mail.example.net", ["a.example", "mail.example.net"], True),
        ("mail.example.net", ["MAIL.example.net"], True),
        ("mail.example.net.", ["mail.example.net"], True),
        ("mail.example.net", ["*.example.net"], True),
        ("a.mail.example.net", ["*.example.net"], False),
        ("example.net", ["*.example.net"], False),
        ("mail.example.net", ["*"], False),
        ("mail.example.net", ["*.*.net"], False),
        ("mail.example.net", ["example.net"], False),
        ("mail.example.net", [x509.DNSName("mail.example.net\0.evil.example")], False),
        ("mail.example.net", [x509.DNSName("mail.example.net\n")], False),
        ("mail.example.net", [x509.RFC822Name("mail.example.net")], False),
        ("mail.example.net", [x509.UniformResourceIdentifier("https://mail.example.net")], False),
        ("bücher.example", ["bücher.example"], True),
        ("bücher.example", ["bucher.example"], False),
        ("192.0.2.1", ["192.0.2.1"], True),
        ("192.0.2.1", ["192.0.2.2"], False),
        ("192.0.2.1", [x509.DNSName("192.0.2.1")], False),
        ("192.0.2.1", [x509.DNSName("*.0.2.1")], False),
        ("2001:db8::1", ["2001:db8::1"], True),
        ("2001:db8::1", ["2001:db8::2"], False),
        ("fe80::1%eth0", ["fe80::1"], True),
        ("", ["localhost"], True),  # a unix socket
    ],
)
def test_names(pki: Pki, host: str, names: list[Any], trusted: bool) -> None:
    shown = handshake(host, pki.authority.issue(*names).context(), pki.trusting)
    assert (shown.error is None) == trusted, shown.error
    if shown.error is not None:
        assert isinstance(shown.error, TlsError)
        assert f"as that of {host}" in str(shown.error)
        assert str(shown.error).isprintable()


def test_a_name_that_is_not_ascii_is_asked_for_by_its_a_label(pki: Pki) -> None:
    shown = handshake("bücher.example", pki.good.context(), pki.trusting)
    assert shown.name == "xn--bcher-kva.example"
    assert "bücher.example (xn--bcher-kva.example)" in str(shown.error)


def test_an_address_is_not_asked_for_by_name(pki: Pki) -> None:
    assert handshake("192.0.2.1", pki.good.context(), pki.trusting).name is None  # RFC 6066 3


def test_a_host_that_is_no_name(pki: Pki) -> None:
    error = handshake("a" * 64 + ".ä", pki.good.context(), pki.trusting).error
    assert isinstance(error, TlsError)
    assert "can't be set up" in str(error)


def test_the_systems_store_is_the_default(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate of a CA that the system doesn't know is refused; the store is what OpenSSL finds by itself."""
    server = pki.authority.issue("mail.example.net").context()
    error = handshake("mail.example.net", server, TlsSettings()).error
    assert "unable to get local issuer certificate" in str(error)
    monkeypatch.setenv("SSL_CERT_FILE", str(pki.authority.path))
    settings = TlsSettings(client_cert=str(pki.client.path))  # other settings, so another context
    assert handshake("mail.example.net", server, settings).error is None


def test_a_ca_file_replaces_the_systems_store(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(pki.authority.path))
    server = pki.authority.issue("mail.example.net").context()
    error = handshake("mail.example.net", server, TlsSettings(ca_file=str(pki.stranger.path))).error
    assert "not trusted" in str(error)


def test_the_servers_own_certificate_as_ca_file(pki: Pki) -> None:
    own = pki.authority.issue("mail.example.net")
    settings = TlsSettings(ca_file=str(own.path))
    assert handshake("mail.example.net", own.context(), settings).error is None
    assert handshake("mail.example.com", own.context(), settings).error is not None  # for its names only


def test_without_verification_any_certificate_will_do(pki: Pki) -> None:
    settings = TlsSettings(verify=False)
    assert handshake("mail.example.net", pki.context("self-signed"), settings).error is None


def test_a_server_without_a_certificate_is_refused_even_if_old_versions_are_allowed(pki: Pki) -> None:
    """Anonymous key exchange would be encryption with nobody knows whom."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.maximum_version = ssl.TLSVersion.TLSv1_2
    server.set_ciphers("aNULL:@SECLEVEL=0")
    for settings in (TlsSettings(min_version="1.0"), TlsSettings(verify=False, min_version="1.0"), TlsSettings()):
        assert isinstance(handshake("mail.example.net", server, settings).error, TlsError)


# Versions


def speaks(low: ssl.TLSVersion, pki: Pki) -> ssl.SSLContext:
    """Return the context of a server that speaks one version only."""
    made = pki.authority.issue("mail.example.net").context()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        made.minimum_version = made.maximum_version = low
    made.set_ciphers("DEFAULT:@SECLEVEL=0")
    return made


@pytest.mark.parametrize("allowed", ["1.0", "1.1", "1.2", "1.3"])
@pytest.mark.parametrize("spoken", ["1.0", "1.1", "1.2", "1.3"])
def test_versions(pki: Pki, spoken: str, allowed: Any) -> None:
    """A version is used if it is allowed. OpenSSL as Debian builds it can still do all four."""
    version = ssl.TLSVersion[f"TLSv{spoken.replace('.', '_').removesuffix('_0')}"]
    settings = replace(pki.trusting, min_version=allowed)
    error = handshake("mail.example.net", speaks(version, pki), settings).error
    assert (error is None) == (spoken >= allowed), error
    if error is not None:
        assert "tls_min_version" in str(error.hint)


def test_the_default_is_1_2(pki: Pki) -> None:
    assert TlsSettings().min_version == "1.2"
    assert tls.context_for(pki.trusting).minimum_version is ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize("protocol", ["pop3", "smtp"])
def test_an_old_server_where_it_is_allowed(pki: Pki, protocol: str) -> None:
    side = Side(protocol, pki, "old version", digest=False)
    side.changes["tls_settings"] = replace(pki.trusting, min_version="1.1")
    with side.server:
        assert side.open()[1:] == (True, [])
    side.assert_no_credential()


@pytest.mark.parametrize("allowed", ["1.0", "1.1"])
def test_old_versions_weaken_no_check_of_the_certificate(pki: Pki, allowed: Any) -> None:
    settings = replace(pki.trusting, min_version=allowed)
    assert handshake("127.0.0.1", old(pki.certificates["wrong name"].context()), settings).error is not None
    assert handshake("127.0.0.1", old(pki.certificates["self-signed"].context()), settings).error is not None


# Client certificates


@pytest.mark.parametrize("protocol", ["pop3", "smtp"])
@pytest.mark.parametrize("problem", CLIENT)
@pytest.mark.parametrize("at_connect", [True, False])
def test_a_client_certificate(pki: Pki, protocol: str, problem: str, at_connect: bool) -> None:
    side = Side(protocol, pki, problem, at_connect=at_connect, digest=False)
    side.changes["tls_settings"] = replace(pki.trusting, client_cert=str(pki.client.path))
    with side.server:
        assert side.open()[1:] == (True, [])
    side.assert_no_credential()


@pytest.mark.parametrize("protocol", ["pop3", "smtp"])
@pytest.mark.parametrize("problem", CLIENT)
def test_a_client_certificate_that_the_server_does_not_accept(pki: Pki, protocol: str, problem: str) -> None:
    side = Side(protocol, pki, problem)
    stranger = pki.stranger.issue("client.example")
    side.changes["tls_settings"] = replace(pki.trusting, client_cert=str(stranger.path))
    assert re.search("(unknown ca|certificate).*tls_client_cert", fails(side, TlsError))
    side.assert_no_credential()


def test_certificate_and_key_in_files_of_their_own(pki: Pki, tmp_path: Path) -> None:
    text = pki.client.path.read_text("ascii")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    border = text.index("-----BEGIN CERTIFICATE")
    key.write_text(text[:border], "ascii")
    certificate.write_text(text[border:], "ascii")
    side = Side("pop3", pki, "client certificate")
    side.changes["tls_settings"] = replace(pki.trusting, client_cert=str(certificate), client_key=str(key))
    with side.server:
        assert side.open()[1]


def broken(pki: Pki, tmp_path: Path) -> Iterator[tuple[dict[str, str], str]]:
    """Yield settings that can't be used, and what is said of them."""
    missing, empty = str(tmp_path / "missing.pem"), tmp_path / "empty.pem"
    empty.write_bytes(b"")
    other = str(pki.good.path)
    locked = str(pki.authority.issue("client.example", passphrase=b"secret").path)
    yield {"ca_file": missing}, "tls_ca_file .*missing.pem: .*no such file"
    yield {"ca_file": str(empty)}, "tls_ca_file .*empty.pem: .*no certificate"
    yield {"client_cert": missing}, "tls_client_cert .*missing.pem: .*no such file"
    yield {"client_cert": str(empty)}, "tls_client_cert .*empty.pem: it can't be used"
    yield {"client_cert": str(pki.client.path), "client_key": other}, "key values mismatch"
    yield {"client_cert": locked}, "encrypted, and nobody is there to type its passphrase"


def test_files_that_can_not_be_used(pki: Pki, tmp_path: Path) -> None:
    """They are the configuration's fault, told at once: nobody is asked for a passphrase."""
    for settings, says in broken(pki, tmp_path):
        with pytest.raises(ConfigError, match=says) as caught:
            tls.context_for(TlsSettings(**settings))  # type: ignore[arg-type]
        assert caught.value.exit_code is ExitCode.CONFIG


def test_our_certificate_is_not_shown_to_a_server_that_is_not_trusted(pki: Pki) -> None:
    """The connection that only reads the server's certificate is for anybody to answer."""
    settings = tls.unverified(replace(pki.trusting, client_cert=str(pki.client.path), min_version="1.1"))
    assert settings == TlsSettings(verify=False, min_version="1.1")
