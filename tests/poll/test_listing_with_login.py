"""Passes that ask for the listing together with the login: what the server sees, what a failure costs, what the next pass does."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from poprep_cli.config.model import Address
from poprep_cli.embedded.channel import Channel
from poprep_cli.embedded.pop3_session import Pop3Session
from poprep_cli.embedded.sessions import Session
from poprep_cli.net.stream import Stream
from tests.poll.world import PASSWORD, USER, Done, Pop3Faults, Pop3Server, World, make

CAPA = (b"TOP", b"UIDL", b"USER", b"RESP-CODES", b"PIPELINING", b"SASL PLAIN")
LOGIN = {"plain": ["AUTH"], "apop": ["APOP"], "user": ["USER", "PASS"]}
NO = b"-ERR no\r\n"


class WithPlain(Pop3Session):
    """A session that knows AUTH PLAIN with an initial response."""

    def __init__(self, server: Pop3Server, channel: Channel) -> None:
        super().__init__(server, channel)
        self._authorization["AUTH"] = self._auth

    def _auth(self, argument: bytes) -> None:
        if not argument:
            self._write(b"-ERR which?\r\n")
            return
        _, user, password = b64decode(argument.split()[1]).split(b"\0")
        right = (user, password) == (self._server.user, self._server.password)
        self._log_in(password, right=right, refusal=self._faults.refuse_user)


class Troubled(Pop3Server):
    """A server with `troubles` in its next sessions, one each, and none after them."""

    troubles: list[Pop3Faults]

    def _converse(self, channel: Channel) -> None:
        self.faults = self.troubles.pop(0) if self.troubles else faults()
        WithPlain(self, channel).run()


def faults(**more: Any) -> Pop3Faults:
    return Pop3Faults(**({"capa": CAPA} | more))


class Site:
    """A mailbox that was polled once; its method is the preferred one."""

    def __init__(self, world: World, server: Troubled, *auth: str) -> None:
        self.world = world
        self.server = server
        self.login = LOGIN[auth[0]]
        self.group = [*self.login, "UIDL", "LIST"]
        world.pop3_lines = f"auth = {list(auth)}"
        self.last: list[Session] = []

    def poll(self, code: int, *troubles: Pop3Faults, options: tuple[str, ...] = ()) -> list[list[list[str]]]:
        """Run a pass and return the verbs that each connection's server saw, batch by batch."""
        before = len(self.server.sessions)
        self.server.troubles = list(troubles)
        self.done: Done = self.world.poll("office", "--force", options=options)
        assert self.done.code == code, self.done
        assert PASSWORD not in self.done.err
        assert self.server.troubles == []
        self.last = self.server.sessions[before:]
        return [batches(session) for session in self.last]

    def moved(self) -> None:
        assert Counter(self.world.arrived) == Counter(self.world.sent)
        assert self.world.left == []


def batches(session: Session) -> list[list[str]]:
    return [[command.verb for command in group] for _, group in groupby(session.commands, lambda one: one.batch)]


def flat(sessions: list[list[list[str]]]) -> list[list[str]]:
    return [[verb for batch in session for verb in batch] for session in sessions]


def apart(login: list[str], *before: str) -> list[list[str]]:
    """Return the batches of a login that goes alone, in front of a listing in one."""
    return [*([verb] for verb in (*before, *login)), ["UIDL", "LIST"]]


def one_by_one(login: list[str], count: int, *before: str) -> list[list[str]]:
    verbs = [*before, *login, "UIDL", "LIST", *["RETR"] * count, *["DELE"] * count, "QUIT"]
    return [[verb] for verb in verbs]


def without_locked(site: Site, sessions: list[list[list[str]]]) -> list[list[list[str]]]:
    """Return the sessions without logins that came before the server had noticed that the session before has ended."""
    return [session for session in sessions if flat([session]) != [["CAPA", *site.login]]]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = make(tmp_path)
    server = Troubled(made.pop3.maildrop, user=USER, password=PASSWORD)
    server.troubles = []
    made.pop3 = server
    made.timeout = 0.5
    with made.pop3, made.smtp:
        yield made


