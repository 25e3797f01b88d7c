"""`poprep test-auth`: each method on its own connection, nothing moved and nothing written, and no login too many."""

from __future__ import annotations

import io
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from rich.console import Console

from poprep_cli.cli.main import main
from poprep_cli.cli.trial_view import render
from poprep_cli.embedded.smtp import SmtpServer
from poprep_cli.engine.files import Lock, make_folder
from poprep_cli.engine.trial_report import Result, TrialReport
from poprep_cli.errors import ConnectionFailed
from tests.poll.world import PASSWORD, POSIX, Done, Pop3Faults, SmtpFaults, World, closed_port, finished, make, settled

SASL = (b"USER", b"SASL PLAIN LOGIN", b"AUTH-RESP-CODE")
TOUCHING = {"STAT", "LIST", "UIDL", "RETR", "TOP", "DELE"}
DOCUMENT = Path(__file__).parents[2] / "docs" / "test-auth.md"


def arguments(world: World, *words: str) -> list[str]:
    if not world.config.exists():
        world.write()
    return ["--config", str(world.config), "--state-dir", str(world.state), "test-auth", *words]


def test_auth(world: World, *words: str) -> Done:
    """Run the command in this process."""
    out, err = io.StringIO(), io.StringIO()
    before = sys.argv
    sys.argv = ["poprep", *arguments(world, *words)]
    try:
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as end:
            main()
    finally:
        sys.argv = before
    assert PASSWORD not in out.getvalue() + err.getvalue()
    assert "Traceback" not in err.getvalue()
    return Done(int(end.value.code or 0), out.getvalue(), err.getvalue())


test_auth.__test__ = False  # type: ignore[attr-defined]


def results(done: Done) -> dict[str, str]:
    """Return the outcomes by method from the --json document, in its order."""
    (connector,) = done.document["connectors"]
    return {one["method"]: one["result"] for one in connector["methods"]}


def why(done: Done, method: str) -> str:
    (connector,) = done.document["connectors"]
    return next(str(one["why"]) for one in connector["methods"] if one["method"] == method)


def refusing(word: bytes, reply: bytes) -> Callable[[bytes], bytes | None]:
    """Return a rule for AUTH that lists nothing, and answers the mechanism `word` by `reply`."""
    return lambda argument: reply if argument.split(b" ")[0] == word else b"-ERR not here\r\n"


def test_each_method_has_a_connection_and_no_mail_is_touched(world: World) -> None:
    world.letters(2)
    world.pop3_lines = 'auth = ["apop", "user"]'
    done = test_auth(world)
    assert (done.code, done.err) == (0, "")
    shown = [line.split() for line in done.out.splitlines()]
    assert [words[:2] for words in shown[1:3]] == [["apop", "works"], ["user", "works"]]
    assert "a poll would log in by apop" in done.out
    assert [session.verbs[-2:] for session in world.pop3.sessions] == [["APOP", "QUIT"], ["PASS", "QUIT"]]
    assert not TOUCHING & {verb for session in world.pop3.sessions for verb in session.verbs}
    assert world.left == ["u1", "u2"]
    assert world.smtp.sessions == []
    assert [path.name for path in world.state.iterdir()] == ["office.lock"]


def test_what_is_not_announced_is_told_from_one_connection(world: World) -> None:
    done = test_auth(world, "--json")
    assert results(done) == dict.fromkeys(results(done), "skipped") | {"apop": "works", "user": "works"}
    assert why(done, "cram-md5") == "not announced"
    assert len(world.pop3.sessions) == 3
    (connector,) = done.document["connectors"]
    assert connector["poll_uses"] == "apop"
    assert next(one for one in connector["methods"] if one["method"] == "apop")["announced_by"] == ["welcome"]


def test_it_warns_of_many_logins_with_one_password(world: World) -> None:
    world.pop3_lines = 'auth = ["apop", "plain", "user"]'
    assert "up to 3 logins with one password" in test_auth(world).err
    assert test_auth(world, "--method", "user", "--method", "apop").err == ""


