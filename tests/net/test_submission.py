"""Submission against the embedded server: round trips, refusals at each stage, broken lines, LMTP, TLS."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from poprep_cli.config.model import Address, Smtp, TlsSettings
from poprep_cli.embedded.smtp import SmtpFaults, SmtpServer
from poprep_cli.errors import (
    ConnectionFailed,
    ExitCode,
    LocalProtocolError,
    RemoteProtocolError,
    ReplyError,
    Stopped,
    TemporaryReplyError,
    TlsError,
)
from poprep_cli.net.data_transfer import WINDOW
from poprep_cli.net.stop import Stop
from poprep_cli.net.submission import Submission
from poprep_cli.net.transaction import Outcome
from poprep_cli.protocol.wire import stuff

A, B, C = b"a@corp.example", b"b@corp.example", b"c@corp.example"
CONTENT = b"Subject: x\r\n\r\n.dot\r\n"


@dataclass(frozen=True)
class Paper:
    """A letter whose mail data comes in parts of `cut` octets."""

    forward_paths: tuple[bytes, ...] = (A,)
    reverse_path: bytes = b"s@example.net"
    content: bytes = CONTENT
    eight_bit: bool = False
    cut: int = 1 << 20

    @property
    def octets(self) -> int:
        return len(self.content)

    def wire(self) -> Iterator[bytes]:
        data = stuff(self.content)
        while len(data) > self.cut + 5:
            yield data[: self.cut]
            data = data[self.cut :]
        yield data

    def plain(self) -> Iterator[bytes]:
        for start in range(0, len(self.content), self.cut):
            yield self.content[start : start + self.cut]


def settings(server: SmtpServer, **changes) -> Smtp:
    defaults = {"addresses": (Address("127.0.0.1", server.port),), "tls": "off", "timeout": 1.0, "data_timeout": 1.0}
    return Smtp(**(defaults | changes))


@contextmanager
def submission(server: SmtpServer, *, pipelining: bool = True, **changes) -> Iterator[Submission]:
    with server:
        session = Submission.open(settings(server, **changes), Stop(), pipelining=pipelining)
        try:
            yield session
        finally:
            session.quit()


def nothing() -> None:
    """Record nothing."""


def codes(outcome: Outcome) -> tuple[dict[bytes, tuple[int, str]], ...]:
    groups = (outcome.accepted, outcome.deferred, outcome.rejected)
    return tuple({verdict.path: (verdict.reply.code, verdict.stage) for verdict in group} for group in groups)


def faulty(**faults) -> SmtpServer:
    return SmtpServer(faults=SmtpFaults(**faults))


both_ways = pytest.mark.parametrize("pipelining", [True, False])


@both_ways
def test_letters_arrive_as_they_are(pipelining) -> None:
    server = SmtpServer()
    letters = [Paper((A, B), content=b"%d\r\n.\r\n..\r\n" % number, cut=4) for number in range(5)]
    ends = []
    with submission(server, pipelining=pipelining) as session:
        assert session.pipelining is pipelining
        assert (session.alive, session.tls, session.server) == (True, False, server.address)
        assert "SIZE" in session.extensions
        for letter, following in zip(letters, [*letters[1:], None], strict=True):
            outcome = session.deliver(letter, lambda: ends.append(len(server.delivered)), following)
            assert codes(outcome) == ({A: (250, "end-of-data"), B: (250, "end-of-data")}, {}, {})
    assert [message.content for message in server.delivered] == [letter.content for letter in letters]
    assert [message.forward_paths for message in server.delivered] == [(A, B)] * 5
    assert ends == [0, 1, 2, 3, 4]
    assert not session.alive
    assert server.sessions[0].quit


def test_a_pipelined_letter_costs_one_round_trip() -> None:
    letters = [Paper() for _ in range(10)]
    batches = {}
    for pipelining in (True, False):
        server = SmtpServer()
        with submission(server, pipelining=pipelining) as session:
            for letter, following in zip(letters, [*letters[1:], None], strict=True):
                session.deliver(letter, nothing, following)
        batches[pipelining] = server.sessions[0].batches
    # EHLO, the first envelope, ten ends of data, QUIT; one by one it is four for each letter.
    assert batches == {True: 13, False: 42}


@both_ways
@pytest.mark.parametrize(
    ("faults", "expected"),
    [
        ({"replies": {"mail": b"450 4.1.8 later\r\n"}}, ({}, {A: (450, "mail"), B: (450, "mail")}, {})),
        ({"replies": {"mail": b"550 5.7.1 no\r\n"}}, ({}, {}, {A: (550, "mail"), B: (550, "mail")})),
        ({"recipients": {A: b"550 5.1.1 who\r\n"}}, ({B: (250, "end-of-data")}, {}, {A: (550, "rcpt")})),
        ({"recipients": {B: b"452 4.5.3 many\r\n"}}, ({A: (250, "end-of-data")}, {B: (452, "rcpt")}, {})),
        ({"replies": {"rcpt": b"550 5.1.1 who\r\n"}}, ({}, {}, {A: (550, "rcpt"), B: (550, "rcpt")})),
        ({"replies": {"data": b"451 4.3.0 later\r\n"}}, ({}, {A: (451, "data"), B: (451, "data")}, {})),
        ({"replies": {"data": b"554 5.3.0 no\r\n"}}, ({}, {}, {A: (554, "data"), B: (554, "data")})),
        (
            {"replies": {"end-of-data": b"451 4.3.0 later\r\n"}},
            ({}, {A: (451, "end-of-data"), B: (451, "end-of-data")}, {}),
        ),
        (
            {"replies": {"end-of-data": b"554-5.7.1 spam\r\n554 5.7.1 go\r\n"}},
            ({}, {}, {A: (554, "end-of-data"), B: (554, "end-of-data")}),
        ),
    ],
)
def test_refusals_and_the_letter_after(pipelining, faults, expected) -> None:
    only = {stage: {1, 2} if stage == "rcpt" else {1} for stage in ("mail", "rcpt", "data", "end-of-data")}
    server = faulty(only=only, **faults)
    first, second = Paper((A, B)), Paper((C,))
    with submission(server, pipelining=pipelining) as session:
        outcome = session.deliver(first, nothing, second)
        assert codes(outcome) == expected
        assert outcome.in_doubt == ""
        assert session.alive
        assert codes(session.deliver(second, nothing)) == ({C: (250, "end-of-data")}, {}, {})
    assert [message.forward_paths for message in server.delivered][-1] == (C,)


@both_ways
@pytest.mark.parametrize("stage", ["mail", "rcpt", "data", "end-of-data"])
def test_421_is_a_verdict_and_the_end(pipelining, stage) -> None:
    server = faulty(replies={stage: b"421 4.3.2 closing\r\n"})
    first, second = Paper((A, B)), Paper()
    with submission(server, pipelining=pipelining) as session:
        outcome = session.deliver(first, nothing, second)
        assert codes(outcome) == ({}, {A: (421, stage), B: (421, stage)}, {})
        assert not session.alive
        with pytest.raises(ConnectionFailed):
            session.deliver(second, nothing)
    assert server.delivered == []


@both_ways
@pytest.mark.parametrize("fault", ["drop", "hang"])
@pytest.mark.parametrize("stage", ["mail", "rcpt", "data"])
def test_a_line_that_breaks_before_the_end(pipelining, fault, stage) -> None:
    server = faulty(**{fault: stage})
    calls = []
    with submission(server, pipelining=pipelining, timeout=0.3) as session:
        with pytest.raises(ConnectionFailed, match=server.address):
            session.deliver(Paper(), lambda: calls.append(1))
        assert not session.alive
    assert calls == []


@both_ways
@pytest.mark.parametrize(("stage", "delivered"), [("end-of-data", 0), ("after-accept", 1)])
@pytest.mark.parametrize("fault", ["drop", "hang"])
def test_a_line_that_breaks_after_the_end(pipelining, fault, stage, delivered) -> None:
    server = faulty(**{fault: stage})
    first, second = Paper(), Paper()
    with submission(server, pipelining=pipelining, data_timeout=0.3) as session:
        outcome = session.deliver(first, nothing, second)
        assert codes(outcome) == ({}, {}, {})
        assert server.address in outcome.in_doubt
        assert not session.alive
        with pytest.raises(ConnectionFailed):
            session.deliver(second, nothing)
    assert len(server.delivered) == delivered


@pytest.mark.parametrize(
    "reply", [b"354 what\r\n", b"150 yes\r\n", b"999 x\r\n", b"OK\r\n", b"\r\n", b"250-ok\r\n251 ok\r\n", b"350 x\r\n"]
)
def test_only_2yz_is_acceptance(reply) -> None:
    with submission(faulty(replies={"end-of-data": reply})) as session:
        outcome = session.deliver(Paper(), nothing)
        assert codes(outcome) == ({}, {}, {})
        assert outcome.in_doubt
        assert not session.alive


@pytest.mark.parametrize("reply", [b"250 go\r\n", b"334 go\r\n", b"garbage\r\n"])
def test_data_needs_354(reply) -> None:
    with submission(faulty(replies={"data": reply})) as session:
        with pytest.raises(RemoteProtocolError, match=r"127\.0\.0\.1"):
            session.deliver(Paper(), nothing)
        assert not session.alive


@pytest.mark.parametrize("trouble", ["drop", "discard"])
def test_a_server_that_can_not_pipeline(trouble) -> None:
    server = faulty(breaks_when_pipelined=trouble)
    with server:
        session = Submission.open(settings(server, timeout=0.3), Stop())
        with pytest.raises(ConnectionFailed):
            session.deliver(Paper(), nothing)
        session = Submission.open(settings(server), Stop(), pipelining=False)
        assert codes(session.deliver(Paper(), nothing))[0] == {A: (250, "end-of-data")}
        session.quit()


def test_nothing_ends_if_the_record_can_not_be_written() -> None:
    def full() -> None:
        raise OSError("disk full")

    server = SmtpServer()
    with submission(server) as session:
        with pytest.raises(OSError, match="disk full"):
            session.deliver(Paper(content=b"x\r\n" * 100_000, cut=50_000), full)
        assert not session.alive
    assert server.delivered == []


def test_mail_data_without_an_end_is_not_ended() -> None:
    class Torn(Paper):
        def wire(self) -> Iterator[bytes]:
            yield b"half a line"

    server = SmtpServer()
    with submission(server) as session, pytest.raises(LocalProtocolError):
        session.deliver(Torn(), nothing)
    assert server.delivered == []


def test_the_following_letter_is_the_next_one() -> None:
    with submission(SmtpServer()) as session:
        session.deliver(Paper(), nothing, Paper((B,)))
        with pytest.raises(LocalProtocolError):
            session.deliver(Paper((C,)), nothing)
        assert not session.alive


def test_quit_with_an_envelope_on_its_way_just_closes() -> None:
    server = SmtpServer()
    with submission(server) as session:
        session.deliver(Paper(), nothing, Paper((B,)))
    assert len(server.delivered) == 1
    assert not server.sessions[0].quit


def test_parameters_follow_the_extensions() -> None:
    server = SmtpServer()
    with submission(server) as session:
        session.deliver(Paper(("ä@b.example".encode(),), eight_bit=True), nothing)
        session.deliver(Paper(), nothing)
    size = b"SIZE=%d" % len(CONTENT)
    assert [message.parameters for message in server.delivered] == [(size, b"BODY=8BITMIME", b"SMTPUTF8"), (size,)]


@pytest.mark.parametrize(
    ("letter", "announce", "expected"),
    [
        (Paper((A, B), content=b"x" * 100), b"SIZE 99", ({}, {}, {A: (552, "size"), B: (552, "size")})),
        (Paper(reverse_path=b"\xc3\xa4@b.example"), b"SIZE", ({}, {}, {A: (550, "mail")})),
        (
            Paper((A, b"\xc3\xa4@b.example")),
            b"SIZE 0",
            ({A: (250, "end-of-data")}, {}, {b"\xc3\xa4@b.example": (550, "mail")}),
        ),
        (Paper((A, b"b>@x")), b"SIZE x", ({A: (250, "end-of-data")}, {}, {b"b>@x": (553, "rcpt")})),
        (Paper(reverse_path=b"a b@x"), b"X", ({}, {}, {A: (553, "mail")})),
        (Paper((A, A)), b"X", ({A: (250, "end-of-data")}, {}, {})),
    ],
)
def test_what_is_refused_here(letter, announce, expected) -> None:
    server = faulty(announce=(b"PIPELINING", announce))
    with submission(server) as session:
        assert codes(session.deliver(letter, nothing, Paper((B,)))) == expected
        assert session.alive
    assert all(command.line != b"MAIL FROM:<a b@x>" for command in server.sessions[0].commands)


@both_ways
def test_many_recipients_go_in_windows(pipelining) -> None:
    paths = tuple(b"%d@corp.example" % number for number in range(2 * WINDOW + 7))
    server = SmtpServer()
    with submission(server, pipelining=pipelining) as session:
        first, second = Paper(), Paper(paths)
        session.deliver(first, nothing, second)
        outcome = session.deliver(second, nothing)
    assert len(outcome.accepted) == len(paths)
    assert server.delivered[1].forward_paths == paths


def raw_server(script: Callable[[socket.socket], None]) -> tuple[int, threading.Thread]:
    """Start a server for one connection that does what `script` does; return its port."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listening:
            connection, _ = listening.accept()
            with connection:
                connection.settimeout(5)
                script(connection)

    thread = threading.Thread(target=serve)
    thread.start()
    return listening.getsockname()[1], thread


