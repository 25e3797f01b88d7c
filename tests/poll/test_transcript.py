"""The transcript: what -v, -vv and -vvv tell on stderr, and the log of the same levels."""

from __future__ import annotations

import re
from base64 import b64encode

import pytest

from poprep_cli.embedded.pop3 import Pop3Faults
from poprep_cli.embedded.smtp import SmtpFaults, SmtpServer
from tests.poll.world import PASSWORD, USER, World, letter

LINE = re.compile(r"\d\d:\d\d:\d\d office: (.*)")


def told(world: World, verbosity: str) -> list[str]:
    """Run a pass and return what it told on stderr, without the times."""
    done = world.poll(options=(verbosity,))
    assert done.code == 0, done
    lines = done.err.splitlines()
    matches = [LINE.fullmatch(line) for line in lines]
    assert all(matches), lines
    return [match[1] for match in matches if match]


def logged(world: World) -> list[str]:
    files = list((world.state / "log").iterdir())
    assert len(files) == 1
    return [line.split(" office: ", 1)[1] for line in files[0].read_text("utf-8").splitlines()]


def level(world: World, number: int) -> None:
    world.more = f"[log]\nlevel = {number}"
    world.write()


@pytest.mark.usefixtures("by_data")
def test_what_is_told_at_each_level(world: World) -> None:
    world.letters(2)
    steps = told(world, "-v")
    assert [step.split()[0] for step in steps[1:]] == ["delivered", "delivered", "deleted", "deleted"]
    assert "logged in by apop, 2 listed, 2 to fetch" in steps[0]
    world.letters(1)
    verbose = told(world, "-vv")
    assert any(step.startswith("POP3 logging in by apop") for step in verbose)
    assert not any(re.match("POP3 [CS]:", step) for step in verbose)
    world.letters(1)
    lines = told(world, "-vvv")
    assert {"POP3 C: UIDL", "POP3 C: RETR 1", "POP3 C: DELE 1", "POP3 C: QUIT"} <= set(lines)
    assert {"SMTP C: DATA", "SMTP S: 354 go ahead"} <= set(lines)
    assert any(re.fullmatch(r"SMTP C: MAIL FROM:<ada@example.net> SIZE=\d+", line) for line in lines)
    assert "POP3 C: APOP office ***" in lines


@pytest.mark.parametrize(("number", "sides"), [(0, None), (1, False), (2, False), (3, False), (4, True)])
def test_the_log_has_the_same(world: World, number: int, sides: bool | None) -> None:
    world.letters(1)
    level(world, number)
    world.poll().ended(0)
    if sides is None:
        assert not (world.state / "log").exists()
        return
    lines = logged(world)
    assert any(line.startswith("delivered u1 ") for line in lines)
    assert any(re.match("(POP3|SMTP) [CS]: ", line) for line in lines) == sides
    assert any(line.startswith("POP3 logged in") for line in lines) == (number >= 3)


def test_a_quiet_pass_writes_no_log(world: World) -> None:
    world.poll().ended(0)
    assert not (world.state / "log").exists()
    world.letters(1)
    world.poll("--dry-run")
    assert not (world.state / "log").exists()


def test_errors_are_in_the_log(world: World) -> None:
    world.letters(1)
    world.pop3.faults = Pop3Faults(greeting=b"-ERR [SYS/PERM] no \x1b[31mred\r\n")
    assert world.poll().code == 69
    assert re.fullmatch(r"error: .* refused the connection: -ERR \[SYS/PERM\] no \\x1b\[31mred", logged(world)[-1])


def test_a_log_that_cannot_be_written_does_not_stop_the_mail(world: World) -> None:
    world.letters(1)
    world.more = '[log]\nfolder = "poprep.toml"'
    done = world.poll()
    assert done.code == 0
    assert "the log is not complete" in done.err
    assert len(world.arrived) == 1


def test_the_content_of_mail_is_left_out(world: World) -> None:
    world.mail(letter(1, b"the body is private\r\n.dot\r\n"), letter(2, b"private too\r\n" * 100_000))
    level(world, 4)
    done = world.poll(options=("-vvv",))
    assert done.code == 0
    for text in (done.err, "\n".join(logged(world))):
        assert "private" not in text
        assert "Subject" not in text
        assert f"POP3 S: [{len(world.sent[0]) + 1} octets of mail, left out]" in text  # its dot was doubled


def test_a_long_listing_is_shown_in_part(world: World) -> None:
    world.letters(300)
    world.leave_copy = True
    world.poll().ended(0)
    lines = told(world, "-vvv")
    assert sum(line.startswith("POP3 S: ") for line in lines) < 120
    assert lines.count("POP3 S: … more lines, left out") == 2


METHODS = {
    "cram-md5": r"POP3 C: AUTH CRAM-MD5|POP3 S: \+ \*\*\*|POP3 C: \*\*\*",
    "plain": r"POP3 C: AUTH PLAIN \*\*\*",
    "login": r"POP3 C: AUTH LOGIN|POP3 S: \+ \*\*\*|POP3 C: \*\*\*",
    "user": r"POP3 C: USER office|POP3 C: PASS \*\*\*",
}


