"""SASL exchanges turn by turn, and logins over the embedded server: what is asked, what is remembered."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from poprep_cli.config.model import Address, Pop3, Secret
from poprep_cli.embedded.pop3 import Pop3Faults, Pop3Server
from poprep_cli.errors import AuthenticationFailed, LocalProtocolError, RemoteProtocolError
from poprep_cli.net.authenticate import MAX_CHALLENGE, Turn, exchange, mechanisms
from poprep_cli.net.detect import NO_MEMORY, Detector, Memory
from poprep_cli.net.link import Link
from poprep_cli.net.login import Session, log_in
from poprep_cli.net.stop import Stop
from poprep_cli.net.stream import Stream
from poprep_cli.protocol.sasl.mechanism import CramMd5, Credentials, External, Login, Mechanism, Plain
from poprep_cli.protocol.sasl.methods import POP3_DEFAULT, candidates
from poprep_cli.protocol.sasl.scram import Scram
from tests.net.scripted import Exchange, Half, Scripted, drops, logged_in, plain
from tests.net.scripted import settings as scripted_settings
from tests.protocol.test_methods import LETTERS, grid, usable

PASSWORD = "tr0ub4dor-and-3"
WHO = Credentials("office", PASSWORD)
NONCE = "fyko+d2lbbFgONRv9qkxdawL"
SCRAM_FIRST = b"r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096"
SCRAM_FINAL = b"v=rmF9pqV8S7suAoZWja4dJRkFsKQ="
PLAIN = b"\0office\0" + PASSWORD.encode()
YES = Turn(None, ok=True)
YES_AS_TEXT = Turn(b"welcome", ok=True)  # POP3: +OK is an end and a continuation
NO = Turn(None, ok=False)
EMPTY = Turn(b"", ok=False)


def ask(text: bytes, *, ok: bool = False) -> Turn:
    return Turn(base64.b64encode(text), ok)


class Server:
    """The server's turns in order, and what it heard: the initial response or None first."""

    def __init__(self, *turns: Turn) -> None:
        self._turns = iter(turns)
        self.heard: list[bytes | None] = []

    def hear(self, octets: bytes | None) -> Turn:
        self.heard.append(octets)
        return next(self._turns)

    def run(self, mechanism: Mechanism, room: int = 200) -> bool:
        return exchange(mechanism, self.hear, self.hear, initial_allowed=room)


# The exchange


@pytest.mark.parametrize(("last", "accepted"), [(YES, True), (YES_AS_TEXT, True), (NO, False)])
def test_an_initial_response(last: Turn, accepted: bool) -> None:
    server = Server(last)
    assert server.run(Plain(WHO)) is accepted
    assert server.heard == [PLAIN]