def test_an_end_of_data_for_nobody() -> None:
    received = []

    def script(connection: socket.socket) -> None:
        connection.sendall(b"220 x\r\n")
        connection.recv(1000)
        connection.sendall(b"250-x\r\n250 PIPELINING\r\n")
        connection.recv(1000)
        connection.sendall(b"250 ok\r\n550 no\r\n354 go\r\n")
        received.append(connection.recv(1000))
        connection.sendall(b"554 no recipients\r\n")
        received.append(connection.recv(1000))
        connection.sendall(b"250 reset\r\n250 ok\r\n250 ok\r\n354 go\r\n")
        received.append(connection.recv(1000))
        connection.sendall(b"250 ok\r\n")
        connection.recv(1000)

    port, thread = raw_server(script)
    session = Submission.open(Smtp(addresses=(Address("127.0.0.1", port),), tls="off", timeout=1.0), Stop())
    assert codes(session.deliver(Paper(), nothing)) == ({}, {}, {A: (550, "rcpt")})
    assert codes(session.deliver(Paper((B,)), nothing)) == ({B: (250, "end-of-data")}, {}, {})
    session.close()
    thread.join()
    assert received[0] == b".\r\n"
    assert received[1].startswith(b"RSET\r\nMAIL FROM:")
    assert received[2] == stuff(CONTENT)


