"""Methods that no packaged server offers, over real sockets and TLS: -PLUS, EXTERNAL, NTLM and MSN; what the server saw."""

from __future__ import annotations

import base64
import hashlib
import socket
import ssl
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from poprep_cli.config.model import Address, Smtp
from poprep_cli.errors import AuthenticationFailed, PoprepError, RemoteProtocolError, TlsError
from poprep_cli.net import smtp_login
from poprep_cli.net.authenticate import Turn, exchange, mechanisms
from poprep_cli.net.link import Link
from poprep_cli.net.login import log_in
from poprep_cli.net.stop import Stop
from poprep_cli.protocol import pop3 as commands
from poprep_cli.protocol.sasl.mechanism import Credentials
from poprep_cli.protocol.smtp import Command as SmtpCommand
from poprep_cli.protocol.smtp import Reply as SmtpReply
from tests.net.scripted import (
    PASSWORD,
    USER,
    Between,
    Exchange,
    Half,
    Pki,
    Refusal,
    Scripted,
    cram_md5,
    external,
    logged_in,
    make_pki,
    ntlm,
    ntlm_accounts,
    plain,
    refuses,
    scram,
    settings,
)

IDENTITY = "office@corp.example"
WRONG = "not-that-one"


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return make_pki(tmp_path_factory.mktemp("pki"), IDENTITY)


def refused(server: Scripted, error: type[PoprepError], *auth: str, password: str = PASSWORD, **changes: Any) -> str:
    """Return what the error says that a login ends with. The password is not in it, in no form."""
    with server, pytest.raises(error) as caught:
        log_in(settings(server.port, *auth, **changes), password, Stop())
    text = f"{caught.value} {caught.value.hint}"
    assert type(caught.value) is error
    for secret in (password, base64.b64encode(password.encode()).decode(), password.encode().hex()):
        assert secret not in text
    return text


# SCRAM with channel binding


PLUS = ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-1-PLUS"]


KINDS = ["tls-unique", "tls-server-end-point"]


def binds(kind: str, pki: Pki) -> dict[str, Any]:
    return {"unique": True} if kind == "tls-unique" else {"certificate": pki.certificate}


def bound(name: str, pki: Pki, kind: str = "tls-unique", **how: Any) -> Scripted:
    return Scripted({name: scram(name, **binds(kind, pki), **how)}, capa=[name], context=pki.context)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("name", PLUS)
def test_scram_plus(name: str, version: ssl.TLSVersion, pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pki.context, "maximum_version", version)
    server = bound(name, pki)
    with logged_in(server, name.lower(), ssl=True, tls_settings=pki.trusting) as session:
        assert session.method == name.lower()
        assert session.failures == []
        unique = session.link.stream.unique_binding() or b"none"
    first, final, last = server.exchanges[0].heard
    assert first.startswith(b"p=tls-unique,,n=office,r=")
    assert base64.b64decode(final.split(b",")[0][2:]).endswith(unique)
    assert last == b""
    assert server.lines == [["CAPA", f"AUTH {name}"]]


@pytest.mark.parametrize("name", PLUS)
def test_scram_plus_with_a_server_that_does_not_know_tls_unique(name: str, pki: Pki) -> None:
    server = bound(name, pki, "tls-server-end-point")
    tls: dict[str, Any] = {"ssl": True, "tls_settings": pki.trusting}
    with logged_in(server, name.lower(), **tls) as session:
        assert session.method == name.lower()
        assert session.failures == []
        assert session.memory.mute == ("tls-unique",)
        log_in(
            settings(server.port, name.lower(), **tls), PASSWORD, Stop(), session.memory.without_answers()
        ).link.close()
    refused, accepted, again = (exchange.heard for exchange in server.exchanges)
    assert refused[0].startswith(b"p=tls-unique,,n=office,r=")
    for first, final, last in (accepted, again):
        assert first.startswith(b"p=tls-server-end-point,,n=office,r=")
        assert pki.binding in base64.b64decode(final.split(b",")[0][2:])
        assert last == b""
    # One connection, and from the second login on no attempt in vain.
    assert server.lines == [["CAPA", f"AUTH {name}", f"AUTH {name}"], ["CAPA", f"AUTH {name}"]]


