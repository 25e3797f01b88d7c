"""Tries the login methods of one connector, each on a connection of its own. No mail is listed, read or deleted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from poprep_cli.config.model import Address, Connector
from poprep_cli.config.secrets import resolve
from poprep_cli.engine import clock, files, status
from poprep_cli.engine.access import UNLOCK_PAUSES
from poprep_cli.engine.trial_report import Result, TrialReport
from poprep_cli.engine.verdict import conclude
from poprep_cli.errors import (
    AuthenticationFailed,
    ConnectionFailed,
    PoprepError,
    RemoteProtocolError,
    ReplyError,
    StateError,
    StateLocked,
    Stopped,
    TemporaryReplyError,
    TlsError,
)
from poprep_cli.net.authenticate import Trial
from poprep_cli.net.detect import Memory
from poprep_cli.net.dialogue import Dialogue
from poprep_cli.net.login import log_in
from poprep_cli.net.stop import Stop
from poprep_cli.net.submission import Submission
from poprep_cli.protocol.pop3 import QUIT, Reply
from poprep_cli.protocol.sasl.mechanism import Credentials
from poprep_cli.protocol.sasl.methods import ORDER, REVERSIBLE, Candidate, SmtpMethod

MANY = 2  # logins with one password; servers have been seen that lock an account after three failures


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line asked for: these methods, or () for those that are enabled; on POP3, or SMTP; and where things are."""

    state_dir: Path
    config_dir: Path
    methods: tuple[str, ...] = ()
    smtp: bool = False


def methods_of(connector: Connector, wanted: Wanted) -> tuple[str, ...]:
    """Return the methods to be tried, in the order in which a login without memory tries them."""
    enabled = connector.smtp.auth if wanted.smtp else connector.pop3.auth
    chosen = wanted.methods or enabled
    known = get_args(SmtpMethod) if wanted.smtp else ORDER
    return tuple(method for method in ORDER if method in chosen and method in known)


def many_logins(connector: Connector, wanted: Wanted) -> str:
    """Return a warning if that many logins with one password may get the account locked, else ""."""
    if wanted.smtp and connector.smtp.user is None:
        return ""
    count = sum(method != "external" for method in methods_of(connector, wanted))
    if count <= MANY:
        return ""
    return (
        f"up to {count} logins with one password follow. If it is wrong, a server that locks accounts after a few failures "
        "may lock this one; --method NAME tries one method only"
    )


def try_methods(connector: Connector, wanted: Wanted, report: TrialReport, stop: Stop) -> None:
    """Try the methods; everything worth telling goes into `report`, errors too."""
    began = time.monotonic()
    trials = _Trials(connector, wanted, report, stop)
    try:
        trials.run()
    except PoprepError as error:
        report.fail(Stopped() if stop.tripped else error)
    finally:
        trials.close()
        if report.login:
            trials.leave_untried()
            conclude(report, trials.memory, trials.announcements)
        report.conceal()
        report.doing = ""
        report.seconds = time.monotonic() - began
        report.done = True


