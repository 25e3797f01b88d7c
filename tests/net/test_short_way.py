"""Logging in by what CAPA answered the last time: when it is not asked, when it is, and what a failure of that costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from poprep_cli.config.model import Address, Pop3, Secret
from poprep_cli.embedded.pop3 import Pop3Faults, Pop3Server
from poprep_cli.errors import AuthenticationFailed, PoprepError, TemporaryReplyError, TlsError
from poprep_cli.net.authenticate import Trial
from poprep_cli.net.detect import NO_MEMORY, Answers, Memory
from poprep_cli.net.login import Session, log_in
from poprep_cli.net.stop import Stop
from poprep_cli.net.stream import Stream
from tests.net.certificates import Pki
from tests.net.scripted import PASSWORD as SCRIPTED_PASSWORD
from tests.net.scripted import Scripted, logged_in, make_pki, scram, settings

PASSWORD = "tr0ub4dor-and-3"
CAPA = (b"TOP", b"UIDL", b"USER", b"PIPELINING")
REFUSED = b"-ERR no\r\n"


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def distant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make loopback look like a server far away, to which a line without TLS is not encrypted."""
    monkeypatch.setattr(Address, "is_local", property(lambda _: False))
    monkeypatch.setattr(Stream, "is_loopback", property(lambda _: False))


class Site:
    """A server and who logs in to it, over and over; each login lives until the next."""

    def __init__(self, pki: Pki) -> None:
        self._pki = pki
        self.server = Pop3Server(user="office", password=PASSWORD, context=pki.context(""))
        self.changes: dict[str, Any] = {"tls": "required", "auth": ("apop", "user"), "timeout": 1.0}
        self.memory = NO_MEMORY
        self._session: Session | None = None
        self._read = 0

    @property
    def pop3(self) -> Pop3:
        secret = Secret(value=PASSWORD)
        address = Address("127.0.0.1", self.server.port)
        return Pop3(address=address, user="office", password=secret, tls_settings=self._pki.trusting, **self.changes)

    def enter(self, trial: Trial | None = None) -> Session:
        self.leave()
        self._session = session = log_in(self.pop3, PASSWORD, Stop(), self.memory, trial=trial)
        self.memory = session.memory
        return session

    def leave(self) -> None:
        if self._session is not None:
            self._session.link.close()
            self._session = None

    def said(self) -> list[list[str]]:
        """The verbs of each connection since this was last asked."""
        found = [session.verbs for session in self.server.sessions][self._read :]
        self._read += len(found)
        return found


@pytest.fixture
def site(pki: Pki) -> Iterator[Site]:
    made = Site(pki)
    made.server.faults = Pop3Faults(capa=CAPA)
    with made.server:
        yield made
        made.leave()


FULL = ["CAPA", "STLS", "CAPA", "APOP"]
SHORT = ["STLS", "APOP"]


@pytest.fixture
def known(site: Site) -> Site:
    """A server that was logged in to before."""
    site.server.faults = faults()
    session = site.enter()
    assert site.said() == [FULL]
    assert session.memory.answers is not None
    assert session.memory.answers.capabilities == session.capabilities
    return site


def faults(**more: Any) -> Pop3Faults:
    return Pop3Faults(**({"capa": (*CAPA, b"STLS")} | more))


def test_from_the_greeting_to_the_login(known: Site) -> None:
    before = known.memory
    for _ in range(2):
        session = known.enter()
        assert known.said() == [SHORT]
        assert (session.method, session.failures, session.memory) == ("apop", [], before)
        assert session.capabilities is not None
        assert "PIPELINING" in session.capabilities


def test_with_tls_at_connect(pki: Pki) -> None:
    site = Site(pki)
    site.server = Pop3Server(user="office", password=PASSWORD, context=pki.context(""), ssl=True)
    site.changes = {"ssl": True, "auth": ("user",), "timeout": 1.0}
    with site.server:
        site.enter()
        site.enter()
        site.leave()
        assert site.said() == [["CAPA", "USER", "PASS"], ["USER", "PASS"]]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda site: setattr(site.server, "faults", faults(greeting=b"+OK other {timestamp}\r\n")), FULL),
        (
            lambda site: setattr(site.server, "faults", faults(greeting=b"+OK POP3 ready\r\n")),
            [*FULL[:3], "USER", "PASS"],
        ),
        (lambda site: site.changes.update(auth=("apop",)), ["STLS", "CAPA", "APOP"]),
        (lambda site: site.changes.update(detect=("welcome",)), ["STLS", "APOP"]),
        (lambda site: site.changes.update(detect=("auth", "capa")), ["STLS", "CAPA", "USER", "PASS"]),
        (lambda site: setattr(site, "memory", site.memory.without_answers()), FULL),
        (lambda site: setattr(site, "memory", NO_MEMORY), FULL),
    ],
    ids=["greeting", "no timestamp", "auth", "no capa", "no welcome", "a day over", "nothing known"],
)
def test_the_long_way(known: Site, change: Callable[[Site], None], said: list[str]) -> None:
    change(known)
    known.enter()
    assert known.said() == [said]