def test_scram_plus_where_tls_has_no_unique_binding(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssl.SSLSocket, "get_channel_binding", lambda _self, _kind: None)
    server = bound(PLUS[0], pki, "tls-server-end-point")
    with logged_in(server, PLUS[0].lower(), ssl=True, tls_settings=pki.trusting) as session:
        assert session.memory.mute == ()
    assert server.lines == [["CAPA", f"AUTH {PLUS[0]}"]]


@pytest.mark.parametrize("name", PLUS)
def test_a_server_that_knows_no_type_of_channel_binding(name: str, pki: Pki) -> None:
    def half(exchange: Exchange) -> None:
        exchange.first()
        raise Refusal(b"e=unsupported-channel-binding-type")

    weaker = name.removesuffix("-PLUS")
    halves = {name: half, weaker: scram(weaker)}
    server = Scripted(halves, capa=[name, weaker], context=pki.context)
    auth = (name.lower(), weaker.lower())
    with logged_in(server, *auth, ssl=True, tls_settings=pki.trusting) as session:
        assert session.method == weaker.lower()
        assert [failure.method for failure in session.failures] == [name.lower()]
    assert server.lines == [["CAPA", f"AUTH {name}", f"AUTH {name}", f"AUTH {weaker}"]]
    assert server.exchanges[-1].heard[0].startswith(b"n,,")  # it was announced: nobody has taken it away


@pytest.mark.parametrize("name", PLUS)
def test_scram_plus_with_a_wrong_password(name: str, pki: Pki) -> None:
    text = refused(
        bound(name, pki), AuthenticationFailed, name.lower(), password=WRONG, ssl=True, tls_settings=pki.trusting
    )
    assert "[AUTH] no" in text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PLUS)
def test_scram_plus_through_somebody_in_between(name: str, kind: str, pki: Pki) -> None:
    # His certificate is as good as the server's to TLS. The server sees another one in the binding, and says so: no
    # other method is tried, which would log him in.
    weaker = name.removesuffix("-PLUS")
    server = bound(name, pki, kind)
    server.halves |= {weaker: scram(weaker), "PLAIN": plain}
    server.capa = [name, weaker, "PLAIN"]
    auth = (name.lower(), weaker.lower(), "plain")
    with server, Between(server, pki.other) as between, pytest.raises(TlsError) as caught:
        log_in(settings(between.port, *auth, ssl=True, tls_settings=pki.trusting), PASSWORD, Stop())
    assert "somebody is between us and the server" in str(caught.value)
    assert "channel-bindings-dont-match" in str(caught.value)
    assert server.lines == [["CAPA", *[f"AUTH {name}"] * (1 + KINDS.index(kind))]]


def test_without_binding_the_same_one_in_between_is_not_noticed(pki: Pki) -> None:
    # What the test above would be worth if the proxy did not work.
    server = Scripted({"SCRAM-SHA-256": scram("SCRAM-SHA-256")}, capa=["SCRAM-SHA-256"], context=pki.context)
    with server, Between(server, pki.other) as between:
        pop3 = settings(between.port, "scram-sha-256", ssl=True, tls_settings=pki.trusting)
        log_in(pop3, PASSWORD, Stop()).link.close()
    assert server.exchanges[0].heard[-1] == b""


def run(port: int, method: str, credentials: Credentials, *, misses_binding: bool = False, **changes: Any) -> bool:
    """Run one exchange on a connection of its own and return whether the server accepted."""
    link = Link(settings(port, method, **changes), Stop())
    try:
        mechanism = next(mechanisms(method, credentials, link.stream, misses_binding=misses_binding, unknown=set()))

        def turn(command: commands.Command) -> Turn:
            reply = link.ask(command)
            return Turn(reply.challenge, reply.ok)

        return exchange(
            mechanism,
            lambda initial: turn(commands.auth(mechanism.name, None if initial is None else base64.b64encode(initial))),
            lambda response: turn(commands.auth_response(b"*" if response is None else base64.b64encode(response))),
            initial_allowed=200,
        )
    finally:
        link.close()