def test_it_stops_when_the_password_itself_is_refused(world: World) -> None:
    refusal = refusing(b"PLAIN", b"-ERR [AUTH] wrong password\r\n")
    world.pop3.faults = Pop3Faults(capa=SASL, replies={"AUTH": refusal}, refuse_apop=b"-ERR [AUTH] no\r\n")
    world.pop3_lines = 'auth = ["apop", "plain", "login", "user"]'
    done = test_auth(world, "--json")
    assert done.code == 77
    assert results(done) == {"apop": "refused", "plain": "refused", "login": "not tried", "user": "not tried"}
    assert why(done, "plain") == "-ERR [AUTH] wrong password"
    assert why(done, "user") == "the server refused the password itself"
    assert len(world.pop3.sessions) == 2
    (connector,) = done.document["connectors"]
    assert connector["poll_uses"] is None
    assert connector["advice"] == ["check pop3.user and pop3.password; many providers want an app password here"]


def test_without_that_code_the_others_are_tried(world: World) -> None:
    world.pop3.faults = Pop3Faults(capa=SASL, replies={"AUTH": refusing(b"PLAIN", b"-ERR no\r\n")})
    world.pop3_lines = 'auth = ["plain", "login", "user"]'
    done = test_auth(world, "--json")
    assert done.code == 0
    assert results(done) == {"plain": "refused", "login": "refused", "user": "works"}
    (connector,) = done.document["connectors"]
    assert connector["poll_uses"] == "user"
    assert connector["advice"][0].startswith(
        "plain is announced but refused: remove it from pop3.auth, it costs a round"
    )


@pytest.mark.parametrize(("rule", "words"), [("drop", "closed the connection"), ("hang", "no answer came in time")])
def test_a_server_that_breaks_on_a_method(world: World, rule: str, words: str) -> None:
    world.pop3.faults = Pop3Faults(replies={"APOP": rule})  # type: ignore[dict-item]
    world.pop3_lines = 'auth = ["apop", "user"]'
    world.timeout = 0.5
    done = test_auth(world, "--json")
    assert done.code == 0
    assert results(done) == {"apop": "failed", "user": "works"}
    assert words in why(done, "apop")
    assert len(world.pop3.sessions) == 2
    assert "it costs a reconnect" in done.document["connectors"][0]["advice"][0]


def test_garbage_is_a_failure_of_the_method(world: World) -> None:
    world.pop3.faults = Pop3Faults(replies={"APOP": b"hello?\r\n"})
    world.pop3_lines = 'auth = ["apop", "user"]'
    assert results(test_auth(world, "--json")) == {"apop": "failed", "user": "works"}
    assert results(alone := test_auth(world, "--json", "--method", "apop")) == {"apop": "failed"}
    assert alone.code == 76


@pytest.mark.parametrize("code", ["IN-USE", "SYS/TEMP", "LOGIN-DELAY"])
def test_a_refusal_for_now_is_not_one_of_the_password(world: World, code: str) -> None:
    world.pop3.faults = Pop3Faults(refuse_apop=b"-ERR [%s] later\r\n" % code.encode())
    world.pop3_lines = 'auth = ["apop", "user"]'
    done = test_auth(world, "--json")
    assert done.code == 75
    assert results(done) == {"apop": "failed", "user": "not tried"}
    assert why(done, "apop") == f"for now, and not because of the password: -ERR [{code}] later"
    assert len(world.pop3.sessions) == 1


def test_a_maildrop_that_our_own_last_connection_still_locks(world: World) -> None:
    answers: Iterator[bytes | None] = iter([b"-ERR [IN-USE] busy\r\n", b"-ERR maildrop locked\r\n", None])
    world.pop3.faults = Pop3Faults(replies={"PASS": lambda _: next(answers)})
    world.pop3_lines = 'auth = ["apop", "user"]'
    assert results(test_auth(world, "--json")) == {"apop": "works", "user": "works"}
    assert len(world.pop3.sessions) == 4


def test_no_connection_is_one_error(world: World) -> None:
    port = closed_port()
    world.more = f"""
[connector.away.pop3]
host = "127.0.0.1:{port}"
user = "x"
password = "{PASSWORD}"
auth = ["apop", "user"]
[connector.away.routing]
send_to = ["a@b.example"]
"""
    done = test_auth(world, "--json", "away")
    assert done.code == 75
    assert set(results(done).values()) == {"not tried"}
    assert len(done.sentences) == 1
    assert str(port) in done.sentences[0]