def test_a_greeting_with_other_numbers_is_the_same(known: Site) -> None:
    for host in (
        b"+OK POP3 p17 ready for 192.0.2.7 x7f {timestamp}\r\n",
        b"+OK POP3 p2 ready for 192.0.2.99 77 {timestamp}\r\n",
    ):
        known.server.faults = faults(greeting=host)
        known.enter()
    assert [len(verbs) for verbs in known.said()] == [4, 2]


def test_another_host_is_asked(known: Site) -> None:
    with Pop3Server(user="office", password=PASSWORD, context=known.server.context, faults=faults()) as other:
        known.server = other
        known.enter()
        assert [session.verbs for session in other.sessions] == [FULL]
        known.leave()


def test_a_trial_detects_in_full(known: Site) -> None:
    known.enter(Trial("apop"))
    assert known.said() == [FULL]


def test_a_method_that_is_refused_now(known: Site) -> None:
    """All is asked, on the same connection; what was refused is not tried again."""
    known.server.faults = faults(refuse_apop=REFUSED)
    session = known.enter()
    assert known.said() == [["STLS", "APOP", "CAPA", "USER", "PASS"]]
    assert ([failure.method for failure in session.failures], session.method) == (["apop"], "user")
    known.enter()
    assert known.said() == [["STLS", "USER", "PASS"]]


def test_a_method_that_ends_the_line(known: Site) -> None:
    known.server.faults = faults(refuse_apop=REFUSED, drop_after_failed_login=True)
    session = known.enter()
    assert known.said() == [["STLS", "APOP"], ["CAPA", "STLS", "CAPA", "USER", "PASS"]]
    assert session.memory.mute == ()
    known.server.faults = faults(replies={"PASS": "drop"})
    session = known.enter()
    assert known.said() == [["STLS", "USER", "PASS"], FULL]
    assert session.method == "apop"


def test_a_wrong_password_costs_no_more_attempts(known: Site) -> None:
    known.changes["auth"] = ("user",)
    known.enter()
    known.said()
    known.server.password = b"another"
    with pytest.raises(AuthenticationFailed):
        known.enter()
    assert known.said() == [["STLS", "USER", "PASS"]]
    known.server.faults = faults(refuse_user=REFUSED)
    with pytest.raises(AuthenticationFailed):
        known.enter()
    assert known.said() == [["STLS", "USER", "PASS", "CAPA"]]


@pytest.mark.parametrize("code", [b"IN-USE", b"LOGIN-DELAY", b"SYS/TEMP"])
def test_a_refusal_for_now_is_final(known: Site, code: bytes) -> None:
    known.server.faults = faults(refuse_apop=b"-ERR [%s] wait\r\n" % code)
    with pytest.raises(TemporaryReplyError):
        known.enter()
    assert known.said() == [SHORT]


@pytest.mark.parametrize("tls", ["required", "wanted"])
@pytest.mark.parametrize("offered", [True, False])
def test_stls_that_is_refused_now(known: Site, tls: str, offered: bool) -> None:
    """It is refused as it would have been the long way; nothing but a method that the settings allow goes in the clear."""
    known.changes["tls"] = tls
    known.server.faults = faults(stls="refuse", capa=(*CAPA, *([b"STLS"] * offered)))
    asked = ["STLS", "CAPA", *["STLS"] * offered]
    if tls == "required":
        with pytest.raises(TlsError, match="refused STLS" if offered else "not offer STLS"):
            known.enter()
        assert known.said() == [asked]
        return
    session = known.enter()
    assert known.said() == [[*asked, "APOP"]]
    assert (session.link.stream.tls, len(session.warnings)) == (False, 1)
    known.server.faults = faults()
    known.enter()  # STLS is looked for each time
    assert known.said() == [FULL]