@pytest.mark.parametrize("name", PLUS)
def test_an_announcement_that_was_taken_away_is_noticed_by_the_server(name: str, pki: Pki) -> None:
    weaker = name.removesuffix("-PLUS")
    half = scram(weaker, certificate=pki.certificate)  # a server that can bind, whatever name the client chose
    server = Scripted({weaker: half}, capa=[name, weaker], context=pki.context)
    tls = {"ssl": True, "tls_settings": pki.trusting}
    with server, pytest.raises(TlsError, match="server-does-support-channel-binding"):
        run(server.port, weaker.lower(), Credentials(USER, PASSWORD), misses_binding=True, **tls)
    assert server.exchanges[0].heard[0].startswith(b"y,,n=office,")


@pytest.mark.parametrize(
    ("tls", "missed", "flag"), [(True, True, b"y"), (True, False, b"n"), (False, True, b"n"), (False, False, b"n")]
)
def test_the_flag_says_what_we_could_have_done(tls: bool, missed: bool, flag: bytes, pki: Pki) -> None:
    server = Scripted({"SCRAM-SHA-256": scram("SCRAM-SHA-256")}, context=pki.context if tls else None)
    changes = {"ssl": True, "tls_settings": pki.trusting} if tls else {}
    with server:
        assert run(server.port, "scram-sha-256", Credentials(USER, PASSWORD), misses_binding=missed, **changes)
    assert server.exchanges[0].heard[0].startswith(flag + b",,n=office,r=")


@pytest.mark.parametrize(
    ("announces", "plus", "flag"),
    [
        ("SCRAM-SHA-256", ("scram-sha-256-plus",), b"y"),
        ("LOGIN SCRAM-SHA-256", ("scram-sha-1-plus",), b"y"),
        ("SCRAM-SHA-256 SCRAM-SHA-1-PLUS", ("scram-sha-256-plus",), b"n"),
        ("SCRAM-SHA-256", (), b"n"),  # who switched the -PLUS methods off does not miss them
    ],
)
def test_the_flag_on_smtp(announces: str, plus: tuple[Any, ...], flag: bytes, pki: Pki) -> None:
    sent: list[bytes] = []

    def ask(command: SmtpCommand, _: float) -> SmtpReply:
        sent.append(command.line)
        return SmtpReply(535, "5.7.8", (b"5.7.8 no",), command)

    server = Scripted(context=pki.context)
    smtp = Smtp(addresses=(Address("127.0.0.1"),), user=USER, auth=("scram-sha-256", *plus))
    with server:
        link = Link(settings(server.port, ssl=True, tls_settings=pki.trusting), Stop())
        with pytest.raises(AuthenticationFailed):
            smtp_login.log_in(smtp, Credentials(USER, PASSWORD), smtp.addresses[0], link.stream, announces, ask)
        link.close()
    assert base64.b64decode(sent[0].split()[2]).startswith(flag + b",,n=office,r=")


def other_signature(message: str) -> str:
    return f"v={base64.b64encode(bytes(32)).decode()}" if message.startswith("v=") else message


def few_iterations(message: str) -> str:
    return message.replace("i=4096", "i=4095")


def many_iterations(message: str) -> str:
    return message.replace("i=4096", "i=1000001")


def other_nonce(message: str) -> str:
    return message.replace("r=", "r=x") if message.startswith("r=") else message


TAMPERED = [
    (other_signature, "does not prove"),
    (few_iterations, "wants 4095"),
    (many_iterations, "wants 1000001"),
    (other_nonce, "does not prove"),
]


