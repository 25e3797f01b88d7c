"""A connection to an SMTP or LMTP server: the core and its stream. Replies come each by its deadline, without secrets."""

from __future__ import annotations

import time

from msgspec.structs import replace

from poprep_cli.config.model import TlsSettings
from poprep_cli.errors import RemoteProtocolError, ReplyError, TemporaryReplyError, TlsError
from poprep_cli.net.dialogue import SILENT, Dialogue, forms
from poprep_cli.net.stream import Stream, refuse_early
from poprep_cli.protocol import smtp as core
from poprep_cli.protocol.smtp import Command, Reply, SmtpClient


class SmtpLink:
    """One connection. Until secrets are forgotten they are masked in every reply: servers echo what they are sent.

    `alive` says whether another command may be sent; `quickest` is how many seconds the quickest answer to `ask` took.
    """

    __slots__ = ("_client", "_secrets", "alive", "dialogue", "quickest", "stream")

    def __init__(self, stream: Stream, dialogue: Dialogue = SILENT) -> None:
        self._client = SmtpClient()
        self._secrets: set[bytes] = set()
        self.alive = True
        self.quickest = float("inf")
        self.dialogue = dialogue
        self.stream = stream
        dialogue.tell(f"connected to {stream.server}{f' ({stream.peer})' * bool(stream.peer)}")

    def ask(self, command: Command, timeout: float) -> Reply:
        """Send one command and return its reply, which must be here in `timeout` seconds."""
        began = time.monotonic()
        self.stream.write(self.group(command), timeout)
        reply = self.reply(timeout)
        self.quickest = min(self.quickest, time.monotonic() - began)
        return reply

    def group(self, *commands: Command) -> bytes:
        """Return the octets of commands, which are to be written next, and expect their replies."""
        for command in commands:
            if secret := command.secret:
                self._secrets.update(forms(secret))
            if self.dialogue.lines:
                self.dialogue.client(command.shown)
        return self._client.send(*commands)

    def expect_end_of_data(self, replies: int = 1) -> None:
        """Expect the replies to the end of the mail data, one or, with LMTP, one for each recipient."""
        self._client.expect_end_of_data(replies)

    def reply(self, timeout: float) -> Reply:
        """Return the next reply, all of which must be here in `timeout` seconds."""
        deadline = 0.0
        while (reply := self.at_hand()) is None:
            deadline = deadline or time.monotonic() + timeout
            try:
                self._client.receive(self.stream.read(deadline))
            except RemoteProtocolError as error:
                raise RemoteProtocolError(f"{self.stream.server}: {error}") from error
        return reply

    def at_hand(self) -> Reply | None:
        """Return the next reply if all of it is here already, else None."""
        try:
            reply = self._client.next_reply()
        except RemoteProtocolError as error:
            raise RemoteProtocolError(f"{self.stream.server}: {error}") from error
        if reply is None:
            return None
        if self._secrets:
            reply = self._masked(reply)
        if self.dialogue.lines:
            self._show(reply)
        return reply

    @property
    def outstanding(self) -> int:
        """How many replies are still to come."""
        return self._client.outstanding

    @property
    def buffered(self) -> bool:
        """Whether a reply, or a part of one, is here already, so that the stream need not be looked at."""
        return self._client.buffered

    def close(self) -> None:
        """Close the connection without a word. Never fails, may be called twice."""
        self.alive = False
        self.stream.close()

    def ask_for_tls(self, timeout: float) -> None:
        """Ask for STARTTLS (RFC 3207); nothing but the handshake may follow. Raises TlsError if the server refuses.

        Raises RemoteProtocolError if it says more than its reply: that would be read as if it came inside TLS.
        """
        reply = self.ask(core.starttls(), timeout)
        if not reply.positive:
            raise TlsError(
                f"{self.stream.server} refuses STARTTLS: {reply}", hint='tls = "wanted" sends mail in the clear'
            )
        refuse_early(self._client.forget(), self.stream.server)

    def encrypt(self, settings: TlsSettings, timeout: float) -> None:
        """Begin TLS, which the server awaits. Raises TlsError, ConfigError, Stopped; RemoteProtocolError for what came early."""
        refuse_early(self._client.forget(), self.stream.server)
        self.stream.start_tls(settings, timeout)
        self.dialogue.tell(f"encrypted by {self.stream.cipher()}")

    def mask(self, *secrets: bytes) -> None:
        """Mask secrets in what the server says from now on."""
        self._secrets.update(secret for secret in secrets if secret)

    def forget_secrets(self) -> None:
        """Mask nothing more: the login is over, and what follows must come unchanged."""
        self._secrets.clear()

    def require(self, reply: Reply, what: str) -> None:
        """Return if `reply` is positive. Raises the error that says `what` the server does, and its words."""
        if reply.positive:
            return
        message = f"{self.stream.server} {what}: {reply}"
        if reply.transient:
            raise TemporaryReplyError(message, reply=reply)
        if reply.permanent:
            raise ReplyError(message, reply=reply)
        raise self.out_of_step(reply)

    def out_of_step(self, reply: Reply) -> RemoteProtocolError:
        """Return the error for a reply that its command can't have."""
        return RemoteProtocolError(
            f"{self.stream.server} answered {reply} to {reply.command.verb}, which makes no sense"
        )

    def _masked(self, reply: Reply) -> Reply:
        if reply.code == 334:
            return reply  # it is needed as it is, and shown by nobody
        lines = list(reply.lines)
        for secret in sorted(self._secrets, key=len, reverse=True):
            lines = [line.replace(secret, b"***") for line in lines]
        return reply if tuple(lines) == reply.lines else replace(reply, lines=tuple(lines))

    def _show(self, reply: Reply) -> None:
        if reply.code == 334:
            self.dialogue.server("334 ***")  # the server's half of a login: a password can be guessed against it
            return
        for position, line in enumerate(reply.lines, 1):
            self.dialogue.server(b"%d%s%s" % (reply.code, b" " if position == len(reply.lines) else b"-", line))
