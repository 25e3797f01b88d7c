"""A POP3 server on loopback whose AUTH exchanges are the server halves of scramp and pyspnego, and of TLS itself.

The methods are those that no packaged server offers. It knows no maildrop: after a login it says +OK to everything.
"""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import ssl
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Self

import spnego
import trustme
from scramp import ScramException, ScramMechanism
from spnego.channel_bindings import GssChannelBindings
from spnego.exceptions import SpnegoError

from poprep_cli.config.model import Address, Pop3, Secret, TlsSettings
from poprep_cli.embedded.channel import Channel
from poprep_cli.embedded.listener import Listener
from poprep_cli.embedded.sessions import Session
from poprep_cli.net.login import Session as Login
from poprep_cli.net.login import log_in
from poprep_cli.net.stop import Stop

USER = "office"
PASSWORD = "tr0ub4dor-and-3"
TIMESTAMP = b"<1896.697170952@scripted.invalid>"


class Refusal(Exception):  # noqa: N818 - what the server says, not what is wrong with it
    """The server says no. `before` is what it sends in the exchange first, such as SCRAM's error."""

    def __init__(self, before: bytes = b"") -> None:
        super().__init__()
        self.before = before


class Exchange:
    """One AUTH exchange as the server half of a mechanism sees it: octets, base64 undone. `heard` is what came."""

    def __init__(self, channel: Channel, initial: bytes | None) -> None:
        self._channel = channel
        self._initial = initial
        self.heard: list[bytes] = []

    def first(self) -> bytes:
        """Return the initial response, asked for by an empty challenge if it did not come with AUTH."""
        if self._initial is None:
            return self.ask(b"")
        return self._take(self._initial)

    def ask(self, challenge: bytes) -> bytes:
        """Send a challenge and return the response to it."""
        self._channel.write(b"+ " + base64.b64encode(challenge) + b"\r\n")
        line = self._channel.line()
        self._channel.session.add_command(line)
        if line == b"*":
            raise Refusal
        return self._take(line)

    def certificate(self) -> Mapping[str, Any]:
        """Return what TLS knows of the client's certificate, nothing where there was none."""
        return getattr(self._channel._socket, "getpeercert", dict)() or {}

    def unique(self) -> bytes:
        """Return the tls-unique data of the TLS session."""
        found: bytes = self._channel._socket.get_channel_binding("tls-unique")  # type: ignore[attr-defined]
        return found

    def refuse(self) -> None:
        """Say no, and return when the next command has come."""
        self._channel.write(b"-ERR no\r\n")
        self._channel.session.add_command(self._channel.line())

    def drop(self) -> NoReturn:
        """Break the line."""
        self._channel.drop()

    def hang(self) -> NoReturn:
        """Say nothing any more."""
        self._channel.hang()

    def _take(self, line: bytes) -> bytes:
        self.heard.append(base64.b64decode(line.removeprefix(b"="), validate=True))
        return self.heard[-1]


Half = Callable[[Exchange], None]  # returns for a success, raises Refusal