@pytest.mark.parametrize(("tampered", "told"), TAMPERED)
@pytest.mark.parametrize("name", ["SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"])
def test_a_server_that_does_not_prove_itself(tampered: Callable[[str], str], told: str, name: str, pki: Pki) -> None:
    server = bound(name, pki, tampered=tampered)
    if not name.endswith("-PLUS"):
        server.halves[name] = scram(name, tampered=tampered)
    assert told in refused(server, RemoteProtocolError, name.lower(), ssl=True, tls_settings=pki.trusting)
    assert len(server.exchanges) == 1
    proofs = [response for response in server.exchanges[0].heard if b",p=" in response]
    assert len(proofs) == (1 if tampered is other_signature else 0)  # nothing to guess the password from


# EXTERNAL


@pytest.mark.parametrize("announced_by", ["capa", "listed"])
def test_external(announced_by: str, pki: Pki) -> None:
    how: dict[str, Any] = {"capa": None, announced_by: ["EXTERNAL"]}
    server = Scripted({"EXTERNAL": external(IDENTITY)}, context=pki.context, **how)
    with logged_in(server, "external", ssl=True, tls_settings=pki.presenting, user=IDENTITY) as session:
        assert session.method == "external"
    assert server.exchanges[0].heard == [IDENTITY.encode()]


@pytest.mark.parametrize("who", ["nobody", "somebody else"])
def test_external_refused(who: str, pki: Pki) -> None:
    tls_settings = pki.trusting if who == "nobody" else pki.presenting
    user = IDENTITY if who == "nobody" else "boss@corp.example"
    server = Scripted({"EXTERNAL": external(user)}, capa=["EXTERNAL"], context=pki.context)
    refused(server, AuthenticationFailed, "external", ssl=True, tls_settings=tls_settings, user=user)


def test_external_needs_tls() -> None:
    server = Scripted({"EXTERNAL": external(IDENTITY)}, capa=["EXTERNAL"])
    assert "a client certificate needs TLS" in refused(server, AuthenticationFailed, "external", user=IDENTITY)
    assert server.exchanges == []


# NTLM and MSN


class Type3(NamedTuple):
    """The fields of an AUTHENTICATE_MESSAGE (MS-NLMP 2.2.1.3)."""

    lm: bytes
    nt: bytes
    domain: str
    user: str
    workstation: str


def type3(message: bytes) -> Type3:
    assert message.startswith(b"NTLMSSP\0\x03\0\0\0")
    fields = [struct.unpack_from("<HHI", message, place) for place in (12, 20, 28, 36, 44)]
    lm, nt, *names = [message[place : place + length] for length, _, place in fields]
    return Type3(lm, nt, *(name.decode("utf-16-le") for name in names))


def assert_version_2(message: Type3) -> None:
    assert len(message.nt) > 24  # 24 octets are version 1 (2.2.2.6)
    assert message.nt[16:18] == b"\x01\x01"  # the client's challenge of version 2 (2.2.2.7)
    assert message.lm == bytes(24)


ACCOUNTS = (f"CORP:office:{PASSWORD}", f":office@corp.example:{PASSWORD}", "BÜRO:jörg:größer")
PEOPLE = [
    ("office", "CORP", PASSWORD, ("CORP", "office")),
    (r"CORP\office", "", PASSWORD, ("CORP", "office")),
    ("office@corp.example", "", PASSWORD, ("", "office@corp.example")),
    ("jörg", "BÜRO", "größer", ("BÜRO", "jörg")),
]


