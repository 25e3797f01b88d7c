"""What the trials of one connector's methods found: a result per method, what a pass would use, the exit code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from poprep_cli.engine.redact import Redactor
from poprep_cli.errors import ExitCode, PoprepError
from poprep_cli.protocol.wire import printable

Outcome = Literal["works", "refused", "failed", "skipped", "not tried"]


@dataclass(slots=True)
class Result:
    """What came of one method.

    `refused` is the server's no, in its words; `failed` means that the login came to no end: hung up, garbage, or refused
    for now (then `temporary` is true); `skipped` was not tried because a pass would not try it either; `not tried` because
    of what came before it. `seconds` is from connecting to the server's verdict, None without a login.
    """

    method: str
    outcome: Outcome
    why: str = ""
    seconds: float | None = None
    announced_by: tuple[str, ...] = ()
    enabled: bool = True
    temporary: bool = False
    in_use: bool = False  # another session has the maildrop
    hung_up: bool = False
    of_password: bool = False  # the server has certainly refused the password itself
    exit_code: ExitCode = ExitCode.NOPERM


@dataclass(slots=True)
class TrialReport:
    """The trials of one connector; written by their thread, read by any.

    `login` is false where mail is sent without a login, so that there is nothing to try. `poll_uses` is the method by
    which a pass would log in, "" if none works or that can't be told; `remembered` is the one that a pass would start with.
    """

    connector: str
    protocol: Literal["POP3", "SMTP", "LMTP"] = "POP3"
    server: str = ""
    user: str = ""
    login: bool = True
    tls: bool | None = None
    results: list[Result] = field(default_factory=list)
    poll_uses: str = ""
    remembered: str = ""
    advice: list[str] = field(default_factory=list)
    errors: list[PoprepError] = field(default_factory=list)
    seconds: float = 0.0
    doing: str = ""  # the method that is being tried at this moment
    done: bool = False
    say: Callable[[int, str], None] = lambda _level, _text: None
    level: int = 0  # the highest that anybody listens to
    redactor: Redactor = field(default_factory=Redactor)

    def __post_init__(self) -> None:
        self.say = self.redactor.over(self.say, self.level)

    @property
    def exit_code(self) -> ExitCode:
        """0 if a method works, else why none does: 77 if any was refused or none could be tried.

        An error outranks both, unless it only says that the server was not to be had any more.
        """
        if self.errors and self.errors[0].exit_code not in (ExitCode.TEMPFAIL, ExitCode.UNAVAILABLE):
            return self.errors[0].exit_code
        if any(result.outcome == "works" for result in self.results):
            return ExitCode.OK
        if any(result.outcome == "refused" for result in self.results):
            return ExitCode.NOPERM
        if self.errors:
            return self.errors[0].exit_code
        if not self.login:
            return ExitCode.OK
        return next((result.exit_code for result in self.results if result.outcome == "failed"), ExitCode.NOPERM)

    def fail(self, error: PoprepError) -> None:
        """Note the error that ended the trials."""
        self.errors.append(error)

    def conceal(self) -> None:
        """Mask every secret that the redactor knows in all that is to be told, and make it fit for a terminal."""
        for result in self.results:
            result.why = self._told(result.why)
        self.advice = [self._told(text, 1000) for text in self.advice]
        for error in self.errors:
            error.args = (self._told(str(error), 2000),)
            error.hint = self._told(error.hint, 1000) if error.hint else None

    def _told(self, text: str, limit: int = 500) -> str:
        return printable(self.redactor.conceal(text), limit)

    def as_dict(self) -> dict[str, object]:
        """Return the connector's part of the --json document."""
        return {
            "connector": self.connector,
            "exit_code": int(self.exit_code),
            "protocol": self.protocol,
            "server": self.server,
            "user": self.user or None,
            "tls": self.tls,
            "methods": [
                {
                    "method": result.method,
                    "enabled": result.enabled,
                    "announced_by": list(result.announced_by),
                    "result": result.outcome,
                    "why": result.why,
                    "temporary": result.temporary,
                    "seconds": None if result.seconds is None else round(result.seconds, 3),
                }
                for result in self.results
            ],
            "poll_uses": self.poll_uses or None,
            "remembered": self.remembered or None,
            "errors": [{"message": str(error), "hint": error.hint} for error in self.errors],
            "seconds": round(self.seconds, 3),
            "advice": self.advice,
        }