@pytest.mark.parametrize("echo", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_no_half_of_a_login_is_shown(world: World, method: str, echo: bool) -> None:
    """Whoever gets the transcript can neither replay the login nor guess the password against it."""
    challenges: list[bytes] = []
    said: list[bytes] = []

    def auth(argument: bytes) -> bytes:
        initial = bytes(argument).partition(b" ")[2]
        if initial:
            said.append(initial)
            return b"-ERR what is " + initial + b"\r\n" if echo else b"-ERR no\r\n"
        challenges.append(b64encode(b"<1234.5678@challenge.example>"))
        return b"+ " + challenges[-1] + b"\r\n"

    capa = b"+OK\r\nUSER\r\nSASL CRAM-MD5 PLAIN LOGIN\r\nUIDL\r\n.\r\n"
    world.pop3_lines = f'auth = ["{method}"]'
    world.pop3.faults = Pop3Faults(replies={"CAPA": capa, "AUTH": auth}, echo_password_in_error=echo)
    world.password = "not-this-one"
    done = world.poll(options=("-vvv",))
    assert done.code in (76, 77), done
    text = done.err + "".join(path.read_text("utf-8") for path in world.state.rglob("*.log"))
    lines = re.findall(r"POP3 [CS]: .*", text)
    for pattern in METHODS[method].split("|"):
        assert any(re.fullmatch(pattern, line) for line in lines), (pattern, lines)
    octets = b"not-this-one"
    secrets = {octets, b64encode(octets), b64encode(b"\0" + USER.encode() + b"\0" + octets), octets.hex().encode()}
    secrets |= {
        word for session in world.pop3.sessions for word in bytes(session.clear).split() if word in said and word
    }
    for secret in {*secrets, *challenges}:
        assert secret.decode() not in text
    assert PASSWORD not in text


def negotiated(world: World, protocol: str = "POP3") -> list[str]:
    """Return what a pass tells of the negotiation, without the advice that comes after it."""
    lines = [LINE.fullmatch(line) for line in world.poll(options=("-vv",)).err.splitlines()]
    said = [match[1] for match in lines if match]
    return [step.removeprefix(f"{protocol} ") for step in said if step.startswith(f"{protocol} ")]


def test_the_negotiation_is_told(world: World) -> None:
    capa = (b"UIDL", b"USER", b"SASL SCRAM-SHA-256 PLAIN")
    listed = b"+OK\r\nCRAM-MD5\r\n.\r\n"
    world.pop3.faults = Pop3Faults(capa=capa, replies={"AUTH": lambda said: b"-ERR not here\r\n" if said else listed})
    world.pop3_lines = 'auth = ["scram-sha-256", "cram-md5", "ntlm", "apop"]'
    steps = negotiated(world)
    assert steps[1:] == [
        "methods announced by welcome: apop; by CAPA: scram-sha-256 plain; by AUTH: cram-md5",
        "methods to try: scram-sha-256 cram-md5 apop; not announced: ntlm",
        "logging in by scram-sha-256",
        "scram-sha-256 failed, which cost 1 round trip: -ERR not here",
        "logging in by cram-md5",
        "cram-md5 failed, which cost 1 round trip: -ERR not here",
        "logging in by apop",
        "logged in by apop",
    ]
    again = negotiated(world)
    assert again[1] == "not asking for CAPA: less than a day ago it was answered, behind the same greeting"
    assert again[2].endswith("by CAPA last time: scram-sha-256 plain; by AUTH last time: cram-md5")
    assert again[4:] == ["logging in by apop", "logged in by apop"]


def test_what_costs_the_connection_is_told(world: World) -> None:
    world.pop3.faults = Pop3Faults(replies={"CAPA": "drop", "APOP": "drop"})
    text = "\n".join(negotiated(world))
    assert re.search("CAPA is not answered, which cost the connection: .*closed the connection", text)
    assert re.search("apop failed, which cost a reconnect: .*closed the connection", text)
    assert text.count("connected to ") == 3


def test_the_negotiation_with_smtp_is_told(world: World) -> None:
    world.letters(1)
    server = SmtpServer(user="relay", password="C0rrect-h0rse", mechanisms=("CRAM-MD5", "PLAIN"), auth_in_clear=True)
    server.faults = SmtpFaults(replies={"auth": lambda said: b"535 no\r\n" if said.startswith(b"CRAM") else None})
    with server:
        world.smtp, idle = server, world.smtp
        world.smtp_lines = 'user = "relay"\npassword = "C0rrect-h0rse"\nauth = ["ntlm", "cram-md5", "plain"]'
        steps = negotiated(world, "SMTP")
        world.smtp = idle
    assert steps == [
        f"connected to {server.address} (127.0.0.1)",
        "methods announced by EHLO: cram-md5 plain",
        "methods to try: cram-md5 plain; not announced: ntlm",
        "logging in by cram-md5",
        "cram-md5 failed, which cost 1 round trip: 535 no",
        "logging in by plain",
        "logged in by plain as relay",
    ]


def test_a_probe_shows_its_dialogue(world: World) -> None:
    done = world.command("probe", "office", options=("-vvv",))
    matches = [LINE.fullmatch(line) for line in done.err.splitlines()]
    lines = [match[1] for match in matches if match]
    assert len(lines) == len(matches)
    assert {"POP3 C: CAPA", "POP3 S: .", "POP3 C: QUIT", "SMTP C: QUIT", "SMTP S: 220 demo.invalid ESMTP ready"} <= set(
        lines
    )
    assert any(line.startswith("POP3 methods to try: apop") for line in lines)
    assert world.command("probe", "office").err == ""
