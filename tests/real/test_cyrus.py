"""What Dovecot lacks: NTLM, and mechanisms that AUTH without argument lists. Passes from Cyrus, and what they put on the wire."""

from __future__ import annotations

import socket
import struct
import subprocess
from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Self

import pytest

from poprep_cli.config.model import Address, Pop3, Secret, TlsSettings
from poprep_cli.embedded.deliveries import without_trace
from poprep_cli.embedded.smtp import SmtpServer
from poprep_cli.net.detect import NO_MEMORY, Memory
from poprep_cli.net.dialogue import Dialogue
from poprep_cli.net.login import Session, log_in
from poprep_cli.net.stop import Stop
from poprep_cli.protocol.pop3 import QUIT
from poprep_cli.protocol.sasl.methods import Pop3Method
from tests.real.cyrus import MECHANISMS, Cyrus
from tests.real.passes import Passes, Table
from tests.real.private import wait_until
from tests.real.raw import Line

pytestmark = pytest.mark.real

USERS = {"joe": "tr0ub4dor-and-3", "ann": "größer, besser=schneller"}
SASL: tuple[Pop3Method, ...] = ("scram-sha-256", "scram-sha-1", "cram-md5", "ntlm", "plain", "login")
METHODS: tuple[Pop3Method, ...] = (*SASL, "apop", "user")
MAIL = (
    b"From: a@example.net\r\nSubject: dots\r\n\r\n.\r\n..two\r\n.three\r\nend\r\n",
    b"From: b@example.net\r\nSubject: octets\r\n\r\n" + bytes(range(128, 256)) + b"\t\x01\x7f\r\n",
    b"From: c@example.net\r\nSubject: long\r\n\r\n" + b"".join(b"%06d\r\n" % number for number in range(40_000)),
    b"From: d@example.net\r\nSubject: no body\r\n\r\n",
)


class Recorder:
    """A port of 127.0.0.1 that leads to another one, inside its `with` block. `sent` is what the clients sent so far."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.sent = bytearray()
        self._open: list[socket.socket] = []
        self._threads: list[Thread] = []

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits for a client
        for thread in self._threads[:1]:
            thread.join()
        for line in self._open:
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for line in (*self._open, self._listener):
            line.close()

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = Thread(target=target, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):  # the listener was shut down
            while True:
                client = self._listener.accept()[0]
                self._open.append(client)
                server = socket.create_connection(("127.0.0.1", self._target))
                self._open.append(server)
                self._start(self._carry, client, server, self.sent)
                self._start(self._carry, server, client, bytearray())

    @staticmethod
    def _carry(source: socket.socket, sink: socket.socket, record: bytearray) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                record += data
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    @property
    def lines(self) -> list[bytes]:
        """The lines that the clients sent, without CRLF."""
        return bytes(self.sent).split(b"\r\n")[:-1]

    @property
    def logins(self) -> list[bytes]:
        """The commands by which the clients tried to log in, without arguments but the mechanism's name."""
        words = [line.split() for line in self.lines]
        begun = [b" ".join(line[:2]) for line in words if line[:1] == [b"AUTH"] and len(line) > 1]
        return begun + [line[0] for line in words if line[:1] in ([b"APOP"], [b"PASS"])]


@pytest.fixture(scope="module")
def cyrus() -> Iterator[Cyrus]:
    with Cyrus(USERS) as server:
        yield server


@pytest.fixture
def filled(cyrus: Cyrus) -> dict[str, bytes]:
    """The mail in the maildrop by UIDL, as the server gives it."""
    cyrus.empty("joe")
    for content in MAIL:
        cyrus.deliver("joe", content)
    return cyrus.left("joe")


@pytest.fixture
def smtp() -> Iterator[SmtpServer]:
    with SmtpServer() as server:
        yield server


def configured(folder: Path, smtp: SmtpServer, port: int, **pop3: str | bool | list[str]) -> Passes:
    """Return passes that delete what they delivered. Without other settings the line is in the clear."""
    passes = Passes(folder)
    settings: Table = {"host": f"localhost:{port}", "password": USERS["joe"], "tls": "off", **pop3}
    passes.configure(pop3=settings, smtp={"host": smtp.address}, server_copy={"leave_copy": False})
    return passes


def arrived(smtp: SmtpServer) -> Counter[bytes]:
    """Return what was delivered, without the trace that the pass puts in front."""
    return Counter(without_trace(message.content) for message in smtp.delivered)


def verb(method: str) -> bytes:
    """Return what a login by this method begins with, as `Recorder.logins` tells it."""
    return {"user": b"PASS", "apop": b"APOP"}.get(method, b"AUTH " + method.upper().encode())