def test_the_words_of_a_server_that_stops_reading_count() -> None:
    def script(connection: socket.socket) -> None:
        connection.sendall(b"220 x\r\n")
        connection.recv(1000)
        connection.sendall(b"250 x\r\n")
        for _ in range(2):
            connection.recv(1000)
            connection.sendall(b"250 ok\r\n")
        connection.recv(1000)
        connection.sendall(b"354 go\r\n")
        connection.recv(1000)
        connection.sendall(b"552 5.3.4 too large\r\n")
        time.sleep(0.8)

    port, thread = raw_server(script)
    smtp = Smtp(addresses=(Address("127.0.0.1", port),), tls="off", timeout=0.4)
    session = Submission.open(smtp, Stop())
    outcome = session.deliver(Paper(content=b"x" * 70 + b"\r\n" * 8_000_000, cut=1 << 20), nothing)
    thread.join()
    assert codes(outcome) == ({}, {}, {A: (552, "end-of-data")})
    assert not session.alive


@both_ways
def test_lmtp_has_a_verdict_for_each_recipient(pipelining) -> None:
    faults = SmtpFaults(recipients_after_data={A: b"450 4.2.1 busy\r\n", B: b"552 5.2.2 full\r\n"})
    server = SmtpServer(lmtp=True, faults=faults)
    first, second = Paper((A, B, C)), Paper((C,))
    with submission(server, pipelining=pipelining, protocol="lmtp") as session:
        outcome = session.deliver(first, nothing, second)
        stage = "end-of-data"
        assert codes(outcome) == ({C: (250, stage)}, {A: (450, stage)}, {B: (552, stage)})
        assert codes(session.deliver(second, nothing)) == ({C: (250, stage)}, {}, {})
    assert server.sessions[0].verbs[0] == "LHLO"


