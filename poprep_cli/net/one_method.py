"""The commands of one POP3 login by one method, and its verdict; what is to come behind them goes in the same write."""

from __future__ import annotations

import msgspec

from poprep_cli.errors import ConnectionFailed, LocalProtocolError, RemoteProtocolError
from poprep_cli.net.authenticate import Turn, exchange, mechanisms
from poprep_cli.net.link import Link
from poprep_cli.protocol import pop3 as commands
from poprep_cli.protocol.pop3 import Command, Reply
from poprep_cli.protocol.sasl.mechanism import Credentials
from poprep_cli.protocol.sasl.methods import Candidate

INITIAL_RESPONSE = 255 - 2  # octets of the whole AUTH command without its CRLF (RFC 2449 4, RFC 5034 4)


class OneMethod(msgspec.Struct, kw_only=True):
    """A try on `link`. `turns` are its round trips so far; the replies to what is `behind` it are left to be read.

    `unknown` and `misses_binding` are for `mechanisms`; USER and PASS are sent together only where the line is `encrypted`.
    """

    link: Link
    credentials: Credentials
    unknown: set[str]
    misses_binding: bool
    encrypted: bool
    behind: tuple[Command, ...] = ()
    turns: int = 0

    def verdict(self, candidate: Candidate) -> Reply:
        """Log in and return what the server says to it.

        Raises LocalProtocolError if this system can't do it, ConnectionFailed, RemoteProtocolError, TlsError, Stopped.
        """
        if candidate.method == "user":
            return self._user()
        if candidate.method == "apop":
            return self._apop()
        return self._sasl(candidate)

    def drained(self) -> bool:
        """After a refusal, read what is owed to what came behind, and return whether that was refused as well, as it must be.

        Else, or if it does not come, the line is of no use any more. Raises Stopped.
        """
        try:
            while self.link.awaited:
                if self.link.reply().ok:
                    return False
        except (ConnectionFailed, RemoteProtocolError):
            return False
        return True

    def _ask(self, *login: Command, last: bool = False) -> Reply:
        """Send commands of the login, with the `last` of them what comes behind. Return the first refusal, or the last reply."""
        for command in login:
            self.link.mask(command.secret)
        self.turns += 1
        self.link.send(*login, *(self.behind if last else ()))
        replies = [self.link.reply() for _ in login]
        return next((reply for reply in replies if not reply.ok), replies[-1])

    def _user(self) -> Reply:
        name, password = commands.user(self.credentials.user), commands.password(self.credentials.password)
        if self.behind and self.encrypted:
            return self._ask(name, password, last=True)
        reply = self._ask(name)
        return self._ask(password, last=True) if reply.ok else reply

    def _apop(self) -> Reply:
        stamp = commands.timestamp(self.link.greeting) or b""
        try:
            command = commands.apop(self.credentials.user, self.credentials.password, stamp)
        except ValueError as error:
            raise LocalProtocolError("this system has no MD5") from error
        return self._ask(command, last=True)

    def _sasl(self, candidate: Candidate) -> Reply:
        from base64 import b64encode

        tried = mechanisms(
            candidate.method,
            self.credentials,
            self.link.stream,
            misses_binding=self.misses_binding,
            unknown=self.unknown,
        )
        replies: list[Reply] = []

        def turn(command: Command) -> Turn:
            last = bool(self.behind and command.verb == "AUTH" and command.secret)
            reply = self._ask(command, last=last)
            replies.append(reply)
            if last and reply.challenge is not None and not reply.ok:
                raise RemoteProtocolError(
                    f"{self.link.stream.server} goes on after {command.shown}, which has said all"
                )
            return Turn(reply.challenge, reply.ok)

        for mechanism in tried:
            # An initial response is RFC 5034's: a server that only lists mechanisms by AUTH may not know it.
            room = INITIAL_RESPONSE - len(f"AUTH {mechanism.name} ") if "CAPA" in candidate.announced_by else 0
            exchange(
                mechanism,
                lambda initial, name=mechanism.name: turn(  # type: ignore[misc]
                    commands.auth(name, None if initial is None else b64encode(initial) or b"=")
                ),
                lambda response: turn(commands.auth_response(b"*" if response is None else b64encode(response))),
                initial_allowed=room,
            )
        return replies[-1]