def settings(cyrus: Cyrus, user: str = "joe", **changes: object) -> Pop3:
    """Return settings for a login over STLS."""
    defaults: dict[str, object] = {
        "address": Address("localhost", cyrus.port),
        "tls": "required",
        "tls_settings": TlsSettings(ca_file=str(cyrus.ca_file)),
        "user": user,
        "password": Secret(value=USERS[user]),
        "timeout": 20.0,
    }
    return Pop3(**(defaults | changes))  # type: ignore[arg-type]


def enter(pop3: Pop3, password: str, memory: Memory = NO_MEMORY, told: list[str] | None = None) -> Session:
    """Log in and take leave, which shows that the server is in the TRANSACTION state. The transcript goes to `told`."""
    dialogue = Dialogue("POP3", lambda _level, text: told.append(text) if told is not None else None, 4)
    session = log_in(pop3, password, Stop(), memory, dialogue)
    try:
        assert session.link.ask(QUIT).ok
    finally:
        session.link.close()
    return session


# Whole passes


@pytest.mark.parametrize("method", METHODS)
def test_a_pass_by_each_method_alone(
    cyrus: Cyrus, smtp: SmtpServer, filled: dict[str, bytes], method: str, tmp_path: Path
) -> None:
    with Recorder(cyrus.port) as recorder:
        configured(tmp_path, smtp, recorder.port, auth=[method]).poll()
    assert recorder.logins == [verb(method)]
    assert len(filled) == len(MAIL)
    assert arrived(smtp) == Counter(filled.values())
    assert cyrus.left("joe") == {}


@pytest.mark.parametrize("method", METHODS)
def test_a_pass_by_each_method_alone_over_stls(
    cyrus: Cyrus, smtp: SmtpServer, filled: dict[str, bytes], method: str, tmp_path: Path
) -> None:
    with Recorder(cyrus.port) as recorder:
        tls: Table = {"tls": "required", "tls_ca_file": str(cyrus.ca_file)}
        configured(tmp_path, smtp, recorder.port, auth=[method], **tls).poll()
    assert recorder.logins == []  # it is nowhere to be seen
    assert b"STLS" in recorder.lines[:3]
    assert arrived(smtp) == Counter(filled.values())
    assert cyrus.left("joe") == {}