class Scripted:
    """The server: `halves` by mechanism, what CAPA announces (None: -ERR) and what AUTH alone lists (None: -ERR).

    `refusal` is what it says when a login fails; with `echoes` it repeats there what the client has sent, without the
    verbs. Every exchange is kept in `exchanges`.
    """

    def __init__(
        self,
        halves: Mapping[str, Half] | None = None,
        *,
        capa: Sequence[str] | None = (),
        listed: Sequence[str] | None = None,
        context: ssl.SSLContext | None = None,
        timestamp: bool = False,
        user: bool = False,
        refusal: bytes = b"-ERR [AUTH] no",
        echoes: bool = False,
        password: str = PASSWORD,
    ) -> None:
        self.halves = dict(halves or {})
        self.capa = capa
        self.listed = listed
        self.timestamp = timestamp
        self.user = user
        self.refusal = refusal
        self.echoes = echoes
        self.password = password
        self.exchanges: list[Exchange] = []
        self._listener = Listener(self._converse, context=context, ssl=context is not None)

    @property
    def port(self) -> int:
        return self._listener.port

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def sessions(self) -> list[Session]:
        return self._listener.sessions

    @property
    def lines(self) -> list[list[str]]:
        """What each session was told, responses left out: "CAPA", "AUTH NTLM", "USER" ..."""
        keep = ("CAPA", "AUTH", "APOP", "USER", "PASS")
        return [
            [
                " ".join(command.line.decode("latin-1").split()[: 2 if command.verb == "AUTH" else 1])
                for command in session.commands
                if command.verb in keep
            ]
            for session in self.sessions
        ]

    def __enter__(self) -> Self:
        self._listener.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.stop()

    def _converse(self, channel: Channel) -> None:
        channel.write(b"+OK ready%s\r\n" % (b" " + TIMESTAMP if self.timestamp else b""))
        while True:
            line = channel.line()
            verb, argument = channel.session.add_command(line)
            if verb == "QUIT":
                channel.session.quit = True
                channel.write(b"+OK\r\n")
                return
            rule = {"CAPA": self._capa, "AUTH": self._auth, "APOP": self._apop, "USER": self._user}.get(verb)
            channel.write(rule(channel, argument) if rule else b"-ERR unknown\r\n")

    def _capa(self, _: Channel, __: bytes) -> bytes:
        if self.capa is None:
            return b"-ERR unknown\r\n"
        names = [f"SASL {' '.join(self.capa)}"] if self.capa else []
        return _block(["RESP-CODES", *(["USER"] if self.user else []), *names])

    def _auth(self, channel: Channel, argument: bytes) -> bytes:
        if not argument:
            return b"-ERR unknown\r\n" if self.listed is None else _block(self.listed)
        name, _, initial = argument.partition(b" ")
        half = self.halves.get(name.decode("latin-1").upper())
        if half is None:
            return self._refused(channel)
        exchange = Exchange(channel, initial or None)
        self.exchanges.append(exchange)
        try:
            half(exchange)
        except Refusal as refusal:
            if refusal.before:
                with suppress(Refusal):
                    exchange.ask(refusal.before)
            return self._refused(channel)
        return b"+OK in\r\n"

    def _apop(self, channel: Channel, argument: bytes) -> bytes:
        digest = hashlib.md5(TIMESTAMP + self.password.encode(), usedforsecurity=False).hexdigest()
        return b"+OK in\r\n" if argument == f"{USER} {digest}".encode() else self._refused(channel)

    def _user(self, channel: Channel, _: bytes) -> bytes:
        channel.write(b"+OK\r\n")
        line = channel.line()
        channel.session.add_command(line)
        return b"+OK in\r\n" if line == f"PASS {self.password}".encode() else self._refused(channel)

    def _refused(self, channel: Channel) -> bytes:
        if not self.echoes:
            return self.refusal + b"\r\n"
        words = [command.line.split(b" ")[-1] for command in channel.session.commands]
        for word in tuple(words):  # and as it was before base64, without what can't be on one line
            with suppress(ValueError):
                words += [part for part in base64.b64decode(word, validate=True).split(b"\0") if part.isascii()]
        return self.refusal + b" you said " + b" ".join(words) + b"\r\n"


def _block(lines: Sequence[str]) -> bytes:
    return "".join(f"{line}\r\n" for line in ("+OK", *lines, ".")).encode()


# The server halves


def scram(
    name: str,
    *,
    password: str = PASSWORD,
    certificate: str | None = None,
    unique: bool = False,
    tampered: Callable[[str], str] = lambda message: message,
) -> Half:
    """Return scramp's half of a mechanism. It binds the channel to its own `certificate` (PEM), or by tls-unique.

    `tampered` changes what the server says.
    """
    mechanism = ScramMechanism(name)
    known = mechanism.make_auth_info(password)
    end_point = ("tls-server-end-point", certificate) if certificate else None

    def half(exchange: Exchange) -> None:
        binding = ("tls-unique", exchange.unique()) if unique else end_point
        server = mechanism.make_server(lambda user: known if user == USER else None, channel_binding=binding)
        try:
            server.set_client_first(exchange.first().decode())
            server.set_client_final(exchange.ask(tampered(server.get_server_first()).encode()).decode())
        except ScramException as error:
            told = f"e={error.server_error.value}".encode() if error.server_error else b""
            raise Refusal(told) from error
        exchange.ask(tampered(server.get_server_final()).encode())

    return half


def ntlm(*, binding: bytes | None = None) -> Half:
    """Return pyspnego's half of NTLM, for the accounts of `ntlm_accounts`. `binding` is the server's own end of TLS."""
    bindings = GssChannelBindings(application_data=b"tls-server-end-point:" + binding) if binding else None

    def half(exchange: Exchange) -> None:
        server = spnego.server(protocol="ntlm", options=spnego.NegotiateOptions.use_ntlm)
        try:
            challenge = server.step(exchange.first()) or b""
            server.step(exchange.ask(challenge), channel_bindings=bindings)
        except SpnegoError as error:
            raise Refusal from error

    return half


def external(identity: str) -> Half:
    """Return the half that believes the client's certificate, if it is that of `identity` and the client says so."""

    def half(exchange: Exchange) -> None:
        names = exchange.certificate().get("subjectAltName", ())
        if exchange.first().decode() != identity or ("email", identity) not in names:
            raise Refusal

    return half


