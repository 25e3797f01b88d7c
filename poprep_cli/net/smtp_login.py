"""Logging in to an SMTP server by AUTH (RFC 4954): the enabled methods in turn, and what came of them."""

from __future__ import annotations

from collections.abc import Callable

from poprep_cli.config.model import Address, Smtp
from poprep_cli.errors import (
    AuthenticationFailed,
    ConnectionFailed,
    LocalProtocolError,
    RemoteProtocolError,
    TemporaryReplyError,
)
from poprep_cli.net.authenticate import Trial, Turn, exchange, mechanisms
from poprep_cli.net.dialogue import SILENT, Dialogue
from poprep_cli.net.stream import Stream
from poprep_cli.protocol import smtp as core
from poprep_cli.protocol.sasl.mechanism import Credentials
from poprep_cli.protocol.sasl.methods import (
    REVERSIBLE,
    Candidate,
    Surroundings,
    announced,
    candidates,
    described,
    misses_binding,
)
from poprep_cli.protocol.smtp import Command, Reply
from poprep_cli.protocol.wire import printable

INITIAL_RESPONSE = 480  # octets in base64, so that AUTH stays within 512 (RFC 4954 4, RFC 5321 4.5.3.1.4)

Ask = Callable[[Command, float], Reply]


def log_in(
    smtp: Smtp,
    credentials: Credentials,
    address: Address,
    stream: Stream,
    announces: str | None,
    ask: Ask,
    trial: Trial | None = None,
    dialogue: Dialogue = SILENT,
) -> None:
    """Log in on a session that has said EHLO, by the most secure enabled method that the server accepts.

    `announces` is what follows AUTH in the reply to EHLO, None without such a line; `ask` sends a command and returns
    the reply to it within seconds. With a `trial` its method alone is tried; `dialogue` gets the transcript.
    Raises AuthenticationFailed; TemporaryReplyError if the server refuses for now; ConnectionFailed if the line drops and nothing was refused before; RemoteProtocolError; Stopped.
    """
    if announces is None:
        raise AuthenticationFailed(
            f"{stream.server} does not announce AUTH{'' if stream.tls else ' on a line without TLS'}, "
            f"so {credentials.user} can't log in",
            hint="without smtp.user mail is sent without a login; many servers announce AUTH only inside TLS",
        )
    _Login(smtp, credentials, stream, announces, ask, trial or Trial(""), dialogue).run(address)


class _Login:
    """One login: what was tried so far, and whether the server has refused any of it."""

    def __init__(
        self,
        smtp: Smtp,
        credentials: Credentials,
        stream: Stream,
        announces: str,
        ask: Ask,
        trial: Trial,
        dialogue: Dialogue,
    ) -> None:
        self._smtp = smtp
        self._credentials = credentials
        self._stream = stream
        self._announces = announces
        self._ask = ask
        self._trial = trial
        self._dialogue = dialogue
        self._failures: list[str] = []
        self._refused = False
        self._turns = 0  # round trips of the method that is tried
        self._unknown: set[str] = set()  # types of channel binding

    def run(self, address: Address) -> None:
        """Try the methods in turn."""
        around = Surroundings(
            encrypted=self._stream.tls or address.is_local or self._stream.is_loopback,
            tls=self._stream.tls,
            clear_text=self._smtp.clear_text,
            clear_text_key="smtp.clear_text",
        )
        sources = {"EHLO": announced(self._announces.split())}
        found = candidates(self._smtp.auth, sources, around)
        for text in described(sources, found):
            self._dialogue.tell(text)
        self._trial.candidates = found
        for candidate in found:
            if not candidate.usable or self._trial.method not in ("", candidate.method):
                continue
            self._dialogue.tell(f"logging in by {candidate.method}")
            self._turns = 0
            try:
                reply = self._exchange(candidate.method)
            except LocalProtocolError as error:
                self._fail(candidate.method, error)
                self._trial.why, self._trial.local = str(error), True
                continue
            except ConnectionFailed as error:
                if not self._refused:
                    raise
                # Many servers hang up after a wrong password, when they are asked once more.
                self._fail(candidate.method, error, hung_up=True)
                break
            self._trial.reply, self._trial.why = reply, str(reply)
            if reply.positive:
                self._dialogue.tell(f"logged in by {candidate.method} as {self._credentials.user}")
                return
            self._fail(candidate.method, reply)
            if self._refused and reply.code == 421:
                break
            if reply.transient:
                raise TemporaryReplyError(f"{self._stream.server} can't let us in for now: {reply}", reply=reply)
            self._refused = True
            if reply.code == 535 and candidate.method in REVERSIBLE:
                break  # RFC 4954 6: it has seen the password itself, and another way to send it only helps to lock the account
        raise self._failed(found)

    def _fail(self, method: str, why: object, *, hung_up: bool = False) -> None:
        """Note a method that was tried in vain."""
        self._failures.append(f"{method} ({why})")
        trips = f", which cost {self._turns} round trip{'s' * (self._turns > 1)}" if self._turns else ""
        self._dialogue.tell(f"{method} failed{', which cost the connection' if hung_up else trips}: {why}")

    def _failed(self, found: tuple[Candidate, ...]) -> AuthenticationFailed:
        server, user = self._stream.server, self._credentials.user
        skipped = [f"{candidate.method} ({candidate.why_not})" for candidate in found if not candidate.usable]
        if not self._refused:
            return AuthenticationFailed(
                f"no enabled method can log in to {server} as {user}: {'; '.join((*self._failures, *skipped))}",
                hint=f"smtp.auth says which methods are enabled; the server announces {printable(self._announces, 200) or 'none'}",
            )
        tried = self._failures + [text for text in skipped if "not encrypted" in text]
        return AuthenticationFailed(
            f"{server} refused the login of {user}: {'; '.join(tried)}",
            hint="check smtp.user and smtp.password; many providers want an app password here",
            rejected_by="SMTP",
        )

    def _exchange(self, method: str) -> Reply:
        """Run one method and return the server's verdict. Raises LocalProtocolError if it can't be done here."""
        missed = misses_binding(self._smtp.auth, {"EHLO": announced(self._announces.split())})
        tried = mechanisms(method, self._credentials, self._stream, misses_binding=missed, unknown=self._unknown)
        server = self._stream.server
        replies: list[Reply] = []

        def turn(command: Command) -> Turn:
            self._turns += 1
            reply = self._ask(command, self._smtp.timeout)
            if reply.code == 334:
                replies.append(reply)
                return Turn(reply.lines[-1], ok=False)
            replies.append(reply)
            if not (reply.positive or reply.transient or reply.permanent):
                raise RemoteProtocolError(f"{server} answered {reply} to {command.verb}, which makes no sense")
            return Turn(None, reply.positive)

        try:
            for mechanism in tried:
                exchange(
                    mechanism,
                    lambda initial, name=mechanism.name: turn(core.auth(name, initial)),  # type: ignore[misc]
                    lambda response: turn(core.auth_response(response)),
                    initial_allowed=INITIAL_RESPONSE,
                )
        except RemoteProtocolError as error:
            if server in str(error):
                raise
            raise RemoteProtocolError(f"{server}, logging in by {method.upper()}: {error}") from error
        return replies[-1]