@pytest.mark.parametrize("name", ["NTLM", "MSN"])
@pytest.mark.parametrize(("user", "domain", "password", "seen"), PEOPLE)
@pytest.mark.parametrize("announced_by", ["capa", "listed"])
def test_ntlm(name: str, user: str, domain: str, password: str, seen: tuple[str, str], announced_by: str) -> None:
    how: dict[str, Any] = {"capa": None, announced_by: [name]}
    server = Scripted({name: ntlm()}, **how)
    login = logged_in(server, name.lower(), password=password, user=user, domain=domain)
    with ntlm_accounts(*ACCOUNTS), login as session:
        assert session.method == name.lower()
    message = type3(server.exchanges[0].heard[-1])
    assert_version_2(message)
    assert (message.domain, message.user) == seen
    assert message.workstation == "WORKSTATION"  # and not the name of this host
    # Where AUTH alone announced it, the negotiate message waits for the challenge (RFC 5034 is not known to that server).
    assert server.lines[0][-1] == f"AUTH {name}"
    auth = next(command for command in server.sessions[0].commands if command.line.startswith(b"AUTH " + name.encode()))
    assert (len(auth.line.split()) == 3) is (announced_by == "capa")


@pytest.mark.parametrize("name", ["NTLM", "MSN"])
def test_ntlm_with_a_wrong_password(name: str) -> None:
    server = Scripted({name: ntlm()}, capa=[name])
    with ntlm_accounts(*ACCOUNTS):
        refused(server, AuthenticationFailed, name.lower(), password=WRONG, domain="CORP")
    assert_version_2(type3(server.exchanges[0].heard[-1]))


@pytest.mark.parametrize("whose", ["server", "between"])
def test_ntlm_is_bound_to_the_tls_session(whose: str, pki: Pki) -> None:
    server = Scripted({"NTLM": ntlm(binding=pki.binding)}, capa=["NTLM"], context=pki.context)
    changes: dict[str, Any] = {"ssl": True, "tls_settings": pki.trusting, "domain": "CORP"}
    with ntlm_accounts(*ACCOUNTS), server, Between(server, pki.other) as between:
        if whose == "server":
            log_in(settings(server.port, "ntlm", **changes), PASSWORD, Stop()).link.close()
            return
        with pytest.raises(AuthenticationFailed):
            log_in(settings(between.port, "ntlm", **changes), PASSWORD, Stop())


