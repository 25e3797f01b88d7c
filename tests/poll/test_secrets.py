"""No secret in anything that leaves: output at every verbosity, --json, state, held mail's slips, tracebacks."""

from __future__ import annotations

from base64 import b64encode
from hashlib import md5

import pytest

from poprep_cli.engine.redact import MASK, Redactor
from poprep_cli.engine.report import ConnectorReport, Note
from poprep_cli.errors import ReplyError
from tests.poll.world import PASSWORD, USER, Pop3Faults, SmtpFaults, World

OCTETS = PASSWORD.encode()
ENCODED = [
    OCTETS,
    b64encode(OCTETS),
    b64encode(b"\0" + USER.encode() + b"\0" + OCTETS),
    OCTETS.hex().encode(),
    OCTETS.hex().upper().encode(),
]
ECHO = b" ".join(ENCODED)
VERBOSITIES = [(), ("-v",), ("-vv",), ("-vvv",), ("-q",)]

POP3_ECHOES = {
    "apop": Pop3Faults(refuse_apop=b"-ERR no, %s\r\n" % ECHO, refuse_user=b"-ERR no\r\n"),
    "pass": Pop3Faults(apop=False, refuse_user=b"-ERR [AUTH] no, %s\r\n" % ECHO),
    "pass-for-now": Pop3Faults(apop=False, refuse_user=b"-ERR [IN-USE] %s\r\n" % ECHO),
    "echo": Pop3Faults(echo_password_in_error=True, refuse_apop=b"", apop=False),
    "greeting": Pop3Faults(greeting=b"-ERR %s\r\n" % ECHO),
    "nonsense-greeting": Pop3Faults(greeting=b"%s\r\n" % ECHO),
    "nonsense-to-pass": Pop3Faults(apop=False, replies={"PASS": lambda argument: b"eh? " + argument + b"\r\n"}),
    "uidl": Pop3Faults(replies={"UIDL": b"-ERR %s\r\n" % ECHO}),
    "list": Pop3Faults(replies={"LIST": b"+OK\r\n%s\r\n.\r\n" % ECHO}),
    "retr": Pop3Faults(replies={"RETR": b"-ERR %s\r\n" % ECHO}),
    "dele": Pop3Faults(replies={"DELE": b"-ERR %s\r\n" % ECHO}),
    "quit": Pop3Faults(replies={"QUIT": b"-ERR %s\r\n" % ECHO}),
    "cut": Pop3Faults(replies={"QUIT": b"-ERR " + b"x" * 487 + b" %s\r\n" % OCTETS}),
    "uidl-as-password": Pop3Faults(uidl={1: OCTETS}, retr={1: "err"}),
}


def revealed(world: World, *texts: str) -> list[str]:
    """Return the places in which a secret stands, whole or nearly so."""
    places = {f"output {number}": text.encode() for number, text in enumerate(texts)}
    places |= {str(path): path.read_bytes() for path in world.state.rglob("*") if path.is_file()}
    needles = [needle[:-4] for needle in ENCODED]
    return [place for place, data in places.items() if any(needle.lower() in data.lower() for needle in needles)]


@pytest.mark.parametrize("options", VERBOSITIES, ids=lambda options: "".join(options) or "plain")
@pytest.mark.parametrize("faults", POP3_ECHOES.values(), ids=list(POP3_ECHOES))
def test_a_pop3_server_that_echoes_the_password(world: World, faults: Pop3Faults, options: tuple[str, ...]) -> None:
    world.letters(1)
    world.pop3.faults = faults
    done = world.poll("--json", options=options)
    plain = world.poll("--force", options=options)
    known = str(world.state / "office.jsonl") if faults.uidl else None  # a UIDL has to be kept as it is
    assert [place for place in revealed(world, done.out, done.err, plain.err, plain.out) if place != known] == []
    assert "Traceback" not in done.err


def test_an_echo_as_a_user_sees_it(world: World) -> None:
    world.letters(1)
    world.password = "not-this-one"
    world.pop3.faults = Pop3Faults(apop=False, echo_password_in_error=True)
    done = world.run(options=("-vvv",))
    assert done.code == 77
    assert "not-this-one" not in done.err + done.out
    assert "user name or password is wrong" in done.err


def test_the_apop_digest_is_not_told(world: World) -> None:
    world.letters(1)
    world.pop3.faults = Pop3Faults(
        greeting=b"+OK <1.2@demo.invalid>\r\n", replies={"APOP": lambda argument: b"-ERR what is " + argument + b"\r\n"}
    )
    world.password = "not-this-one"
    done = world.poll(options=("-vvv",))
    digest = md5(b"<1.2@demo.invalid>not-this-one", usedforsecurity=False).hexdigest()
    assert done.code == 77
    assert any(digest.encode() in session.clear for session in world.pop3.sessions)
    assert digest not in done.err + done.out


@pytest.mark.parametrize("code", [b"450", b"550"])
@pytest.mark.parametrize("stage", ["greeting", "mail", "end-of-data"])
def test_an_smtp_server_that_knows_it(world: World, stage: str, code: bytes) -> None:
    world.letters(1)
    world.smtp.faults = SmtpFaults(replies={stage: b"%s 5.0.0 %s\r\n" % (code, ECHO)})  # type: ignore[dict-item]
    done = world.poll("--json", options=("-vvv",))
    plain = world.poll(options=("-vvv",))
    assert done.code in (1, 69, 75)
    assert revealed(world, done.out, done.err, plain.err, plain.out) == []
    assert MASK in done.out


def test_a_redactor_that_knows_nothing_changes_nothing() -> None:
    assert Redactor().conceal("as it was…") == "as it was…"
    redactor = Redactor()
    redactor.know("")
    assert redactor.conceal("as it was…") == "as it was…"


@pytest.mark.parametrize("prefix", ["", "u", "us", "user", "\0user\0"])
def test_base64_at_every_offset(prefix: str) -> None:
    redactor = Redactor()
    redactor.know(PASSWORD)
    encoded = b64encode(f"{prefix}{PASSWORD}!".encode()).decode()
    assert MASK in redactor.conceal(f"AUTH {encoded} refused")
    assert len(redactor.conceal(encoded)) < len(encoded)


def test_short_strange_and_long_secrets() -> None:
    redactor = Redactor()
    redactor.know("abc")
    assert redactor.conceal("abcdef (abc)") == f"abcdef ({MASK})"
    redactor.know("a\x1b[31m.*b")
    assert redactor.conceal(r"it was a\x1b[31m.*b") == f"it was {MASK}"
    redactor.know("t" * 5000)
    assert redactor.conceal("t" * 5000) == MASK
    assert redactor.conceal("token ttttttttt…; and more") == f"token {MASK}…; and more"
    redactor.know("Grüße-123")
    assert redactor.conceal("GRÜSSE grüße-123") == f"GRÜSSE {MASK}"


def test_a_report_is_concealed_as_a_whole() -> None:
    said: list[str] = []
    report = ConnectorReport("office", say=lambda _level, text: said.append(text))
    report.redactor.know(PASSWORD)
    report.say(1, f"he said {PASSWORD}")
    report.messages.append(Note(f"u-{PASSWORD}", "held", f"why {PASSWORD}"))
    report.advice.append(f"use {PASSWORD}")
    report.fail(ReplyError(f"no {PASSWORD}", reply=None, hint=f"try {PASSWORD}"))
    report.conceal()
    assert said == [f"he said {MASK}"]
    assert PASSWORD not in str(report.as_dict())
    assert str(report.as_dict()).count(MASK) == 5