@pytest.mark.parametrize("first", [EMPTY, Turn(b"", ok=True), Turn(b"go on", ok=True), ask(b"anything")])
def test_an_initial_response_that_is_too_long_waits_for_the_challenge(first: Turn) -> None:
    for room in (0, 4 * ((len(PLAIN) + 2) // 3) - 1):
        server = Server(first, YES)
        assert server.run(Plain(WHO), room)
        assert server.heard == [None, PLAIN]


def test_an_initial_response_that_just_fits() -> None:
    server = Server(YES)
    assert server.run(Plain(WHO), 4 * ((len(PLAIN) + 2) // 3))
    assert server.heard == [PLAIN]


def test_a_mechanism_that_waits_for_the_server_has_no_initial_response() -> None:
    server = Server(ask(b"<1@a>"), YES)
    assert server.run(CramMd5(WHO))
    assert server.heard == [None, CramMd5(WHO).respond(b"<1@a>")]


@pytest.mark.parametrize("middle", [Turn(b"", ok=True), Turn(b"Password:", ok=True), Turn(b"UGFzc3dvcmQ6", ok=True)])
@pytest.mark.parametrize("end", [YES, YES_AS_TEXT])
def test_ok_in_the_middle_goes_on_and_at_the_end_is_success(middle: Turn, end: Turn) -> None:
    server = Server(middle, middle, end)
    assert server.run(Login(WHO))
    assert server.heard == [None, b"office", PASSWORD.encode()]


@pytest.mark.parametrize("prompts", [(b"Username:", b"Password:"), (b"User Name", b"Pass"), (b"===", b"\xff")])
def test_prompts_that_are_not_base64(prompts: tuple[bytes, bytes]) -> None:
    server = Server(Turn(prompts[0], ok=False), Turn(prompts[1], ok=False), YES_AS_TEXT)
    assert server.run(Login(WHO))
    assert server.heard == [None, b"office", PASSWORD.encode()]


@pytest.mark.parametrize("after", [0, 1])
def test_a_refusal_in_the_middle(after: int) -> None:
    server = Server(*[ask(b"?")] * after, NO)
    assert not server.run(Login(WHO))


def test_scram_with_the_proof_in_a_challenge() -> None:
    server = Server(ask(SCRAM_FIRST), ask(SCRAM_FINAL), YES)
    assert server.run(Scram("SCRAM-SHA-1", Credentials("user", "pencil"), NONCE))
    assert server.heard[-1] == b""


def test_scram_with_the_proof_in_an_ok() -> None:
    server = Server(ask(SCRAM_FIRST), ask(SCRAM_FINAL, ok=True), YES)
    assert server.run(Scram("SCRAM-SHA-1", Credentials("user", "pencil"), NONCE))


@pytest.mark.parametrize("turns", [(YES,), (ask(SCRAM_FIRST), YES), (ask(SCRAM_FIRST), ask(b"e=other-error"), YES)])
def test_scram_without_the_proof_is_no_success(turns: tuple[Turn, ...]) -> None:
    server = Server(*turns)
    with pytest.raises(RemoteProtocolError, match="proof"):
        server.run(Scram("SCRAM-SHA-1", Credentials("user", "pencil"), NONCE))


def test_scram_whose_server_says_what_is_wrong_is_a_refusal() -> None:
    server = Server(ask(SCRAM_FIRST), ask(b"e=invalid-proof"), NO)
    assert not server.run(Scram("SCRAM-SHA-1", Credentials("user", "pencil"), NONCE))


BAD: list[tuple[Callable[[], Mechanism], tuple[Turn, ...]]] = [
    (lambda: CramMd5(WHO), (EMPTY,)),
    (lambda: CramMd5(WHO), (ask(b"<1@a>"), ask(b"<2@a>"))),
    (lambda: CramMd5(WHO), (Turn(b"A" * (MAX_CHALLENGE + 1), ok=False),)),
    (lambda: Plain(WHO), (ask(b"more?"),)),
    (lambda: External(WHO), (ask(b"more?"),)),
    (lambda: Login(WHO), (ask(b"1"), ask(b"2"), ask(b"3"))),
    (lambda: Scram("SCRAM-SHA-1", WHO, NONCE), (ask(b"nonsense"),)),
    (lambda: Scram("SCRAM-SHA-1", WHO, NONCE), (ask(SCRAM_FIRST), ask(SCRAM_FINAL))),
]


@pytest.mark.parametrize(("mechanism", "turns"), BAD)
def test_a_bad_challenge_cancels(mechanism: Callable[[], Mechanism], turns: tuple[Turn, ...]) -> None:
    server = Server(*turns, NO)
    with pytest.raises(RemoteProtocolError):
        server.run(mechanism())
    assert server.heard[-1] is None
    assert len(server.heard) == len(turns) + 1


def test_a_bad_challenge_in_an_ok_can_not_be_cancelled() -> None:
    server = Server(ask(b"nonsense", ok=True))
    with pytest.raises(RemoteProtocolError):
        server.run(Scram("SCRAM-SHA-1", WHO, NONCE))
    assert len(server.heard) == 1


def test_a_password_that_plain_can_not_send_never_begins() -> None:
    server = Server()
    with pytest.raises(LocalProtocolError):
        server.run(Plain(Credentials("a", "b\0c")))
    assert server.heard == []


def test_no_exchange_raises_with_the_password() -> None:
    for mechanism, turns in BAD:
        with pytest.raises(RemoteProtocolError) as caught:
            Server(*turns, NO).run(mechanism())
        assert PASSWORD not in str(caught.value)


# The mechanisms of the methods


def made_for(method: str, credentials: Credentials, stream: Stream) -> Mechanism:
    return next(mechanisms(method, credentials, stream, unknown=set()))


def test_each_method_has_its_mechanism() -> None:
    server = mailbox()
    with server:
        link = Link(settings(server), Stop())
        made = {method: made_for(method, WHO, link.stream) for method in POP3_DEFAULT if method in USABLE_WITHOUT_TLS}
        for method in ("scram-sha-256-plus", "scram-sha-1-plus"):
            with pytest.raises(LocalProtocolError, match="no channel binding"):
                made_for(method, WHO, link.stream)
        assert made_for("external", WHO, link.stream).name == "EXTERNAL"
        link.close()
    assert set(made) == USABLE_WITHOUT_TLS
    for method, mechanism in made.items():
        assert mechanism.name == method.upper()
        assert PASSWORD not in repr(mechanism)


def test_each_scram_has_a_nonce_of_its_own() -> None:
    server = mailbox()
    with server:
        link = Link(settings(server), Stop())
        assert len({made_for("scram-sha-256", WHO, link.stream).start() for _ in range(5)}) == 5
        link.close()


# Logins

USABLE_WITHOUT_TLS = {"scram-sha-256", "scram-sha-1", "cram-md5", "ntlm", "msn", "plain", "login"}


def settings(server: Pop3Server, **changes: Any) -> Pop3:
    defaults: dict[str, Any] = {
        "address": Address("127.0.0.1", server.port),
        "tls": "off",
        "user": "office",
        "password": Secret(value=PASSWORD),
        "timeout": 2.0,
    }
    return Pop3(**(defaults | changes))


def mailbox(**faults: Any) -> Pop3Server:
    return Pop3Server(user="office", password=PASSWORD, faults=Pop3Faults(**({"apop": False} | faults)))


def lines(server: Pop3Server) -> list[list[str]]:
    """Return the command lines of each session, passwords in base64 decoded."""
    return [[_readable(command.line) for command in session.commands] for session in server.sessions]


def _readable(line: bytes) -> str:
    encoded = base64.b64encode(PLAIN)
    return line.replace(encoded, b"(plain)").decode()


def auth_rule(listed: bytes, **answers: bytes) -> Mapping[str, Any]:
    """Return rules: AUTH alone is answered by `listed`, AUTH PLAIN by answers["PLAIN"], and so on.

    A response that is PLAIN's message on a line of its own is accepted, and a cancelled exchange refused.
    """

    def rule(argument: bytes) -> bytes:
        if not argument:
            return listed
        return answers.get(argument.split()[0].decode(), b"-ERR unknown mechanism\r\n")

    return {
        "AUTH": rule,
        base64.b64encode(PLAIN).decode().upper(): b"+OK in\r\n",
        "*": b"-ERR cancelled\r\n",
    }


def wait_for_the_end(server: Pop3Server) -> None:
    """Return when the server has noticed that all lines are closed, and so has unlocked the maildrop."""
    deadline = time.monotonic() + 10
    while not all(session.ended for session in server.sessions):
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def sessions() -> Iterator[list[Session]]:
    opened: list[Session] = []
    yield opened
    for session in opened:
        session.link.close()


def test_plain_announced_by_capa_goes_in_one_line(sessions: list[Session]) -> None:
    server = mailbox(capa=(b"SASL PLAIN",), replies=auth_rule(b"-ERR\r\n", PLAIN=b"+OK in\r\n"))
    with server:
        sessions.append(log_in(settings(server, auth=("plain",)), PASSWORD, Stop()))
    assert sessions[0].method == "plain"
    assert lines(server) == [["CAPA", "AUTH PLAIN (plain)"]]


LISTS = [b"+OK list\r\nPLAIN\r\n.\r\n", b"+OK\r\nDIGEST-MD5\r\nplain \r\nGSSAPI\r\n.\r\n", b"+OK\r\n\r\nPLAIN\r\n.\r\n"]


@pytest.mark.parametrize("listed", LISTS)
def test_auth_lists_mechanisms_on_lines(listed: bytes, sessions: list[Session]) -> None:
    server = mailbox(capa="err", replies=auth_rule(listed, PLAIN=b"+ \r\n"))
    with server:
        sessions.append(log_in(settings(server), PASSWORD, Stop()))
    assert sessions[0].method == "plain"
    # Who only lists mechanisms by AUTH may not know initial responses: PLAIN waits for the challenge.
    assert lines(server) == [["CAPA", "AUTH", "AUTH PLAIN", "(plain)"]]


NO_LISTS = [
    (b"-ERR what?\r\n", ["CAPA", "AUTH"]),
    (b"-ERR\r\n", ["CAPA", "AUTH"]),
    (b"+OK\r\n.\r\n", ["CAPA", "AUTH"]),
    (b"+ \r\n", ["CAPA", "AUTH", "*"]),
    (b"+\r\n", ["CAPA", "AUTH", "*"]),
    (b"+ go on\r\n", ["CAPA", "AUTH", "*"]),
]


@pytest.mark.parametrize(("listed", "before"), NO_LISTS)
def test_auth_without_a_list_leaves_user(listed: bytes, before: list[str], sessions: list[Session]) -> None:
    server = mailbox(capa="err", replies=auth_rule(listed))
    with server:
        sessions.append(log_in(settings(server), PASSWORD, Stop()))
    assert sessions[0].method == "user"
    assert lines(server) == [[*before, "USER office", f"PASS {PASSWORD}"]]


def test_auth_is_not_asked_where_it_can_tell_nothing(sessions: list[Session]) -> None:
    server = mailbox(capa=(b"USER", b"SASL PLAIN"), replies=auth_rule(b"-ERR\r\n", PLAIN=b"+OK in\r\n"))
    with server:
        for auth in (("apop", "user"), ("plain", "user")):
            sessions.append(log_in(settings(server, auth=auth), PASSWORD, Stop()))
            sessions[-1].link.close()
        detect = ("capa", "welcome")
        sessions.append(log_in(settings(server, detect=detect), PASSWORD, Stop()))
    assert [session[1] for session in lines(server)] == ["USER office", "AUTH PLAIN (plain)", "AUTH PLAIN (plain)"]


def test_the_second_login_goes_straight_to_what_worked(sessions: list[Session]) -> None:
    rules = auth_rule(b"+OK\r\nSCRAM-SHA-1\r\nPLAIN\r\n.\r\n", PLAIN=b"+OK in\r\n")
    server = mailbox(capa=(b"USER", b"SASL PLAIN CRAM-MD5"), replies=rules)
    with server:
        sessions.append(log_in(settings(server), PASSWORD, Stop()))
        sessions.append(log_in(settings(server), PASSWORD, Stop(), sessions[0].memory.without_answers()))
    first, second = lines(server)
    assert first[:2] == ["CAPA", "AUTH"]
    assert [failure.method for failure in sessions[0].failures] == ["scram-sha-1", "cram-md5"]
    assert second == ["CAPA", "AUTH PLAIN (plain)"]
    assert sessions[1].failures == []
    assert sessions[1].memory == sessions[0].memory
    assert sessions[0].memory.method == "plain"


@pytest.mark.parametrize("capa", ["err", (b"USER", b"SASL CRAM-MD5")])
def test_user_is_remembered_too(capa: Any, sessions: list[Session]) -> None:
    server = mailbox(capa=capa, replies=auth_rule(b"+OK\r\nCRAM-MD5\r\n.\r\n"))
    with server:
        sessions.append(log_in(settings(server), PASSWORD, Stop()))
        sessions[0].link.close()
        wait_for_the_end(server)
        sessions.append(log_in(settings(server), PASSWORD, Stop(), sessions[0].memory.without_answers()))
    first, second = lines(server)
    assert first == ["CAPA", "AUTH", "AUTH CRAM-MD5", *second[1:]]
    assert second == ["CAPA", "USER office", f"PASS {PASSWORD}"]


def test_other_announcements_or_settings_void_the_memory(sessions: list[Session]) -> None:
    replies = auth_rule(b"-ERR\r\n", PLAIN=b"+OK in\r\n")
    server = mailbox(capa=(b"SASL PLAIN CRAM-MD5",), replies=replies)
    with server:
        sessions.append(log_in(settings(server), PASSWORD, Stop()))
        memory = sessions[0].memory.without_answers()
        server.faults = Pop3Faults(apop=False, capa=(b"SASL PLAIN LOGIN CRAM-MD5",), replies=replies)
        sessions.append(log_in(settings(server), PASSWORD, Stop(), memory))
        server.faults = Pop3Faults(apop=False, capa=(b"SASL PLAIN CRAM-MD5",), replies=replies)
        sessions.append(log_in(settings(server, auth=("cram-md5", "plain")), PASSWORD, Stop(), memory))
    for session in lines(server):
        assert session[-2:] == ["AUTH CRAM-MD5", "AUTH PLAIN (plain)"]


def test_what_is_remembered_and_refused_falls_to_the_others() -> None:
    server = mailbox(capa=(b"SASL PLAIN CRAM-MD5",), replies=auth_rule(b"-ERR\r\n", PLAIN=b"-ERR no\r\n"))
    with server:
        pop3 = settings(server)
        announcements = (
            f"CAPA cram-md5 plain; welcome ; {' '.join(sorted((*pop3.auth, *pop3.detect, pop3.clear_text)))}"
        )
        with pytest.raises(AuthenticationFailed):
            log_in(pop3, PASSWORD, Stop(), Memory("plain", f"{announcements}; clear"))
    assert lines(server) == [["CAPA", "AUTH PLAIN (plain)", "AUTH", "AUTH CRAM-MD5"]]


LISTED = b"+OK\r\nCRAM-MD5\r\nPLAIN\r\n.\r\n"


@pytest.mark.parametrize("capa", [(b"USER",), (b"USER", b"SASL LOGIN"), "err"])
def test_what_only_auth_announced_is_tried_at_once_the_next_time(capa: Any, sessions: list[Session]) -> None:
    server = mailbox(capa=capa, replies=auth_rule(LISTED, PLAIN=b"+ \r\n"))
    with server:
        for memory in (NO_MEMORY, None, None):
            sessions.append(log_in(settings(server), PASSWORD, Stop(), memory or sessions[-1].memory.without_answers()))
            sessions[-1].link.close()
            wait_for_the_end(server)
    # Each line is a round trip.
    second = ["CAPA", "AUTH PLAIN", "(plain)"]
    assert lines(server) == [["CAPA", "AUTH", "AUTH CRAM-MD5", *second[1:]], second, second]
    assert [session.method for session in sessions] == ["plain"] * 3
    assert sessions[0].memory.listed == ("cram-md5", "plain")
    assert sessions[2].memory == sessions[0].memory


def test_when_what_only_auth_announced_fails_auth_is_asked_again(sessions: list[Session]) -> None:
    server = mailbox(capa=(b"USER",), replies=auth_rule(LISTED, PLAIN=b"+ \r\n"))
    with server:
        sessions.append(log_in(settings(server), PASSWORD, Stop()))
        server.faults = Pop3Faults(
            apop=False, capa=(b"USER",), replies=auth_rule(b"+OK\r\nLOGIN\r\n.\r\n", PLAIN=b"-ERR not any more\r\n")
        )
        sessions.append(log_in(settings(server), PASSWORD, Stop(), sessions[0].memory.without_answers()))
    assert lines(server)[1][:4] == ["CAPA", "AUTH PLAIN", "AUTH", "AUTH LOGIN"]
    assert sessions[1].memory.listed == ("login",)


def refuses_and_hangs_up(exchange: Exchange) -> None:
    """Refuse, and hang up when the next command comes."""
    exchange.refuse()
    exchange.drop()


@pytest.mark.parametrize("half", [drops, refuses_and_hangs_up])
def test_when_it_hangs_up_auth_is_asked_on_the_next_connection(half: Half) -> None:
    server = Scripted({"PLAIN": plain}, listed=["PLAIN"], user=True)
    pop3 = ("plain", "login", "user")
    with logged_in(server, *pop3) as session:
        server.halves["PLAIN"] = half
        again = log_in(scripted_settings(server.port, *pop3), PASSWORD, Stop(), session.memory.without_answers())
        again.link.close()
    assert again.method == "user"
    assert again.memory.mute == ()  # it hung up after the login, not because of the question
    second = server.lines[1] + server.lines[2]
    assert second == ["CAPA", "AUTH PLAIN", *["AUTH"] * (half is refuses_and_hangs_up), "CAPA", "AUTH", "USER", "PASS"]


@pytest.mark.parametrize("rule", ["hang", "drop"])
def test_a_server_that_hangs_on_auth_costs_one_reconnect_and_is_remembered(rule: Any, sessions: list[Session]) -> None:
    server = mailbox(replies={"AUTH": rule})
    with server:
        pop3 = settings(server, timeout=0.3)
        sessions.append(log_in(pop3, PASSWORD, Stop()))
        sessions[0].link.close()
        assert sessions[0].memory.mute == ("AUTH",)
        wait_for_the_end(server)
        sessions.append(log_in(pop3, PASSWORD, Stop(), sessions[0].memory.without_answers()))
    login = ["CAPA", "USER office", f"PASS {PASSWORD}"]
    assert lines(server) == [["CAPA", "AUTH"], login, login]
    assert sessions[1].memory == sessions[0].memory
    assert sessions[1].memory.method == "user"


def test_the_question_that_hangs_is_not_asked_even_if_another_method_worked(sessions: list[Session]) -> None:
    server = mailbox(capa=(b"SASL PLAIN",), replies={"AUTH": lambda argument: b"+OK in\r\n" if argument else None})
    with server:
        memory = Memory(mute=("AUTH",))
        sessions.append(log_in(settings(server), PASSWORD, Stop(), memory))
    assert lines(server) == [["CAPA", "AUTH PLAIN (plain)"]]
    assert sessions[0].memory.mute == ("AUTH",)


@pytest.mark.parametrize("detectors", sorted({detectors for detectors, _, _ in grid()}))
def test_the_grid_of_methods_over_the_wire(detectors: str) -> None:
    names = {"c": "capa", "a": "auth", "w": "welcome"}
    for _, announces, expected in (field for field in grid() if field[0] == detectors):
        server = mailbox(
            apop="W" in announces,
            capa=(b"USER", b"SASL CRAM-MD5") if "C" in announces else "err",
            replies=auth_rule(b"+OK\r\nLOGIN\r\n.\r\n" if "A" in announces else b"-ERR\r\n"),
        )
        with server:
            pop3 = settings(server, auth=tuple(LETTERS.values()), detect=tuple(names[letter] for letter in detectors))
            link = Link(pop3, Stop())
            detector = Detector(pop3, NO_MEMORY)
            detected = detector.capa(link)
            detector.auth_list(link, detected)
            found = candidates(pop3.auth, detected.sources, detector.surroundings(link, detected))
            link.close()
        assert usable(*found) == expected, announces
        assert server.sessions[0].verbs == [verb for verb in ("CAPA", "AUTH") if verb[0].lower() in detectors]