def test_lmtp_that_breaks_between_its_replies() -> None:
    def script(connection: socket.socket) -> None:
        connection.sendall(b"220 x\r\n")
        connection.recv(1000)
        connection.sendall(b"250-x\r\n250 PIPELINING\r\n")
        connection.recv(1000)
        connection.sendall(b"250 ok\r\n250 ok\r\n550 no\r\n250 ok\r\n354 go\r\n")
        connection.recv(1000)
        connection.sendall(b"250 ok\r\n")

    port, thread = raw_server(script)
    smtp = Smtp(addresses=(Address("127.0.0.1", port),), tls="off", timeout=1.0, protocol="lmtp")
    session = Submission.open(smtp, Stop())
    outcome = session.deliver(Paper((A, B, C)), nothing)
    thread.join()
    assert codes(outcome) == ({A: (250, "end-of-data")}, {}, {B: (550, "rcpt")})
    assert "closed the connection" in outcome.in_doubt


def test_lmtp_does_not_fall_back_to_helo() -> None:
    server = SmtpServer(lmtp=True, faults=SmtpFaults(refuse_ehlo=True))
    with server, pytest.raises(ReplyError, match="LHLO"):
        Submission.open(settings(server, protocol="lmtp"), Stop())
    assert server.sessions[0].verbs == ["LHLO"]


