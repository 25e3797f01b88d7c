"""Methods x servers that echo x right and wrong password x commands: the password, and what it can be guessed from, is nowhere.

What the servers were sent is known: no response of a login may be in any output, at any verbosity, in the log of the highest
level, in the state or in what an exception says; nor may the servers' challenges, against which a password can be tried.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import pytest
import spnego

from poprep_cli.config.model import Address, Pop3, Secret
from poprep_cli.embedded.smtp import SmtpFaults, SmtpServer
from poprep_cli.embedded.smtp_faults import Stage
from poprep_cli.errors import PoprepError
from poprep_cli.net.link import Link
from poprep_cli.net.login import log_in
from poprep_cli.net.smtp_link import SmtpLink
from poprep_cli.net.stop import Stop
from tests.net.scripted import PASSWORD, TIMESTAMP, USER, Exchange, Half, Refusal, Scripted, ntlm, ntlm_accounts, scram
from tests.poll.outcome import PASSWORD as POP3_PASSWORD
from tests.poll.world import World

WRONG = "n0t-that-one!"
RELAY, RELAY_PASSWORD = "relay", "C0rrect-h0rse"
LONG = 12  # octets: what is shorter proves nothing when it is found


def plain(exchange: Exchange) -> None:
    """Take the right password by PLAIN."""
    if exchange.first() != f"\0{USER}\0{PASSWORD}".encode():
        raise Refusal


def login(exchange: Exchange) -> None:
    """Take the right password by LOGIN."""
    exchange.ask(b"Username:")
    if exchange.ask(b"Password:") != PASSWORD.encode():
        raise Refusal


def cram_md5(exchange: Exchange) -> None:
    """Take the right password by CRAM-MD5."""
    digest = hmac.new(PASSWORD.encode(), TIMESTAMP, hashlib.md5).hexdigest()
    if exchange.ask(TIMESTAMP) != f"{USER} {digest}".encode():
        raise Refusal


HALVES: dict[str, Half] = {
    "scram-sha-256": scram("SCRAM-SHA-256"),
    "scram-sha-1": scram("SCRAM-SHA-1"),
    "cram-md5": cram_md5,
    "ntlm": ntlm(),
    "msn": ntlm(),
    "plain": plain,
    "login": login,
}
METHODS = [*HALVES, "apop", "user"]
COMMANDS: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    (("-q",), ("poll", "--force")),
    ((), ("poll", "--force")),
    (("-v",), ("poll", "--force", "--dry-run")),
    (("-vv",), ("poll", "--force")),
    (("-vvv",), ("poll", "--force")),
    (("-vvv",), ("poll", "--force", "--json")),
    (("-vvv",), ("purge",)),
    ((), ("purge", "--json")),
    ((), ("test-auth",)),
    (("-vvv",), ("test-auth", "office")),
    (("-vv",), ("test-auth", "--json")),
]
SILENT_COMMANDS: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    (("-vvv",), ("probe", "office")),
    ((), ("probe", "office", "--json")),
    (("-vvv",), ("config", "check")),
    (("-vvv",), ("config", "check", "--ask")),
    (("-vvv",), ("config", "show")),
    (("-vvv",), ("config", "show", "office")),
    ((), ("config", "set", "connector.office.pop3.timeout", "2")),
]


def of_password(password: str, user: str) -> set[bytes]:
    """Return the forms of a password: as it is, for PLAIN, in base64 wherever it may begin, hexadecimal, NTLM's."""
    octets, wide = password.encode(), password.encode("utf-16-le")
    found = {octets, wide, octets.hex().encode(), wide.hex().encode()}
    for before in (b"", f"\0{user}\0".encode(), f"{user}\0{user}\0".encode(), b"x", b"xy"):
        encoded = base64.b64encode(before + octets)
        found |= {encoded[4 * ((len(before) + 2) // 3) : 4 * (len(before + octets) // 3)]}
    for digest in ("md5", "sha1", "sha256"):
        found.add(hashlib.new(digest, octets, usedforsecurity=False).hexdigest().encode())
    return found


def of_login(lines: Sequence[bytes]) -> set[bytes]:
    """Return what must not be told of the lines that a server was sent in a login, or sent itself: base64 and what is in it."""
    found: set[bytes] = set()
    for line in lines:
        for word in line.split():
            found.add(word)
            try:
                octets = base64.b64decode(word, validate=True)
            except ValueError:
                continue
            found |= {octets, octets.hex().encode(), *octets.replace(b"\0", b" ").replace(b",", b" ").split()}
    return {one for one in found if len(one) >= LONG}


def credentials(lines: Sequence[bytes]) -> list[bytes]:
    """Return what of the lines of a session belongs to a login, verbs and mechanisms left out."""
    found = []
    for line in lines:
        words = line.split(b" ")
        if words[0].upper() in (b"AUTH", b"APOP", b"PASS"):
            found += words[2:] if words[0].upper() != b"PASS" else words[1:]
        elif len(words) == 1 and len(line) >= LONG:
            found.append(line)
    return found


def assert_nowhere(needles: set[bytes], world: World, *texts: str) -> None:
    """Assert that nothing of it is in the texts nor in any file of the state folder, where the log is, too."""
    places = {f"text {number}": text.encode() for number, text in enumerate(texts)}
    places |= {str(path): path.read_bytes() for path in world.state.rglob("*") if path.is_file()}
    for place, data in places.items():
        lower = data.lower()
        for needle in needles:
            assert needle.lower() not in lower, (place, needle)


def configured(world: World, address: str, method: str, password: str, more: str = "") -> None:
    """Write a configuration with one method, and the log at its highest level."""
    world.config.unlink(missing_ok=True)
    world.config.touch(mode=0o600)
    text = f"""\
[log]
level = 4
[smtp]
host = "{world.smtp.address}"
timeout = 1
{more}
[connector.office.pop3]
host = "{address}"
user = "{USER}"
password = "{password}"
domain = "CORP"
auth = ["{method}"]
timeout = 1
[connector.office.routing]
send_to = ["office@corp.example"]
"""
    world.config.write_text(text, "utf-8")


def run_all(world: World, commands: Sequence[tuple[tuple[str, ...], tuple[str, ...]]]) -> Iterator[str]:
    for options, (command, *arguments) in commands:
        done = world.command(command, *arguments, options=options)
        assert "Traceback" not in done.err
        yield done.out
        yield done.err


def chain(error: BaseException) -> str:
    """Return all that an exception and those behind it say, their attributes included."""
    found, seen = [], []
    current: BaseException | None = error
    while current is not None and current not in seen:
        seen.append(current)
        found += [repr(current), str(current), str(getattr(current, "hint", "")), str(getattr(current, "reply", ""))]
        current = current.__cause__ or current.__context__
    return "\n".join([*found, "".join(traceback.format_exception(error))])


@pytest.mark.parametrize("password", [PASSWORD, WRONG], ids=["right", "wrong"])
@pytest.mark.parametrize("echoes", [False, True], ids=["", "echo"])
@pytest.mark.parametrize("method", METHODS)
def test_pop3(world: World, method: str, echoes: bool, password: str) -> None:
    name = method.upper()
    server = Scripted(
        {name: HALVES[method]} if method in HALVES else {},
        capa=[name] if method in HALVES else (),
        listed=[name] if method in HALVES else None,
        timestamp=True,
        user=True,
        echoes=echoes,
    )
    texts: list[str] = []
    with server, ntlm_accounts(f"CORP:{USER}:{PASSWORD}"):
        configured(world, server.address, method, password)
        texts += run_all(world, COMMANDS)
        tried = len(server.sessions)
        texts += run_all(world, SILENT_COMMANDS)
        pop3 = Pop3(
            address=Address("127.0.0.1", server.port),
            tls="off",
            user=USER,
            domain="CORP",
            password=Secret(value=password),
            auth=(method,),  # type: ignore[arg-type]
            timeout=2.0,
        )
        with nullcontext() if password == PASSWORD else pytest.raises(PoprepError) as caught:
            session = log_in(pop3, password, Stop())
            texts.append(repr(session))
            session.link.close()
        if caught is not None:
            texts.append(chain(caught.value))
        texts.append(repr(pop3))
    sent = [credentials([command.line for command in session.commands]) for session in server.sessions]
    assert all(sent[:tried])  # each of the commands has tried to log in
    assert sent[tried:-1] == [[]] * len(sent[tried:-1])  # and of the others none
    needles = of_password(password, USER) | of_login([line for lines in sent for line in lines])
    needles |= {one for exchange in server.exchanges for heard in exchange.heard for one in of_heard(heard)}
    needles.add(base64.b64encode(TIMESTAMP))
    assert_nowhere(needles, world, *texts)
    assert any("POP3 C: " in text for text in texts)


def of_heard(octets: bytes) -> set[bytes]:
    """Return the forms of a response."""
    return {one for one in (octets, octets.hex().encode(), base64.b64encode(octets)) if len(one) >= LONG}


def challenged(said: bytes) -> bytes | None:
    """Return the reply to AUTH with the initial response of SCRAM or NTLM; None: the server does as it can."""
    mechanism, _, initial = said.partition(b" ")
    if mechanism == b"NTLM":
        server = spnego.server(protocol="ntlm", options=spnego.NegotiateOptions.use_ntlm)
        challenge = server.step(base64.b64decode(initial)) or b""
    elif mechanism.startswith(b"SCRAM"):
        nonce = base64.b64decode(initial).partition(b"r=")[2]
        challenge = b"r=%s-and-mine,s=QSXCR+Q6sek8bf92,i=4096" % nonce
    else:
        return None
    return b"334 " + base64.b64encode(challenge) + b"\r\n"


def refusing(words: Callable[[bytes], bytes]) -> dict[Stage, Any]:
    """Return the rules of a server that refuses what it is sent, in these words; the user name of LOGIN it takes."""

    def auth(said: bytes) -> bytes | None:
        return challenged(said) or (words(said) if b" " in said else None)

    return {
        "auth": auth,
        "auth-response": lambda said: None if said == base64.b64encode(RELAY.encode()) else words(said),
    }


ECHO_SMTP: dict[str, dict[Stage, Any]] = {
    "no": {"auth": challenged},
    "echo": refusing(lambda said: b"535 5.7.8 what is " + said + b"\r\n"),
    "echo in clear": refusing(lambda said: b"535-5.7.8 what\r\n535 5.7.8 is " + decoded(said) + b"\r\n"),
    "echo for now": refusing(lambda said: b"454 4.7.0 later, " + said + b"\r\n"),
    "nonsense": refusing(lambda said: b"299 " + said + b" " + decoded(said) + b"\r\n"),
}


def decoded(line: bytes) -> bytes:
    """Return the last word of a line without its base64, on one line."""
    try:
        return base64.b64decode(line.split()[-1], validate=True).replace(b"\0", b" ").replace(b"\n", b" ")
    except ValueError:
        return line


@pytest.mark.parametrize("password", [RELAY_PASSWORD, WRONG], ids=["right", "wrong"])
@pytest.mark.parametrize("echoes", ECHO_SMTP)
@pytest.mark.parametrize("method", ["cram-md5", "plain", "login", "scram-sha-256", "ntlm"])
def test_smtp(world: World, method: str, echoes: str, password: str) -> None:
    faults = SmtpFaults(replies=ECHO_SMTP[echoes])
    mechanisms = (method.upper(),)
    server = SmtpServer(user=RELAY, password=RELAY_PASSWORD, mechanisms=mechanisms, auth_in_clear=True, faults=faults)
    commands = [
        ((), ("poll", "--force")),
        (("-vvv",), ("poll", "--force")),
        (("-vv",), ("poll", "--force", "--json")),
        (("-vvv",), ("test-auth", "--smtp")),
        ((), ("test-auth", "--smtp", "--json")),
        *SILENT_COMMANDS[:2],
    ]
    world.letters(1)
    with server, ntlm_accounts(f":{RELAY}:{RELAY_PASSWORD}"):
        world.smtp, idle = server, world.smtp
        smtp = f'user = "{RELAY}"\npassword = "{password}"\nauth = ["{method}"]'
        configured(world, world.pop3.address, "apop", POP3_PASSWORD, smtp)
        texts = list(run_all(world, commands))
        world.smtp = idle
    lines = [command.line for session in server.sessions for command in session.commands]
    sent = [line for line in credentials(lines) if not line.startswith((b"EHLO", b"MAIL", b"RCPT"))]
    assert sent
    needles = of_password(password, RELAY) | of_login(sent)
    needles |= of_password(POP3_PASSWORD, USER)
    assert_nowhere(needles, world, *texts)
    assert any("SMTP C: AUTH" in text for text in texts)


@pytest.mark.parametrize("where", [Link, SmtpLink])
def test_a_crash_in_the_middle_tells_no_values(world: World, where: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug whose exception has everything in it, at the moment when it is on its way to the server."""
    world.letters(1)
    crashed: list[str] = []
    server = SmtpServer(user=RELAY, password=RELAY_PASSWORD, mechanisms=("PLAIN",), auth_in_clear=True)
    name = "send" if where is Link else "ask"
    send: Callable[..., Any] = getattr(where, name)

    def crashing(self: Any, *commands: Any) -> Any:
        for command in commands:
            if getattr(command, "verb", "") in ("AUTH", "PASS", "APOP"):
                crashed.append(command.verb)
                raise RuntimeError(f"{command.line!r} by {RELAY_PASSWORD} and {POP3_PASSWORD}")
        return send(self, *commands)

    monkeypatch.setattr(where, name, crashing)
    with server:
        world.smtp, idle = server, world.smtp
        smtp = f'user = "{RELAY}"\npassword = "{RELAY_PASSWORD}"'
        configured(world, world.pop3.address, "user", POP3_PASSWORD, smtp)
        smtp_too = [(("-vvv",), ("test-auth", "--smtp")), ((), ("test-auth", "--smtp", "--json"))]
        texts = list(run_all(world, [*COMMANDS, *smtp_too]))
        world.smtp = idle
    assert len(crashed) >= 4
    assert any("a bug in poprep: RuntimeError at " in text for text in texts)
    assert_nowhere(of_password(POP3_PASSWORD, USER) | of_password(RELAY_PASSWORD, RELAY), world, *texts)
