"""Logging in to an SMTP server by AUTH (RFC 4954): the enabled methods in turn, and what came of them."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from dataclasses import replace

from poprep_cli.config.model import Address, Smtp
from poprep_cli.errors import (
    AuthenticationFailed,
    ConnectionFailed,
    LocalProtocolError,
    RemoteProtocolError,
    TemporaryReplyError,
)
from poprep_cli.net.authenticate import Turn, exchange, make
from poprep_cli.net.stream import Stream
from poprep_cli.protocol import smtp as core
from poprep_cli.protocol.sasl.mechanism import Credentials
from poprep_cli.protocol.sasl.methods import Candidate, Surroundings, announced, candidates
from poprep_cli.protocol.smtp import Command, Reply
from poprep_cli.protocol.wire import printable

INITIAL_RESPONSE = 480  # octets in base64, so that AUTH stays within 512 (RFC 4954 4, RFC 5321 4.5.3.1.4)

Ask = Callable[[Command, float], Reply]


def log_in(
    smtp: Smtp, credentials: Credentials, address: Address, stream: Stream, announces: str | None, ask: Ask
) -> None:
    """Log in on a session that has said EHLO, by the most secure enabled method that the server accepts.

    `announces` is what follows AUTH in the reply to EHLO, None without such a line; `ask` sends a command and returns
    the reply to it within seconds. Raises AuthenticationFailed; TemporaryReplyError if the server refuses for now;
    ConnectionFailed if the line drops and nothing was refused before; RemoteProtocolError; Stopped.
    """
    if announces is None:
        raise AuthenticationFailed(
            f"{stream.server} does not announce AUTH{'' if stream.tls else ' on a line without TLS'}, "
            f"so {credentials.user} can't log in",
            hint="without smtp.user mail is sent without a login; many servers announce AUTH only inside TLS",
        )
    _Login(smtp, credentials, stream, announces, ask).run(address)


class _Login:
    """One login: what was tried so far, and whether the server has refused any of it."""

    def __init__(self, smtp: Smtp, credentials: Credentials, stream: Stream, announces: str, ask: Ask) -> None:
        self._smtp = smtp
        self._credentials = credentials
        self._stream = stream
        self._announces = announces
        self._ask = ask
        self._failures: list[str] = []
        self._refused = False

    def run(self, address: Address) -> None:
        """Try the methods in turn."""
        around = Surroundings(
            encrypted=self._stream.tls or address.is_local or self._stream.is_loopback,
            tls=self._stream.tls,
            clear_text=self._smtp.clear_text,
            clear_text_key="smtp.clear_text",
        )
        found = candidates(self._smtp.auth, {"EHLO": announced(self._announces.split())}, around)
        for candidate in found:
            if not candidate.usable:
                continue
            try:
                reply = self._exchange(candidate.method)
            except LocalProtocolError as error:
                self._failures.append(f"{candidate.method} ({error})")
                continue
            except ConnectionFailed as error:
                if not self._refused:
                    raise
                # Many servers hang up after a wrong password, when they are asked once more.
                self._failures.append(f"{candidate.method} ({error})")
                break
            if reply.positive:
                return
            self._failures.append(f"{candidate.method} ({reply})")
            if self._refused and reply.code == 421:
                break
            if reply.transient:
                raise TemporaryReplyError(f"{self._stream.server} can't let us in for now: {reply}", reply=reply)
            self._refused = True
        raise self._failed(found)

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
        )

    def _exchange(self, method: str) -> Reply:
        """Run one method and return the server's verdict. Raises LocalProtocolError if it can't be done here."""
        mechanism = make(method, self._credentials, self._stream)
        server = self._stream.server
        replies: list[Reply] = []

        def turn(command: Command) -> Turn:
            reply = self._ask(command, self._smtp.timeout)
            if reply.code == 334:
                replies.append(reply)
                return Turn(reply.lines[-1], ok=False)
            reply = _masked(reply, command, self._credentials.password)
            replies.append(reply)
            if not (reply.positive or reply.transient or reply.permanent):
                raise RemoteProtocolError(f"{server} answered {reply} to {command.verb}, which makes no sense")
            return Turn(None, reply.positive)

        try:
            exchange(
                mechanism,
                lambda initial: turn(core.auth(mechanism.name, initial)),
                lambda response: turn(core.auth_response(response)),
                initial_allowed=INITIAL_RESPONSE,
            )
        except RemoteProtocolError as error:
            if server in str(error):
                raise
            raise RemoteProtocolError(f"{server}, logging in by {mechanism.name}: {error}") from error
        return replies[-1]


def _masked(reply: Reply, command: Command, password: str) -> Reply:
    """Return a reply without what servers echo: the password, and the response that was sent, in base64 and as it was."""
    words = command.line.split()
    sent = words[-1] if words and len(words) != 2 else b""  # "AUTH NAME" has no response in it, an empty one no word
    secrets = {password.encode(), b64encode(password.encode()), sent} - {b"", b"*", b"="}
    lines = list(reply.lines)
    for secret in sorted(secrets, key=len, reverse=True):
        lines = [line.replace(secret, b"***") for line in lines]
    return reply if tuple(lines) == reply.lines else replace(reply, lines=tuple(lines))