# The beginning of a session


def test_helo_where_ehlo_is_unknown() -> None:
    server = faulty(refuse_ehlo=True)
    with submission(server, helo="mx.example.net") as session:
        assert (session.extensions, session.pipelining) == ({}, False)
        assert codes(session.deliver(Paper(), nothing, Paper()))[0] == {A: (250, "end-of-data")}
    assert [command.line for command in server.sessions[0].commands[:2]] == [
        b"EHLO mx.example.net",
        b"HELO mx.example.net",
    ]


@pytest.mark.parametrize(
    ("name", "given"),
    [("host", b"[127.0.0.1]"), ("host.example.net", b"host.example.net"), ("hö.st", b"[127.0.0.1]")],
)
def test_the_name_for_ehlo(monkeypatch, name, given) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    server = SmtpServer()
    with submission(server):
        pass
    assert server.sessions[0].commands[0].line == b"EHLO " + given


@pytest.mark.parametrize(
    ("faults", "error", "code"),
    [
        ({"replies": {"greeting": b"421 4.3.2 busy\r\n"}}, TemporaryReplyError, ExitCode.TEMPFAIL),
        ({"replies": {"greeting": b"451 later\r\n"}}, TemporaryReplyError, ExitCode.TEMPFAIL),
        ({"replies": {"greeting": b"554 go away\r\n"}}, ReplyError, ExitCode.UNAVAILABLE),
        ({"replies": {"greeting": b"+OK POP3\r\n"}}, RemoteProtocolError, ExitCode.PROTOCOL),
        ({"replies": {"greeting": b"354 x\r\n"}}, RemoteProtocolError, ExitCode.PROTOCOL),
        ({"replies": {"ehlo": b"450 later\r\n"}}, TemporaryReplyError, ExitCode.TEMPFAIL),
        ({"refuse_ehlo": True, "replies": {"helo": b"550 no\r\n"}}, ReplyError, ExitCode.UNAVAILABLE),
        ({"refuse_ehlo": True, "replies": {"helo": b"450 no\r\n"}}, TemporaryReplyError, ExitCode.TEMPFAIL),
        ({"endless_ehlo": True}, RemoteProtocolError, ExitCode.PROTOCOL),
        ({"hang": "greeting"}, ConnectionFailed, ExitCode.TEMPFAIL),
        ({"drop": "greeting"}, ConnectionFailed, ExitCode.TEMPFAIL),
        ({"hang": "ehlo"}, ConnectionFailed, ExitCode.TEMPFAIL),
    ],
)
def test_a_server_that_is_not_ready(faults, error, code) -> None:
    server = faulty(**faults)
    with server, pytest.raises(error, match=server.address) as caught:
        Submission.open(settings(server, timeout=0.4), Stop())
    assert type(caught.value) is error
    assert caught.value.exit_code == code


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def test_addresses_are_tried_in_turn() -> None:
    busy = faulty(replies={"greeting": b"421 busy\r\n"})
    dead = Address("127.0.0.1", free_port())
    with busy, SmtpServer() as server:
        addresses = (dead, Address("127.0.0.1", busy.port), Address("127.0.0.1", server.port))
        session = Submission.open(settings(server, addresses=addresses), Stop())
        assert session.server == server.address
        session.quit()
        # What a server said tells more than a port where nobody listens.
        with pytest.raises(TemporaryReplyError, match="421 busy"):
            Submission.open(settings(server, addresses=(addresses[1], dead)), Stop())
        with pytest.raises(ConnectionFailed):
            Submission.open(settings(server, addresses=(dead,)), Stop())


def test_a_stop_ends_the_wait() -> None:
    stop = Stop()
    with faulty(hang="end-of-data") as server:
        session = Submission.open(settings(server, data_timeout=30.0), stop)
        timer = threading.Timer(0.2, stop.trip)
        timer.start()
        start = time.monotonic()
        with pytest.raises(Stopped):
            session.deliver(Paper(), nothing)
        assert time.monotonic() - start < 5
        assert not session.alive
        timer.join()
        with pytest.raises(Stopped):
            Submission.open(settings(server), stop)