def test_tls_that_is_not_to_be_had_ends_it(world: World) -> None:
    world.pop3_lines = 'tls = "required"\nauth = ["apop", "user"]'
    done = test_auth(world, "--json")
    assert done.code == 76
    assert len(world.pop3.sessions) == 1
    assert not {"APOP", "USER", "PASS"} & set(world.pop3.sessions[0].verbs)


def test_a_method_that_is_not_enabled_is_tried_all_the_same(world: World) -> None:
    world.pop3_lines = 'auth = ["apop"]'
    done = test_auth(world, "--method", "USER")
    assert done.code == 0
    assert "user works but is not in pop3.auth: a pass does not use it" in done.out
    assert "a poll would" not in done.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--method", "kerberos"), "'scram-sha-256', .*'user'"),
        (("--smtp", "--method", "apop"), "SMTP has no method apop; it has: external, .*login$"),
        (("nobody",), "there is no connector 'nobody'"),
    ],
)
def test_wrong_usage(world: World, words: tuple[str, ...], told: str) -> None:
    done = test_auth(world, *words)
    assert done.code == 2
    assert re.search(told, done.err, re.MULTILINE)
    assert world.pop3.sessions == []


def test_a_pass_at_work_is_not_disturbed(world: World) -> None:
    make_folder(world.state)
    lock = Lock(world.state / "office.lock", "a test")
    try:
        done = test_auth(world, "--method", "user")
    finally:
        lock.release()
    assert done.code == 75
    assert "another run of poprep is working on connector office" in done.err
    assert world.pop3.sessions == []