@pytest.fixture(params=LOGIN)
def site(world: World, request: pytest.FixtureRequest) -> Site:
    assert isinstance(world.pop3, Troubled)
    site = Site(world, world.pop3, request.param)
    assert site.poll(0)[0][-3:] == [[site.login[-1]], ["UIDL", "LIST"], ["QUIT"]]
    world.letters(2)
    return site


def test_accepted(site: Site) -> None:
    (session,) = site.poll(0)
    assert session[0] == site.group
    site.moved()
    assert site.poll(0) == [[site.group, ["QUIT"]]]
    assert site.last[0].batches == 2


def refusal(text: bytes) -> dict[str, bytes]:
    return {"refuse_user": text, "refuse_apop": text}


def test_refused(site: Site) -> None:
    assert site.poll(77, faults(**refusal(NO))) == [[site.group, ["CAPA"]]]
    assert site.poll(0)[0][: len(site.login) + 2] == apart(site.login, "CAPA")
    site.moved()
    assert site.poll(0) == [[site.group, ["QUIT"]]]


def test_refused_for_good(site: Site) -> None:
    more = [["CAPA"]] if site.login == ["APOP"] else []
    assert site.poll(77, faults(**refusal(b"-ERR [AUTH] no\r\n"))) == [[site.group, *more]]


@pytest.mark.parametrize("code", [b"IN-USE", b"LOGIN-DELAY", b"SYS/TEMP"])
def test_refused_for_now(site: Site, code: bytes) -> None:
    assert site.poll(75, faults(**refusal(b"-ERR [%s] wait\r\n" % code))) == [[site.group]]
    assert code.decode() in site.done.err
    assert site.poll(0)[0][0] == site.group
    site.moved()


def test_refused_but_what_comes_behind_is_not(site: Site) -> None:
    trouble = faults(replies={"UIDL": b"+OK\r\n1 a\r\n.\r\n"}, **refusal(NO))
    assert site.poll(77, trouble) == [[site.group], [["CAPA"]]]
    assert len(site.world.left) == 2


def test_refused_and_dropped(site: Site) -> None:
    trouble = faults(drop_after_failed_login=True, **refusal(NO))
    assert site.poll(77, trouble) == [[site.login], [["CAPA"]]]
    site.poll(0)
    site.moved()


FORGETFUL = {
    "drops after the login": faults(replies={"UIDL": "drop"}),
    "hangs after the login": faults(replies={"UIDL": "hang"}),
    "junk": faults(replies={"UIDL": b"junk\r\n", "LIST": b"junk\r\n"}),
    "echo": faults(replies={"UIDL": b"what is %s?\r\n" % PASSWORD.encode()}),
    "ignores what is behind": faults(breaks_when_pipelined="discard"),
    "drops because of what is behind": faults(breaks_when_pipelined="drop"),
}


@pytest.mark.parametrize("trouble", FORGETFUL)
def test_a_server_that_loses_what_is_behind_the_login(site: Site, trouble: str) -> None:
    """It costs one connection, and is remembered: the listing is asked for after the login from then on."""
    first, second = without_locked(site, site.poll(0, FORGETFUL[trouble], options=("-vvv",)))
    assert len(first) == 1
    assert second == one_by_one(site.login, 2, "CAPA")
    site.moved()
    assert "announced but fails" not in site.done.err
    assert site.poll(0) == [[*apart(site.login), ["QUIT"]]]


@pytest.mark.parametrize("trouble", ["drop", "hang", b"+ \r\n", b"junk\r\n", b"%s?\r\n" % PASSWORD.encode()])
def test_a_login_without_an_answer(site: Site, trouble: Any) -> None:
    first, second = site.poll(0, faults(replies={site.login[-1]: trouble}), options=("-vvv",))
    assert len(first) == 1
    assert second == one_by_one(site.login, 2, "CAPA")
    site.moved()
    assert "announced but fails" not in site.done.err
    assert site.poll(0) == [[*apart(site.login), ["QUIT"]]]


