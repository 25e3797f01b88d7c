"""What trials mean: the method that a pass would use, advice, the warning before them, and exit codes."""

from __future__ import annotations

import pytest

from poprep_cli.engine.trial_report import Result, TrialReport
from poprep_cli.engine.verdict import conclude
from poprep_cli.errors import ConnectionFailed, ExitCode, Stopped, TlsError
from poprep_cli.net.detect import NO_MEMORY, Memory

SKIPPED = Result("scram-sha-256", "skipped", "not announced")
REFUSED = Result("cram-md5", "refused", "-ERR no")
HUNG_UP = Result("apop", "failed", "closed the connection", hung_up=True, exit_code=ExitCode.TEMPFAIL)
FOR_NOW = Result("plain", "failed", "later", temporary=True, exit_code=ExitCode.TEMPFAIL)
WRONG = Result("plain", "refused", "-ERR [AUTH]", of_password=True)
PLAIN = Result("plain", "works")
USER = Result("user", "works")
UNTRIED = Result("user", "not tried")


def report(*results: Result, **settings: object) -> TrialReport:
    made = TrialReport("office", **settings)  # type: ignore[arg-type]
    made.results = list(results)
    return made


@pytest.mark.parametrize(
    ("results", "memory", "method"),
    [
        ((SKIPPED, REFUSED, PLAIN, USER), NO_MEMORY, "plain"),
        ((SKIPPED, REFUSED, PLAIN, USER), Memory("user", "now"), "user"),
        ((SKIPPED, REFUSED, PLAIN, USER), Memory("user", "then"), "plain"),
        ((REFUSED, PLAIN), Memory("cram-md5", "now"), "plain"),
        ((REFUSED, HUNG_UP, USER), NO_MEMORY, "user"),
        ((WRONG, UNTRIED), NO_MEMORY, ""),
        ((FOR_NOW, USER), NO_MEMORY, ""),
        ((PLAIN, UNTRIED), Memory("user", "now"), ""),
        ((Result("plain", "works", enabled=False), USER), NO_MEMORY, "user"),
        ((SKIPPED,), NO_MEMORY, ""),
        ((), NO_MEMORY, ""),
    ],
)
def test_what_a_pass_would_use(results: tuple[Result, ...], memory: Memory, method: str) -> None:
    made = report(*results)
    conclude(made, memory, "now")
    assert made.poll_uses == method
    assert made.remembered == (memory.method if memory.announcements == "now" else "")


def test_advice_about_what_costs_time() -> None:
    made = report(SKIPPED, REFUSED, HUNG_UP, PLAIN, Result("user", "refused"))
    conclude(made, NO_MEMORY, "")
    again = "whenever a pass tries all methods afresh, at least once a week"
    assert made.advice == [
        f"cram-md5 is announced but refused: remove it from pop3.auth, it costs a round trip {again}",
        f"apop is announced but fails: remove it from pop3.auth, it costs a reconnect {again}",
    ]


def test_advice_about_smtp() -> None:
    made = report(REFUSED, PLAIN, protocol="SMTP")
    conclude(made, NO_MEMORY, "")
    assert made.advice[0].endswith("remove it from smtp.auth, it costs a round trip at each pass")


@pytest.mark.parametrize(
    ("results", "words"), [((REFUSED, SKIPPED), "check pop3.user"), ((SKIPPED,), "no method could")]
)
def test_advice_where_nothing_works(results: tuple[Result, ...], words: str) -> None:
    made = report(*results)
    conclude(made, NO_MEMORY, "")
    assert len(made.advice) == 1
    assert made.advice[0].startswith(words)


@pytest.mark.parametrize(
    ("results", "error", "code"),
    [
        ((REFUSED, PLAIN), None, 0),
        ((PLAIN,), ConnectionFailed("gone"), 0),
        ((REFUSED,), ConnectionFailed("gone"), 77),
        ((SKIPPED, HUNG_UP), None, 75),
        ((SKIPPED, FOR_NOW), None, 75),
        ((SKIPPED,), None, 77),
        ((), ConnectionFailed("gone"), 75),
        ((), TlsError("none"), 76),
        ((PLAIN,), Stopped(), 130),
        ((PLAIN,), TlsError("somebody is between us and the server"), 76),
    ],
)
def test_exit_codes(
    results: tuple[Result, ...], error: ConnectionFailed | TlsError | Stopped | None, code: int
) -> None:
    made = report(*results)
    if error is not None:
        made.fail(error)
    assert made.exit_code == code


def test_nothing_to_log_in_to_is_well() -> None:
    assert report(login=False).exit_code == ExitCode.OK