@pytest.mark.skipif(not POSIX, reason="symbolic links need a privilege on Windows")
def test_a_state_folder_that_can_not_be_used_is_told_and_does_not_matter(world: World, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    world.state.symlink_to(tmp_path / "elsewhere")
    done = test_auth(world, "--method", "user")
    assert done.code == 0
    assert "a pass would fail, whatever the login: the folder" in done.out


def test_the_remembered_method_goes_first_and_nothing_is_written(world: World) -> None:
    world.pop3.faults = Pop3Faults(refuse_apop=b"-ERR no\r\n")
    world.poll()
    status = world.state / "office.status.json"
    before = status.read_bytes()
    world.heal()
    done = test_auth(world, "--json")
    (connector,) = done.document["connectors"]
    assert (connector["poll_uses"], connector["remembered"]) == ("user", "user")
    assert "a poll would log in by user (remembered from the last one)" in test_auth(world).out
    assert status.read_bytes() == before


def test_several_connectors(world: World) -> None:
    world.more = world.tables("second", user="nobody") + "\n[connector.off]\nenabled = false\n" + world.tables("off")
    world.pop3_lines = 'auth = ["user"]'
    done = test_auth(world, "--method", "user", "--json")
    assert done.code == 77
    assert {one["connector"]: one["exit_code"] for one in done.document["connectors"]} == {"office": 0, "second": 77}
    assert test_auth(world, "off").code == 78


def test_servers_text_is_inert_and_secrets_are_masked(world: World) -> None:
    echo = b"-ERR [bold]\x1b[31mred\xe2\x80\xae " + PASSWORD.encode() + b"\r\n"
    world.pop3.faults = Pop3Faults(refuse_user=echo)
    world.pop3_lines = 'auth = ["user"]'
    for done in (test_auth(world), test_auth(world, "--json")):
        assert "[bold]" in done.out
        assert "\x1b" not in done.out
        assert "\u202e" not in done.out


# SMTP


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[World]:
    """A world whose SMTP server wants a login."""
    made = make(tmp_path)
    made.smtp = SmtpServer(user="relay", password=PASSWORD, auth_in_clear=True)
    made.smtp_lines = f'user = "relay"\npassword = "{PASSWORD}"\nauth = ["scram-sha-1", "cram-md5", "plain", "login"]'
    with made.pop3, made.smtp:
        yield made


def test_the_login_to_the_smtp_server(relay: World) -> None:
    done = test_auth(relay, "--smtp", "--json")
    assert done.code == 0
    works = dict.fromkeys(("cram-md5", "plain", "login"), "works")
    assert results(done) == {"scram-sha-1": "skipped"} | works
    assert done.document["connectors"][0]["poll_uses"] == "cram-md5"
    assert relay.pop3.sessions == []
    assert not relay.state.exists()
    assert not {"MAIL", "RCPT", "DATA"} & {verb for session in relay.smtp.sessions for verb in session.verbs}
    assert [session.quit for session in relay.smtp.sessions[1:]] == [True] * 3


def test_smtp_stops_when_the_password_itself_is_refused(relay: World) -> None:
    relay.smtp_lines = relay.smtp_lines.replace(PASSWORD, "not-that-one")
    done = test_auth(relay, "--smtp", "--json")
    assert done.code == 77
    assert list(results(done).values()) == ["skipped", "refused", "refused", "not tried"]
    assert why(done, "plain").startswith("535 ")
    assert len(relay.smtp.sessions) == 3


def test_smtp_refusals_for_now_and_broken_lines(relay: World) -> None:
    relay.smtp_lines = relay.smtp_lines.replace('"cram-md5", ', "")
    relay.smtp.faults = SmtpFaults(replies={"auth": b"454 4.7.0 later\r\n"})
    done = test_auth(relay, "--smtp", "--json")
    assert (done.code, list(results(done).values())) == (75, ["skipped", "failed", "not tried"])
    relay.smtp.faults = SmtpFaults(drop="auth")
    done = test_auth(relay, "--smtp", "--json")
    assert (done.code, list(results(done).values())) == (75, ["skipped", "failed", "failed"])


def test_smtp_without_an_announced_login(relay: World) -> None:
    relay.smtp.faults = SmtpFaults(announce=(b"PIPELINING",))
    done = test_auth(relay, "--smtp", "--json")
    assert done.code == 77
    assert set(results(done).values()) == {"not tried"}
    assert "does not announce AUTH" in done.err


def test_mail_is_sent_without_a_login(world: World) -> None:
    done = test_auth(world, "--smtp")
    assert (done.code, done.err) == (0, "")
    assert "mail is sent without a login" in done.out
    assert world.smtp.sessions == []


# What people see


def report() -> TrialReport:
    made = TrialReport("office", server="pop.example.net:995", user="office@example.net", tls=True, poll_uses="plain")
    made.results = [
        Result("scram-sha-256-plus", "skipped", "not announced"),
        Result("cram-md5", "refused", "-ERR [red]no[/red] " + "x" * 200, 0.12),
        Result("plain", "works", "", 0.1),
        Result("user", "not tried", "because " * 30),
    ]
    made.advice = ["cram-md5 is announced but refused: remove it from pop3.auth"]
    made.fail(ConnectionFailed("x"))
    return made


def test_a_table_for_a_terminal() -> None:
    console = Console(width=80, record=True, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    render(console, [report()])
    text = console.export_text(clear=False)
    assert max(map(len, text.splitlines())) <= 80
    assert "[red]no[/red]" in text
    assert "a poll would log in by plain" in text
    assert "scram-sha-256-plus" in console.export_svg(title="poprep test-auth")


def test_the_keys_of_the_document_are_documented(world: World) -> None:
    (connector,) = test_auth(world, "--json", "--method", "user").document["connectors"]
    documented = re.findall(r"^\| `([a-z_]+)` \|", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    assert documented == ["exit_code", "connectors", *connector, *connector["methods"][0]]


@pytest.mark.skipif(not POSIX, reason="these signals can't be sent to one process on Windows")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["int", "term"])
def test_a_signal_ends_it(world: World, number: signal.Signals, code: int) -> None:
    world.timeout = 30
    world.pop3.faults = Pop3Faults(replies={"PASS": "hang"})
    world.pop3_lines = 'auth = ["apop", "user"]'
    running = subprocess.Popen(
        [sys.executable, "-m", "poprep_cli", *arguments(world, "--json")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    settled(world, running)
    began = time.monotonic()
    running.send_signal(number)
    done = finished(running)
    assert time.monotonic() - began < 2
    done.ended(code, "stopped by a signal", out=done.out)
    assert done.document["exit_code"] == code
    assert results(done) == {"apop": "works", "user": "not tried"}