def plain(exchange: Exchange) -> None:
    """Take the one right password."""
    if exchange.first() != f"\0{USER}\0{PASSWORD}".encode():
        raise Refusal


def cram_md5(exchange: Exchange) -> None:
    """Refuse whatever the answer is."""
    exchange.ask(TIMESTAMP)
    raise Refusal


def refuses(exchange: Exchange) -> NoReturn:
    """Refuse at once."""
    raise Refusal


def drops(exchange: Exchange) -> NoReturn:
    """Hang up at once."""
    exchange.drop()


def hangs(exchange: Exchange) -> NoReturn:
    """Say nothing."""
    exchange.hang()


@contextmanager
def ntlm_accounts(*lines: str) -> Iterator[None]:
    """Let pyspnego's server half know these accounts, each DOMAIN:USER:PASSWORD."""
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder, "users")
        store.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        before = os.environ.get("NTLM_USER_FILE")
        os.environ["NTLM_USER_FILE"] = str(store)
        try:
            yield
        finally:
            del os.environ["NTLM_USER_FILE"]
            if before is not None:
                os.environ["NTLM_USER_FILE"] = before


# TLS


@dataclass(frozen=True)
class Pki:
    """An authority, the server's certificate, another one for the same name, and the client's."""

    ca_file: str
    context: ssl.SSLContext
    certificate: str  # PEM
    other: ssl.SSLContext
    client: str

    @property
    def trusting(self) -> TlsSettings:
        return TlsSettings(ca_file=self.ca_file)

    @property
    def presenting(self) -> TlsSettings:
        return TlsSettings(ca_file=self.ca_file, client_cert=self.client)

    @property
    def binding(self) -> bytes:
        """The tls-server-end-point data of the server's certificate, which is signed with SHA-256 (RFC 5929 4.1)."""
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(self.certificate)).digest()


def make_pki(folder: Path, identity: str) -> Pki:
    """Return a new PKI whose files are in `folder`; `identity` is the mail address in the client's certificate."""
    authority = trustme.CA()
    ca_file, client = folder / "ca.pem", folder / "client.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    authority.issue_cert(identity).private_key_and_cert_chain_pem.write_to_path(str(client))
    contexts, certificates = [], []
    for _ in range(2):
        issued = authority.issue_cert("127.0.0.1")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        issued.configure_cert(context)
        context.load_verify_locations(str(ca_file))
        context.verify_mode = ssl.CERT_OPTIONAL
        contexts.append(context)
        certificates.append(issued.cert_chain_pems[0].bytes().decode())
    return Pki(str(ca_file), contexts[0], certificates[0], contexts[1], str(client))


@dataclass
class Between:
    """Somebody in between with a certificate of his own: ends the client's TLS, and speaks TLS of his with the server.

    What the server says goes through `change` on its way to the client. A context manager; it knows its `port`.
    """

    server: Scripted
    context: ssl.SSLContext
    change: Callable[[bytes], bytes] = lambda data: data
    port: int = 0
    _listening: list[socket.socket] = field(default_factory=list)

    def __enter__(self) -> Self:
        listening = socket.create_server(("127.0.0.1", 0))
        self.port = listening.getsockname()[1]
        self._listening.append(listening)
        threading.Thread(target=self._accept, args=(listening,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for some in self._listening:
            with suppress(OSError):
                some.shutdown(socket.SHUT_RDWR)
            some.close()

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                plain, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=self._pass_on, args=(plain,), daemon=True).start()

    def _pass_on(self, plain: socket.socket) -> None:
        lax = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        lax.check_hostname = False
        lax.verify_mode = ssl.CERT_NONE
        with (
            self.context.wrap_socket(plain, server_side=True) as client,
            lax.wrap_socket(socket.create_connection(("127.0.0.1", self.server.port))) as server,
        ):
            # A POP3 login speaks in turns: the server first, then line by line, CAPA in several.
            try:
                while said := server.recv(65_536):
                    client.sendall(self.change(said))
                    server.sendall(client.recv(65_536) or b"QUIT\r\n")
            except OSError:
                return


# The client


def settings(port: int, *auth: str, **changes: Any) -> Pop3:
    """Return the settings for a server on loopback, with these methods."""
    defaults: dict[str, Any] = {
        "address": Address("127.0.0.1", port),
        "tls": "off",
        "user": USER,
        "password": Secret(value=PASSWORD),
        "auth": auth,
        "timeout": 5.0,
    }
    return Pop3(**(defaults | changes))


@contextmanager
def logged_in(server: Scripted, *auth: str, password: str = PASSWORD, **changes: Any) -> Iterator[Login]:
    """Run a server and log in to it."""
    with server:
        session = log_in(settings(server.port, *auth, **changes), password, Stop())
        try:
            yield session
        finally:
            session.link.close()