class _Trials:
    def __init__(self, connector: Connector, wanted: Wanted, report: TrialReport, stop: Stop) -> None:
        self._connector = connector
        self._wanted = wanted
        self._report = report
        self._stop = stop
        self._methods = methods_of(connector, wanted)
        self._enabled: frozenset[str] = frozenset(connector.smtp.auth if wanted.smtp else connector.pop3.auth)
        self._password = ""
        self._lock: files.Lock | None = None
        self._judged: dict[str, Candidate] = {}  # by what the server announced on an earlier connection
        self._address: Address | None = None  # of the SMTP server that was ready
        self._was_in = False  # the maildrop may still be locked by our own last connection
        self.memory = Memory()
        self.announcements = ""
        self._describe()
        self._dialogue = Dialogue(report.protocol, report.say, report.level)

    def _describe(self) -> None:
        report, pop3, smtp = self._report, self._connector.pop3, self._connector.smtp
        if self._wanted.smtp:
            report.protocol = "LMTP" if smtp.protocol == "lmtp" else "SMTP"
            report.server = ", ".join(map(str, smtp.addresses))
            report.user = smtp.user or ""
            report.login = smtp.user is not None
        else:
            report.server, report.user = str(pop3.address), pop3.user

    def run(self) -> None:
        """Try one method after the other, until there is no use in going on."""
        if not self._report.login:
            self._report.advice.append(
                "there is no smtp.user, so mail is sent without a login: there is nothing to try"
            )
            return
        self._resolve()
        if not self._wanted.smtp:
            self._take_lock()
            self._recall()
        for method in self._methods:
            self._stop.check()
            known = self._judged.get(method)
            result = Result(method, "skipped", known.why_not) if known and not known.usable else self._timed(method)
            result.enabled = method in self._enabled
            if method in self._judged:
                result.announced_by = self._judged[method].announced_by
            self._report.results.append(result)
            self._report.say(1, f"{method}: {result.outcome}{': ' if result.why else ''}{result.why}")
            if result.of_password or result.temporary:
                return

    def leave_untried(self) -> None:
        """Give every method that was not reached a result that says why."""
        tried = {result.method for result in self._report.results}
        last = self._report.results[-1] if self._report.results else None
        if self._report.errors:
            why = "stopped" if isinstance(self._report.errors[0], Stopped) else "see the error"
        elif last is not None and last.of_password:
            why = "the server refused the password itself"
        else:
            why = "the server lets nobody in for now"
        self._report.results += [
            Result(method, "not tried", why, enabled=method in self._enabled)
            for method in self._methods
            if method not in tried
        ]

    def close(self) -> None:
        """Let go of the lock."""
        if self._lock is not None:
            self._lock.release()

    def _resolve(self) -> None:
        """Get the password, before anybody is contacted: a server's text may hold it from the first moment on."""
        smtp, name = self._connector.smtp, self._connector.name
        if self._wanted.smtp:
            secret, user, what = smtp.password, smtp.user or "", f"the smtp.password of connector {name}"
        else:
            pop3 = self._connector.pop3
            secret, user, what = pop3.password, pop3.user, f"connector.{name}.pop3.password"
        if secret is not None:
            self._password = resolve(secret, what=what, user=user, folder=self._wanted.config_dir)
            self._report.redactor.know(self._password)

    def _take_lock(self) -> None:
        """Keep passes over this connector out, since a maildrop has room for one. Raises StateLocked."""
        name = self._connector.name
        try:
            files.make_folder(self._wanted.state_dir)
            self._lock = files.Lock(self._wanted.state_dir / f"{name}.lock", f"connector {name}")
        except StateLocked:
            raise
        except StateError as error:
            self._report.advice.append(f"a pass would fail, whatever the login: {error}")

    def _recall(self) -> None:
        with suppress(StateError):
            found = status.load(self._wanted.state_dir / f"{self._connector.name}.status.json")
            self.memory = status.memory(found, clock.now())

    def _timed(self, method: str) -> Result:
        self._report.doing = method
        for pause in (*UNLOCK_PAUSES, None):
            began = time.monotonic()
            result = self._try(method)
            if result.outcome != "skipped":
                result.seconds = time.monotonic() - began
            if not (result.in_use and self._was_in) or pause is None:
                break
            _pause(pause, self._stop)
        self._was_in = self._was_in or result.outcome == "works"
        return result

    def _try(self, method: str) -> Result:
        """Log in by one method and take leave. Raises what is no matter of the method: connection, TLS, a closed server."""
        trial = Trial(method)
        try:
            (self._enter_smtp if self._wanted.smtp else self._enter_pop3)(trial)
        except Stopped:
            raise
        except PoprepError as error:
            if not trial.candidates:
                raise
            self._learn(trial)
            return _result(trial, error)
        self._learn(trial)
        return Result(method, "works")

    def _learn(self, trial: Trial) -> None:
        self._judged |= {candidate.method: candidate for candidate in trial.candidates}
        if trial.method in self._enabled:
            self.announcements = trial.announcements

    def _enter_pop3(self, trial: Trial) -> None:
        from msgspec.structs import replace

        pop3 = self._connector.pop3
        if trial.method not in self._enabled:
            pop3 = replace(pop3, auth=(trial.method,))
        session = log_in(pop3, self._password, self._stop, dialogue=self._dialogue, trial=trial)
        self._report.tls = session.link.stream.tls
        self._report.advice += [text for text in session.warnings if text not in self._report.advice]
        try:
            with suppress(ConnectionFailed, RemoteProtocolError):
                session.link.ask(QUIT)
        finally:
            session.link.close()

    def _enter_smtp(self, trial: Trial) -> None:
        from msgspec.structs import replace

        smtp = self._connector.smtp
        if self._address is not None:
            smtp = replace(smtp, addresses=(self._address,))
        if trial.method not in self._enabled:
            smtp = replace(smtp, auth=(trial.method,))
        session = Submission.open(smtp, self._stop, dialogue=self._dialogue)
        self._report.server, self._report.tls = session.server, session.tls
        self._report.advice += [text for text in session.warnings if text not in self._report.advice]
        try:
            # The methods are compared on one server: that of the first session.
            self._address = next(one for one in smtp.addresses if str(one) == session.server)
            session.log_in(Credentials(smtp.user or "", self._password), self._address, trial)
            session.quit()
        finally:
            session.close()


def _result(trial: Trial, error: PoprepError) -> Result:
    """Return what came of a method whose login ended by `error`. Raises it if it is not about the method."""
    method, reply = trial.method, trial.reply
    judged = next((candidate for candidate in trial.candidates if candidate.method == method), None)
    if judged is not None and not judged.usable:
        return Result(method, "skipped", judged.why_not)
    if trial.local:
        return Result(method, "skipped", trial.why)
    if isinstance(error, TemporaryReplyError):
        why = f"for now, and not because of the password: {trial.why or error}"
        # Without a code it is the words that say so: locked, in use, busy.
        in_use = isinstance(reply, Reply) and reply.code in ("IN-USE", "")
        return Result(method, "failed", why, temporary=True, in_use=in_use, exit_code=error.exit_code)
    if isinstance(error, (ReplyError, TlsError)):  # TlsError: channel binding has shown that somebody is in between
        raise error
    if isinstance(error, AuthenticationFailed) and reply is not None:
        of_password = method in REVERSIBLE and reply.code in ("AUTH", 535)
        return Result(method, "refused", trial.why, of_password=of_password)
    hung_up = isinstance(error, ConnectionFailed)
    return Result(method, "failed", trial.why or str(error), hung_up=hung_up, exit_code=error.exit_code)


def _pause(seconds: float, stop: Stop) -> None:
    """Wait so long. Raises Stopped as soon as the switch is tripped."""
    stopped = threading.Event()
    forget: Callable[[], None] = stop.on_trip(stopped.set)
    try:
        stopped.wait(seconds)
    finally:
        forget()
    stop.check()