# TLS


@dataclass(frozen=True)
class Pki:
    ca_file: str
    context: ssl.SSLContext
    stranger: ssl.SSLContext


@pytest.fixture(scope="module")
def pki(tmp_path_factory) -> Pki:
    folder: Path = tmp_path_factory.mktemp("pki")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    contexts = []
    for name in ("127.0.0.1", "other.example"):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(context)
        contexts.append(context)
    return Pki(str(folder / "ca.pem"), *contexts)


def trusting(pki: Pki) -> TlsSettings:
    return TlsSettings(ca_file=pki.ca_file)


def test_starttls(pki) -> None:
    server = SmtpServer(context=pki.context)
    with submission(server, tls="required", tls_settings=trusting(pki), helo="a") as session:
        assert session.tls
        assert "STARTTLS" not in session.extensions
        assert codes(session.deliver(Paper(), nothing))[0] == {A: (250, "end-of-data")}
    assert server.sessions[0].clear == b"EHLO a\r\nSTARTTLS\r\n"
    assert server.delivered[0].tls


def test_tls_at_connect(pki) -> None:
    server = SmtpServer(context=pki.context, ssl=True)
    with submission(server, ssl=True, tls="required", tls_settings=trusting(pki)) as session:
        assert session.tls
        assert codes(session.deliver(Paper(), nothing))[0] == {A: (250, "end-of-data")}
    assert "STARTTLS" not in server.sessions[0].verbs
    assert b"EHLO" not in server.sessions[0].clear


def required_fails(server: SmtpServer, pki: Pki, error: type[Exception], sessions: int = 1, **changes) -> None:
    with server, pytest.raises(error) as caught:
        Submission.open(settings(server, tls="required", tls_settings=trusting(pki), **changes), Stop())
    assert type(caught.value) is error
    assert not any("MAIL" in session.verbs for session in server.sessions)
    assert len(server.sessions) == sessions


@pytest.mark.parametrize(
    "faults",
    [
        {"announce": (b"PIPELINING",)},
        {"refuse_ehlo": True},
        {"replies": {"starttls": b"454 4.7.0 not now\r\n"}},
        {"replies": {"starttls": b"502 no\r\n"}},
    ],
)
def test_required_tls_that_can_not_be_had(pki, faults) -> None:
    required_fails(SmtpServer(context=pki.context, faults=SmtpFaults(**faults)), pki, TlsError)


def test_a_certificate_for_somebody_else(pki) -> None:
    # The second connection only reads the certificate, for the hint.
    required_fails(SmtpServer(context=pki.stranger), pki, TlsError, sessions=2)
    required_fails(SmtpServer(context=pki.stranger, ssl=True), pki, TlsError, sessions=2, ssl=True)


def test_octets_injected_before_tls(pki) -> None:
    faults = SmtpFaults(starttls_injected=b"250-evil\r\n250 AUTH PLAIN\r\n")
    required_fails(SmtpServer(context=pki.context, faults=faults), pki, RemoteProtocolError)


@pytest.mark.parametrize(
    ("faults", "sessions"),
    [({"announce": (b"PIPELINING",)}, 1), ({"replies": {"starttls": b"454 not now\r\n"}}, 2)],
)
def test_wanted_tls_goes_on_in_the_clear(pki, faults, sessions) -> None:
    server = SmtpServer(context=pki.context, faults=SmtpFaults(**faults))
    with submission(server, tls="wanted", tls_settings=trusting(pki)) as session:
        assert not session.tls
        assert codes(session.deliver(Paper(), nothing))[0] == {A: (250, "end-of-data")}
    assert len(server.sessions) == sessions


def test_wanted_tls_with_a_bad_certificate_uses_a_fresh_connection(pki) -> None:
    server = SmtpServer(context=pki.stranger)
    with submission(server, tls="wanted", tls_settings=trusting(pki)) as session:
        assert not session.tls
    assert len(server.sessions) == 2
    assert "STARTTLS" not in server.sessions[1].verbs


def test_wanted_tls_never_excuses_bad_tls_at_connect(pki) -> None:
    server = SmtpServer(context=pki.stranger, ssl=True)
    with server, pytest.raises(TlsError):
        Submission.open(settings(server, ssl=True, tls="wanted", tls_settings=trusting(pki)), Stop())
    assert len(server.sessions) == 2  # the other one only reads the certificate, for the hint
