"""A POP3 connection: the core and its stream. Sends groups of commands, returns replies, each by its deadline."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from poprep_cli.config.model import Pop3
from poprep_cli.errors import RemoteProtocolError
from poprep_cli.net.dialogue import SILENT, Dialogue, forms
from poprep_cli.net.stop import Stop
from poprep_cli.net.stream import Pace, Stream, refuse_early
from poprep_cli.protocol.pop3 import STLS, Command, Pop3Client, Reply


class Link:
    """One connection to a POP3 server, from its greeting on. `greeting` is the server's first reply.

    Until `secrets` are forgotten they are masked in the text of every reply, and in what the transcript shows of its block:
    servers echo what they are sent.
    """

    __slots__ = ("_client", "_secrets", "_settings", "dialogue", "greeting", "stream")

    def __init__(self, pop3: Pop3, stop: Stop, dialogue: Dialogue = SILENT, *, stream: Stream | None = None) -> None:
        """Connect, or take over a `stream` that is connected, and wait for the greeting."""
        self._settings = pop3
        self._client = Pop3Client()
        self._secrets: set[bytes] = set()
        self.dialogue = dialogue
        self.stream = stream or Stream.connect(pop3.address, pop3.timeout, stop)
        dialogue.tell(f"connected to {self.stream.server} ({self.stream.peer})")
        try:
            if pop3.ssl:
                self._encrypt()
            self.greeting = self.reply()
        except BaseException:
            self.close()
            raise

    def ask(self, command: Command) -> Reply:
        """Send one command and return its reply; a multi-line reply must be small enough to come whole."""
        self.send(command)
        return self.reply()

    def send(self, *commands: Command) -> None:
        """Send commands in one write; each of them owes a reply."""
        if self.dialogue.lines:
            for command in commands:
                self.dialogue.client(command.shown)
        self.stream.write(self._client.send(*commands), self._settings.timeout)

    def reply(self) -> Reply:
        """Return the next reply, or with a long block its first part. Raises ConnectionFailed, RemoteProtocolError, Stopped."""
        pace: Pace | None = None
        try:
            while (reply := self._client.next_reply()) is None:
                pace = pace or Pace(self._settings.timeout)
                data = self.stream.read(pace.deadline)
                pace.received(len(data))
                self._client.receive(data)
        except RemoteProtocolError as error:
            raise RemoteProtocolError(f"{self.stream.server}: {error}") from error
        if self._secrets:
            reply = self._masked(reply)
        if self.dialogue.lines:
            self._show(reply)
        return reply

    def mask(self, secret: bytes) -> None:
        """Mask a secret in what the server says from now on."""
        self._secrets.update(forms(secret))

    def forget_secrets(self) -> None:
        """Mask nothing more: the login is over, with all that was sent together with it, and what follows must come unchanged."""
        self._secrets.clear()

    def _masked(self, reply: Reply) -> Reply:
        if reply.challenge is not None:
            return reply
        text = self._without_secrets(reply.text)
        return reply if text == reply.text else replace(reply, text=text)

    def _without_secrets(self, text: bytes) -> bytes:
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, b"***")
        return text

    def _show(self, reply: Reply) -> None:
        if reply.challenge is not None and not reply.ok:
            self.dialogue.server("+ ***")  # the server's half of a login: a password can be guessed against it
            return
        self.dialogue.server(str(reply))
        if reply.block and not reply.command.is_mail:
            self.dialogue.block(self._without_secrets(reply.block), whole=not reply.more)

    def parts(self, reply: Reply) -> Iterator[bytes]:
        """Yield the whole block of `reply`, part by part. It must be read to its end before the next reply."""
        yield reply.block
        octets = len(reply.block)
        more = reply.more
        pace: Pace | None = None
        while more:
            part = self._client.next_part()
            if part is None:
                pace = pace or Pace(self._settings.timeout)
                data = self.stream.read(pace.deadline)
                pace.received(len(data))
                self._client.receive(data)
                continue
            more = not part.last
            octets += len(part.data)
            yield part.data
        if reply.command.is_mail:
            self.dialogue.content("S", octets - len(b".\r\n"))

    def start_tls(self) -> Reply:
        """Ask for STLS (RFC 2595 4) and encrypt if the server agrees. Raises TlsError, RemoteProtocolError."""
        reply = self.ask(STLS)
        if reply.ok:
            refuse_early(self._client.forget_received(), self.stream.server)
            self._encrypt()
        return reply

    def _encrypt(self) -> None:
        self.stream.start_tls(self._settings.tls_settings, self._settings.timeout)
        self.dialogue.tell(f"encrypted by {self.stream.cipher()}")

    @property
    def awaited(self) -> int:
        """How many replies the server still owes."""
        return self._client.outstanding

    def close(self) -> None:
        """Drop the line without QUIT: the server then commits nothing (RFC 1939 6)."""
        self.stream.close()
