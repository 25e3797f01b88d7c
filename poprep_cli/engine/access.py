"""How a pass gets into its servers: passwords, what the last login taught, the pause after rejections, the maildrop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from poprep_cli.config.model import Connector
from poprep_cli.config.secrets import resolve
from poprep_cli.engine import clock, status
from poprep_cli.engine.backoff import NONE, Rejections, paused_until, rejected
from poprep_cli.engine.due import delay_told, delayed_until, login_delay
from poprep_cli.engine.identity import Identity
from poprep_cli.engine.report import ConnectorReport
from poprep_cli.engine.state import Journal
from poprep_cli.errors import (
    AuthenticationFailed,
    ConnectionFailed,
    PoprepError,
    RemoteProtocolError,
    TemporaryReplyError,
)
from poprep_cli.net.detect import Memory
from poprep_cli.net.dialogue import Dialogue
from poprep_cli.net.maildrop import Maildrop
from poprep_cli.net.stop import Stop
from poprep_cli.protocol.pop3 import Reply
from poprep_cli.protocol.sasl.mechanism import Credentials

if TYPE_CHECKING:
    from hashlib import blake2b

# When the next login begins with other methods than the one that worked.
AFRESH = "whenever all methods are tried, at least once a week"
UNLOCK_PAUSES = (0.1, 0.4, 1.5)  # seconds before another try to get back into a maildrop that is still locked


class Access:
    """One connector's access to its servers during a pass. `maildrop` is the last that was opened."""

    def __init__(
        self,
        connector: Connector,
        config: Path,
        current: status.Status,
        report: ConnectorReport,
        stop: Stop,
        journal: Callable[[], Journal],
        *,
        force: bool,
    ) -> None:
        """Prepare. `config` is the path of the configuration, `journal` reads it if need be; with `force` no pause is kept."""
        self._connector = connector
        self._config = config
        self._status = current
        self._report = report
        self._stop = stop
        self._force = force
        self._memory = status.memory(current, clock.now())
        self._password = ""
        self._smtp_password = ""
        self._srs_secret = ""
        self.learned: Memory | None = None
        self.maildrop: Maildrop | None = None
        self._journal = journal
        self._identity: Identity | None = None
        self._ahead: _Ahead | None = None
        self._rules: blake2b | None = None
        self._expected = ""
        self.as_expected = False
        self.digest = ""  # of the rules and the last listing, if it was wanted

    def resolve(self) -> None:
        """Get the password, before anybody is contacted: a server's text may hold it from the first moment on."""
        self._password = resolve(
            self._connector.pop3.password,
            what=f"connector.{self._connector.name}.pop3.password",
            user=self._connector.pop3.user,
            folder=self._config.parent,
        )
        self._report.redactor.know(self._password)

    def srs_secret(self) -> bytes:
        """Return the secret of routing.srs_secret. Raises ConfigError."""
        secret = self._connector.routing.srs_secret
        if not self._srs_secret and secret is not None:
            what = f"connector.{self._connector.name}.routing.srs_secret"
            self._srs_secret = resolve(secret, what=what, user="", folder=self._config.parent)
            self._report.redactor.know(self._srs_secret)
        return self._srs_secret.encode()

    def smtp_credentials(self) -> Credentials | None:
        """Return how to log in to the SMTP server, None: not at all. Raises ConfigError, AuthenticationFailed in a pause."""
        smtp = self._connector.smtp
        if smtp.user is None or smtp.password is None:
            return Credentials(smtp.user, "") if smtp.user is not None else None
        self._mind_rejections(self._status.smtp_login, f"{smtp.user} at {smtp.addresses[0]}")
        if not self._smtp_password:
            self._smtp_password = resolve(
                smtp.password,
                what=f"the smtp.password of connector {self._connector.name}",
                user=smtp.user,
                folder=self._config.parent,
            )
            self._report.redactor.know(self._smtp_password)
        return Credentials(smtp.user, self._smtp_password)

    def _mind_rejections(self, rejections: Rejections, who: str) -> None:
        """Raise AuthenticationFailed while a login is not to be tried, lest the account be locked."""
        if self._force:
            return
        until = paused_until(rejections, clock.now(), self._configured())
        if until:
            raise AuthenticationFailed(
                f"not trying to log in as {who} before {until}: it was refused {rejections.count} times in a row",
                hint="correct the configuration, or use --force: both try at once",
            )

    def _configured(self) -> datetime | None:
        """Return when the configuration was last written."""
        try:
            return datetime.fromtimestamp(self._config.stat().st_mtime, UTC)
        except OSError:
            return None

    def begin(self) -> None:
        """Begin to log in, in a thread of its own; the next `arrive` takes what comes of it."""
        self._ahead = _Ahead(self._log_in)

    def close(self) -> None:
        """Drop the line, and the one that is about to be opened."""
        if self._ahead is not None:
            self._ahead.abandon()
            self._ahead = None
        if self.maildrop is not None:
            self.maildrop.close()

    def _enter(self, *, pipelining: bool = True) -> Maildrop:
        ahead, self._ahead = self._ahead, None
        self.maildrop = maildrop = ahead.result() if ahead is not None else self._log_in(pipelining=pipelining)
        return maildrop

    def _log_in(self, *, pipelining: bool = True) -> Maildrop:
        pop3 = self._connector.pop3
        pipelining = pipelining and not status.breaks_on(self._status.pop3_groups, clock.now())
        self._mind_rejections(self._status.pop3_login, f"{pop3.user} at {pop3.address}")
        try:
            maildrop = Maildrop(
                self._connector.pop3,
                self._password,
                self._stop,
                self._memory,
                pipelining=pipelining,
                dialogue=Dialogue("POP3", self._report.say, self._report.level),
            )
        except TemporaryReplyError as error:
            self._tell_delay(error)
            raise
        except PoprepError:
            self._forget_answers()
            raise
        self._status.last_login = clock.stamp(clock.now())
        if maildrop.capabilities:
            self._status.login_delay = login_delay(maildrop.capabilities.get("LOGIN-DELAY", ()))
        self._memory = self.learned = maildrop.memory
        self._report.advice.extend(
            f"{failure.method} is announced but fails{failure.cost and f' and costs {failure.cost} {AFRESH}'}: "
            f"remove it from pop3.auth ({failure.why})"
            for failure in maildrop.failures
        )
        self._report.advice.extend(warning for warning in maildrop.warnings if warning not in self._report.advice)
        return maildrop

    def _forget_answers(self) -> None:
        """Have the next login ask what the server announces: with what it said before something went wrong."""
        self._memory = self._memory.without_answers()
        self._status.answers = None
        if self.learned is not None:
            self.learned = self.learned.without_answers()

    def _tell_delay(self, error: TemporaryReplyError) -> None:
        """Say until when the server lets nobody in, if that is known."""
        until = delayed_until(self._status, clock.now())
        if until and _is_delay(error):
            error.hint = f"{delay_told(self._status)}: not before {until}"

    def arrive(self, *, again: bool = False) -> Maildrop:
        """Log in and list, every message under its key. Raises RemoteProtocolError if the mail can't be told apart.

        A server that breaks on commands in a group gets them one by one, on a fresh connection. With `again` a session has
        just ended, and the server may need a moment to unlock the maildrop.
        """
        maildrop = self._arrive(self.enter_again(pipelining=True) if again else self._enter())
        if not self.as_expected:
            self.identity.check(maildrop)
        return maildrop

    def expect(self, rules: blake2b, listing: str) -> None:
        """Have every listing digested, behind the `rules`. The next one that gives `listing` is `as_expected`, and not taken apart."""
        self._rules, self._expected = rules, listing

    @property
    def identity(self) -> Identity:
        """What gives messages their keys; for that the journal is read."""
        if self._identity is None:
            self._identity = Identity(self._journal(), self._connector.server_copy, self._report)
        return self._identity

    def _arrive(self, maildrop: Maildrop) -> Maildrop:
        try:
            self._list(maildrop)
            self._learn_groups(broke=False if maildrop.pipelining else None)
            return maildrop
        except (ConnectionFailed, RemoteProtocolError) as error:
            if not maildrop.pipelining:
                raise
            maildrop.close()
            self._stop.check()
            self._memory = self.learned = maildrop.memory  # it may not take a listing together with a login
            try:
                maildrop = self.enter_again()
            except TemporaryReplyError:
                raise error from None  # a maildrop that is still locked is only what followed from it
        self._list(maildrop)
        self._learn_groups(broke=True)
        return maildrop

    def _learn_groups(self, *, broke: bool | None) -> None:
        known = self._status.pop3_groups
        self._status.pop3_groups = status.learned_groups(known, broke=broke, now=clock.now())

    def _list(self, maildrop: Maildrop) -> None:
        if self._rules is None:
            self.identity.listing(maildrop)
            return
        digest = self._rules.copy()
        expected, self._expected = self._expected, ""
        if expected:
            maildrop.look(digest)
            self.as_expected = digest.hexdigest() == expected
        if not self.as_expected:
            self.identity.listing(maildrop, None if expected else digest)
        self.digest = digest.hexdigest()

    def arrive_again(self) -> Maildrop:
        """Drop the line, log in and list anew, one command at a time. Message numbers are other ones then."""
        if self.maildrop is not None:
            self.maildrop.close()
        maildrop = self.enter_again()
        self.identity.listing(maildrop)
        return maildrop

    def enter_again(self, *, pipelining: bool = False) -> Maildrop:
        """Log in anew after the line broke. The server may need a moment to notice that, and to unlock the maildrop."""
        if not pipelining:
            self._forget_answers()
        stopped = threading.Event()
        forget = self._stop.on_trip(stopped.set)
        try:
            for pause in UNLOCK_PAUSES:
                try:
                    return self._enter(pipelining=pipelining)
                except TemporaryReplyError as error:
                    if _is_delay(error):
                        raise
                    stopped.wait(pause)
                    self._stop.check()
            return self._enter(pipelining=pipelining)
        finally:
            forget()

    def settle(self, error: PoprepError | None, *, delivered: bool, now: datetime) -> None:
        """Note in the status what this pass has learned: `error` ended it, SMTP has let us in if `delivered`."""
        side = error.rejected_by if isinstance(error, AuthenticationFailed) else ""
        if self.learned is not None:
            status.remember(self._status, self.learned, now)
            self._status.pop3_login = NONE
        elif side == "POP3":
            self._status.pop3_login = rejected(self._status.pop3_login, now)
        if delivered:
            self._status.smtp_login = NONE
        elif side == "SMTP":
            self._status.smtp_login = rejected(self._status.smtp_login, now)


class _Ahead:
    """A login in a thread of its own."""

    def __init__(self, log_in: Callable[[], Maildrop]) -> None:
        self._log_in = log_in
        self._maildrop: Maildrop | None = None
        self._error: BaseException | None = None
        self._abandoned = False
        self._ending = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="login", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            maildrop = self._log_in()
        except BaseException as error:  # noqa: BLE001 - it is raised by `result`
            self._error = error
            return
        with self._ending:
            self._maildrop = maildrop
            if self._abandoned:
                maildrop.close()

    def result(self) -> Maildrop:
        """Wait for the end, and return the maildrop or raise the error."""
        self._thread.join()
        if self._maildrop is None:
            raise self._error or RuntimeError("the login has ended without an end")
        return self._maildrop

    def abandon(self) -> None:
        """Close the line, now or as soon as it stands: nobody wants it."""
        with self._ending:
            self._abandoned = True
            if self._maildrop is not None:
                self._maildrop.close()


def _is_delay(error: TemporaryReplyError) -> bool:
    """Whether the server says that it is too early for another login (RFC 2449 8.1.1)."""
    return isinstance(error.reply, Reply) and error.reply.code == "LOGIN-DELAY"