@pytest.mark.parametrize("workstation", ["PC-17", "", "büro"])
def test_the_workstation(workstation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETBIOS_COMPUTER_NAME", "TELLTALE")
    server = Scripted({"NTLM": ntlm()})
    with ntlm_accounts(*ACCOUNTS), server:
        assert run(server.port, "ntlm", Credentials(USER, PASSWORD, "CORP", workstation))
    negotiate, authenticate = server.exchanges[0].heard
    assert type3(authenticate).workstation == workstation
    for telltale in ("TELLTALE", socket.gethostname().upper()):
        assert telltale.encode() not in negotiate
    assert "TELLTALE".encode("utf-16-le") not in authenticate


def test_a_password_that_looks_like_a_hash_is_a_password() -> None:
    password = f"{'0' * 32}:{'a1' * 16}"
    server = Scripted({"NTLM": ntlm()})
    with ntlm_accounts(*ACCOUNTS), server:
        assert not run(server.port, "ntlm", Credentials(USER, password, "CORP"))


# What is not there, what can't be sent, what is echoed


def test_a_system_without_md5_skips_what_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_md5(*_: object, **__: object) -> None:
        raise ValueError("[digital envelope routines] unsupported")

    names = ["CRAM-MD5", "NTLM", "MSN", "PLAIN"]
    server = Scripted({"CRAM-MD5": cram_md5, "NTLM": ntlm(), "MSN": ntlm(), "PLAIN": plain}, capa=names, timestamp=True)
    monkeypatch.setattr(hashlib, "md5", no_md5)
    with logged_in(server, "cram-md5", "ntlm", "msn", "apop", "plain", "user") as session:
        assert session.method == "plain"
        failures = [(failure.method, failure.why, failure.hung_up) for failure in session.failures]
    reason = "this system has no MD5"
    assert failures == [(method, reason, False) for method in ("cram-md5", "ntlm", "msn", "apop")]
    assert server.lines == [["CAPA", "AUTH PLAIN"]]  # nothing of them went over the wire


@pytest.mark.parametrize("password", ["grün-\U0001f511", "line\u2028end", "\u0627a"])
def test_a_password_that_scram_forbids_is_left_to_the_next_method(password: str) -> None:
    # RFC 5802 2.2: a password is a stored string, so code points that Unicode 3.2 had not assigned are prohibited.
    server = Scripted({"SCRAM-SHA-256": refuses}, capa=["SCRAM-SHA-256"], user=True, password=password)
    with logged_in(server, "scram-sha-256", "user", password=password) as session:
        assert session.method == "user"
        assert [failure.method for failure in session.failures] == ["scram-sha-256"]
        assert password not in session.failures[0].why
    assert server.exchanges == []


@pytest.mark.parametrize(("name", "password"), [("SCRAM-SHA-256", "größer"), ("SCRAM-SHA-1", "Ⅸ\u00a0\u00ad5")])
def test_a_password_that_saslprep_changes(name: str, password: str) -> None:
    # The server has it as SASLprep leaves it (RFC 4013), as in the RFC's own examples: a soft hyphen is dropped.
    prepared = {"größer": "größer", "Ⅸ\u00a0\u00ad5": "IX 5"}[password]
    server = Scripted({name: scram(name, password=prepared)}, capa=[name])
    with logged_in(server, name.lower(), password=password) as session:
        assert session.method == name.lower()


ECHOED: list[tuple[str, Half]] = [
    ("SCRAM-SHA-256", scram("SCRAM-SHA-256", password="another")),
    ("SCRAM-SHA-1", scram("SCRAM-SHA-1", password="another")),
    ("CRAM-MD5", cram_md5),
    ("NTLM", ntlm()),
    ("MSN", ntlm()),
    ("PLAIN", refuses),
]


@pytest.mark.parametrize(("name", "half"), ECHOED)
def test_what_a_server_echoes_is_not_told(name: str, half: Half) -> None:
    server = Scripted({name: half}, capa=[name], echoes=True)
    with ntlm_accounts("CORP:office:another"):
        text = refused(server, AuthenticationFailed, name.lower(), domain="CORP")
    assert "***" in text
    for response in filter(None, server.exchanges[0].heard):
        assert base64.b64encode(response).decode() not in text
        for part in response.split(b" ")[-1].split(b","):
            assert len(part) < 16 or part.decode("latin-1") not in text


@pytest.mark.parametrize(("method", "verb"), [("apop", "APOP"), ("user", "PASS")])
def test_what_a_server_echoes_of_a_command_is_not_told(method: str, verb: str, tmp_path: Path) -> None:
    server = Scripted(timestamp=True, user=True, echoes=True, password="another")
    text = refused(server, AuthenticationFailed, method)
    sent = next(command.line for command in server.sessions[0].commands if command.verb == verb)
    assert sent.split()[-1].decode() not in text


@pytest.mark.parametrize("name", PLUS)
def test_an_announcement_taken_away_by_somebody_in_between(name: str, pki: Pki) -> None:
    weaker = name.removesuffix("-PLUS")
    half = scram(weaker, certificate=pki.certificate)
    server = Scripted({weaker: half, "PLAIN": plain}, capa=[name, weaker, "PLAIN"], context=pki.context)
    auth = (name.lower(), weaker.lower(), "plain")
    with server, Between(server, pki.other, lambda said: said.replace(name.encode() + b" ", b"")) as between:
        pop3 = settings(between.port, *auth, ssl=True, tls_settings=pki.trusting)
        with pytest.raises(TlsError, match="somebody is between us and the server"):
            log_in(pop3, PASSWORD, Stop())
    assert server.lines == [["CAPA", "AUTH", f"AUTH {weaker}"]]


def test_the_workstation_of_the_settings() -> None:
    server = Scripted({"NTLM": ntlm()}, capa=["NTLM"])
    with ntlm_accounts(*ACCOUNTS), logged_in(server, "ntlm", domain="CORP", workstation="PC-17"):
        assert type3(server.exchanges[0].heard[-1]).workstation == "PC-17"