@pytest.mark.parametrize("trouble", ["hang", "drop"])
def test_stls_that_breaks_the_line(known: Site, trouble: Any) -> None:
    known.server.faults = faults(stls=trouble)
    with pytest.raises(TlsError):
        known.enter()
    assert known.said()[0] == ["STLS"]


def test_what_comes_before_tls_ends_the_login(known: Site) -> None:
    known.server.faults = faults(stls_injected=b"+OK\r\n")
    with pytest.raises(PoprepError, match="in the clear before TLS began"):
        known.enter()
    assert known.said() == [["STLS"]]


@pytest.mark.usefixtures("distant")
@pytest.mark.parametrize("method", ["apop", "user"])
def test_a_password_in_the_clear_is_asked_about_each_time(site: Site, method: str) -> None:
    site.changes = {"tls": "off", "auth": (method,), "clear_text": "allow", "timeout": 1.0}
    login = {"apop": ["APOP"], "user": ["USER", "PASS"]}[method]
    site.enter()
    site.enter()
    assert site.said()[1] == [*(["CAPA"] if method == "user" else []), *login]
    site.changes["clear_text"] = "refuse"
    site.memory = replace(site.memory, method="user")
    if method == "user":
        with pytest.raises(AuthenticationFailed):
            site.enter()
        assert not {"USER", "PASS"} & set(site.said()[0])


@pytest.mark.usefixtures("distant")
def test_memory_of_a_line_with_tls_is_none_of_one_without(known: Site) -> None:
    known.changes["auth"] = ("user",)
    known.enter()
    known.said()
    known.changes["tls"] = "off"
    with pytest.raises(AuthenticationFailed, match="not encrypted"):
        known.enter()
    assert not {"USER", "PASS"} & {verb for verbs in known.said() for verb in verbs}


def test_nothing_remembered_makes_another_method_the_next_one(site: Site) -> None:
    """A memory that names a method which can't be used now leads to asking, not to the next one by what is remembered."""
    site.changes = {"tls": "off", "auth": ("external", "apop", "user"), "timeout": 1.0}
    site.enter()
    site.leave()
    site.said()
    made = site.memory
    assert made.answers is not None
    capabilities = made.answers.capabilities | {"SASL": ("EXTERNAL",)}
    announcements = made.announcements.replace("CAPA ;", "CAPA external;")
    site.memory = Memory("external", announcements, (), (), Answers(made.answers.greeting, capabilities))
    site.enter()
    assert site.said() == [["CAPA", "AUTH", "APOP"]]


def test_what_would_take_too_much_room_is_not_remembered(site: Site) -> None:
    site.changes["tls"] = "off"
    site.server.faults = Pop3Faults(capa=(*CAPA, *(b"X-%03d %s" % (number, b"x" * 100) for number in range(50))))
    assert site.enter().memory.answers is None


@pytest.mark.parametrize("hidden", [False, True])
def test_scram_goes_the_long_way_where_plus_was_taken_up(tmp_path: Path, hidden: bool) -> None:
    """To the server it looks as if somebody had hidden its -PLUS; if somebody has, the login ends, with no other method."""
    pki = make_pki(tmp_path, "office")
    plain, plus = "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"
    server = Scripted({plain: scram(plain)}, capa=[plain], context=pki.context)
    tls: dict[str, Any] = {"ssl": True, "tls_settings": pki.trusting}
    with logged_in(server, plus.lower(), plain.lower(), "plain", **tls) as session:
        server.halves = {plain: scram(plain, unique=True), plus: scram(plus, unique=True)}
        server.capa = ["PLAIN"] if hidden else [plain, plus, "PLAIN"]
        pop3 = settings(server.port, plus.lower(), plain.lower(), "plain", **tls)
        if hidden:
            with pytest.raises(TlsError, match="somebody is between us"):
                log_in(pop3, SCRIPTED_PASSWORD, Stop(), session.memory)
        else:
            again = log_in(pop3, SCRIPTED_PASSWORD, Stop(), session.memory)
            again.link.close()
            assert (again.method, again.failures) == (plus.lower(), [])
    long = ["CAPA", "AUTH"] if hidden else ["CAPA", f"AUTH {plus}"]
    assert server.lines[1:] == [[f"AUTH {plain}"], long]