def test_a_server_that_hangs_up_on_a_wrong_password(site: Site) -> None:
    """It may be the company: one more try. But then it is one at each pass."""
    trouble = faults(replies={site.login[-1]: "drop"})
    first, second, *rest = flat(site.poll(75, trouble, trouble, *[faults()] * (site.login != ["APOP"])))
    assert (first, second) == (site.login, ["CAPA", *site.login])
    assert rest in ([], [["CAPA"]])
    assert flat(site.poll(75, trouble, *[faults()] * len(rest)))[0] == ["CAPA", *site.login]
    site.poll(0)
    site.moved()


AMID = {
    "uidl": faults(replies={"UIDL": b"+OK\r\n1 u1\r\n", "LIST": "drop"}),
    "between": faults(replies={"LIST": "drop"}),
    "list": faults(replies={"LIST": lambda _: b"+OK\r\n1 10\r\n"}),
}


@pytest.mark.parametrize("trouble", AMID)
def test_dropped_amid_the_listing(site: Site, trouble: str) -> None:
    first, second = without_locked(site, site.poll(0, AMID[trouble]))
    assert first == [site.group]
    assert second == one_by_one(site.login, 2, "CAPA")
    site.moved()
    assert site.poll(0) == [[site.group, ["QUIT"]]]  # that was the line


def test_uidl_that_echoes_the_password(site: Site) -> None:
    """In its text it is masked everywhere, as it is and in base64."""
    encoded = b64encode(b"\0%s\0%s" % (USER.encode(), PASSWORD.encode()))
    trouble = faults(replies={"UIDL": b"-ERR %s %s?\r\n" % (PASSWORD.encode(), encoded)})
    sessions = site.poll(site.world.poll("office", "--dry-run").code, trouble, options=("-vvv",))
    assert sessions[0][0] == site.group
    assert encoded.decode() not in site.done.err
    assert "C: UIDL" in site.done.err
    assert "C: LIST" in site.done.err


@pytest.mark.parametrize("auth", [("apop", "user"), ("plain", "user"), ("user", "apop")])
def test_a_refusal_leads_to_the_next_method_on_the_same_connection(world: World, auth: tuple[str, str]) -> None:
    assert isinstance(world.pop3, Troubled)
    other = {"apop": "refuse_user", "plain": "refuse_apop", "user": "refuse_apop"}[auth[0]]
    refused = {"apop": "refuse_apop", "plain": "refuse_user", "user": "refuse_user"}[auth[0]]
    site = Site(world, world.pop3, *auth)
    site.poll(0, faults(**{other: NO}))
    world.letters(1)
    replies: dict[str, Any] = {"AUTH": NO} if auth[0] == "plain" else {}
    trouble = faults(replies=replies) if replies else faults(**{refused: NO})
    (session,) = site.poll(0, trouble)
    assert session[: 2 + len(LOGIN[auth[1]])] == [site.group, ["CAPA"], *([verb] for verb in LOGIN[auth[1]])]
    assert f"{auth[0]} is announced but fails and costs 1 round trip " in site.done.err
    site.moved()


def test_pipelining_that_is_switched_off(site: Site) -> None:
    site.world.pop3_lines += '\npipelining = "off"'
    site.world.write()
    assert site.poll(0) == [one_by_one(site.login, 2)]
    site.moved()


def test_user_goes_alone_in_the_clear(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is refused must not have taken the password along where others listen."""
    monkeypatch.setattr(Address, "is_local", property(lambda _: False))
    monkeypatch.setattr(Stream, "is_loopback", property(lambda _: False))
    site.world.pop3_lines += '\ntls = "off"\nclear_text = "allow"'
    site.world.smtp_lines = 'tls = "off"'
    site.world.write()
    site.poll(0)
    asked = [] if site.login == ["APOP"] else [["CAPA"]]
    assert site.poll(0) == [[*asked, *([verb] for verb in site.login[:-1]), site.group[-3:], ["QUIT"]]]
    if site.login == ["USER", "PASS"]:
        assert site.poll(77, faults(replies={"USER": NO}))[0] == [["CAPA"], ["USER"]]