@pytest.mark.parametrize("method", METHODS)
def test_a_wrong_password(
    cyrus: Cyrus, smtp: SmtpServer, filled: dict[str, bytes], method: str, tmp_path: Path
) -> None:
    passes = configured(tmp_path, smtp, cyrus.port, auth=[method], password="not-that-one")
    done = subprocess.run(
        passes.command, env=passes.environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (77, "")
    assert "refused the login of joe" in done.stderr
    assert method in done.stderr
    assert "not-that-one" not in done.stderr
    assert smtp.delivered == []
    assert cyrus.left("joe") == filled


def test_everything_enabled_is_one_login_by_scram(
    cyrus: Cyrus, smtp: SmtpServer, filled: dict[str, bytes], tmp_path: Path
) -> None:
    with Recorder(cyrus.port) as recorder:
        passes = configured(tmp_path, smtp, recorder.port)
        passes.poll()
        passes.poll()
    assert recorder.logins == [b"AUTH SCRAM-SHA-256"] * 2
    assert USERS["joe"].encode() not in recorder.sent
    assert arrived(smtp) == Counter(filled.values())


# What the server announces


def test_auth_without_argument_lists_the_mechanisms(cyrus: Cyrus) -> None:
    with Line(cyrus.port) as line:
        assert line.line().startswith(b"+OK")
        line.pop3(b"AUTH")
        assert line.block().decode("ascii").split() == list(MECHANISMS)
        line.pop3(b"QUIT")


@pytest.mark.parametrize("method", SASL)
def test_what_only_auth_without_argument_announces_is_used(
    cyrus: Cyrus, smtp: SmtpServer, filled: dict[str, bytes], method: str, tmp_path: Path
) -> None:
    with Recorder(cyrus.port) as recorder:
        configured(tmp_path, smtp, recorder.port, auth=[method], detect=["auth"]).poll()
    assert recorder.lines[0] == b"AUTH"
    assert recorder.lines[1] == verb(method)  # no initial response: that is for servers with CAPA
    assert arrived(smtp) == Counter(filled.values())


@pytest.mark.parametrize(
    ("detect", "first"),
    [(["auth"], "scram-sha-256"), (["capa"], "scram-sha-256"), (["welcome"], "apop"), ([], "user")],
)
def test_the_detectors_decide_what_is_tried(
    cyrus: Cyrus,
    smtp: SmtpServer,
    filled: dict[str, bytes],
    detect: list[str],
    first: str,
    tmp_path: Path,
) -> None:
    with Recorder(cyrus.port) as recorder:
        configured(tmp_path, smtp, recorder.port, detect=detect).poll()
    assert recorder.logins == [verb(first)]
    assert (b"AUTH" in recorder.lines, b"CAPA" in recorder.lines) == ("auth" in detect, "capa" in detect)
    assert arrived(smtp) == Counter(filled.values())


def test_a_method_that_is_not_announced_is_not_tried(smtp: SmtpServer, tmp_path: Path) -> None:
    with Cyrus(tls=False, mechanisms=["NTLM", "LOGIN"]) as cyrus, Recorder(cyrus.port) as recorder:
        cyrus.deliver("joe", MAIL[0])
        methods = ["scram-sha-256", "cram-md5", "ntlm"]
        configured(tmp_path, smtp, recorder.port, auth=methods, password="secret").poll()
    assert recorder.logins == [b"AUTH NTLM"]
    assert len(smtp.delivered) == 1


def test_over_stls_the_strongest_works_at_once_and_is_remembered(cyrus: Cyrus) -> None:
    memory = NO_MEMORY
    for _ in range(2):
        told: list[str] = []
        session = enter(settings(cyrus), USERS["joe"], memory, told)
        assert (session.method, session.failures) == ("scram-sha-256-plus", [])
        assert sum(text.startswith("POP3 connected") for text in told) == 1
        assert [text for text in told if text.startswith("POP3 C: AUTH ")] == ["POP3 C: AUTH SCRAM-SHA-256-PLUS ***"]
        memory = session.memory
        assert memory.mute == ()  # it knows the type of channel binding


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("method", ["scram-sha-256-plus", "scram-sha-1-plus"])
def test_the_channel_is_bound_by_either_version_of_tls(version: str, method: Pop3Method) -> None:
    with Cyrus(USERS, extra=f"tls_versions: tls{version.replace('.', '_')}\n") as server:
        session = enter(settings(server, auth=(method,)), USERS["joe"])
        assert (session.method, session.memory.mute) == (method, ())


@pytest.mark.parametrize("method", [method for method in METHODS if method != "ntlm"])  # its server knows ASCII only
def test_a_password_that_is_not_ascii(cyrus: Cyrus, method: Pop3Method) -> None:
    assert enter(settings(cyrus, "ann", auth=(method,)), USERS["ann"]).method == method


# NTLM on the wire (MS-NLMP 2.2.1)


def ntlm_field(message: bytes, place: int) -> bytes:
    length, _, start = struct.unpack_from("<HHI", message, place)
    return message[start : start + length]


def ntlm_messages(recorder: Recorder) -> list[bytes]:
    """Return the NTLM messages that clients sent, the initial response included."""
    decoded = []
    for line in recorder.lines:
        with suppress(ValueError):
            decoded.append(b64decode(line.removeprefix(b"AUTH NTLM "), validate=True))
    return [message for message in decoded if message.startswith(b"NTLMSSP\0")]


@pytest.mark.parametrize("names", [{}, {"domain": "CORP"}, {"user": r"CORP\joe"}])
@pytest.mark.usefixtures("filled")
def test_ntlm_is_version_2_on_the_wire(cyrus: Cyrus, smtp: SmtpServer, names: dict[str, str], tmp_path: Path) -> None:
    with Recorder(cyrus.port) as recorder:
        configured(tmp_path, smtp, recorder.port, auth=["ntlm"], **names).poll()
    negotiate, authenticate = ntlm_messages(recorder)
    assert negotiate[8:12] == b"\x01\0\0\0"
    assert authenticate[8:12] == b"\x03\0\0\0"
    response = ntlm_field(authenticate, 20)
    assert len(response) > 24  # 24 octets are version 1 (2.2.2.6)
    assert response[16:18] == b"\x01\x01"  # the client's challenge of version 2 (2.2.2.7)
    # The LM response: none, or version 2 of it, which ends in the same client's challenge (2.2.2.4).
    weaker = ntlm_field(authenticate, 12)
    assert weaker in (b"", b"\0" * 24) or (len(weaker), weaker[16:]) == (24, response[32:40])
    assert ntlm_field(authenticate, 28).decode("utf-16-le") == ("CORP" if names else "")
    assert ntlm_field(authenticate, 36).decode("utf-16-le") == "joe"
    for secret in (USERS["joe"].encode(), USERS["joe"].encode("utf-16-le")):
        assert all(secret not in message for message in (negotiate, authenticate, bytes(recorder.sent)))
    assert len(smtp.delivered) == len(MAIL)


# The private server itself


def test_it_stops_without_a_trace() -> None:
    with Cyrus(tls=False) as cyrus:
        cyrus.deliver("joe", MAIL[0])
        (kept,) = cyrus.left("joe").values()
        assert kept.endswith(b"\r\n\r\n" + MAIL[0].partition(b"\r\n\r\n")[2])
        cyrus.empty("joe")
        assert cyrus.left("joe") == {}
    assert not cyrus.root.exists()
    with socket.socket() as attempt:
        wait_until(lambda: attempt.connect_ex(("127.0.0.1", cyrus.port)) != 0, "somebody still listens")
