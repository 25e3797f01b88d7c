"""A POP3 connection: the core and its stream. Sends groups of commands, returns replies, each by its deadline."""

from __future__ import annotations

from collections.abc import Iterator

from poprep_cli.config.model import Pop3
from poprep_cli.errors import RemoteProtocolError
from poprep_cli.net.stop import Stop
from poprep_cli.net.stream import Pace, Stream, refuse_early
from poprep_cli.protocol.pop3 import STLS, Command, Pop3Client, Reply


class Link:
    """One connection to a POP3 server, from its greeting on. `greeting` is the server's first reply."""

    __slots__ = ("_client", "_settings", "greeting", "stream")

    def __init__(self, pop3: Pop3, stop: Stop) -> None:
        self._settings = pop3
        self._client = Pop3Client()
        self.stream = Stream.connect(pop3.address, pop3.timeout, stop)
        try:
            if pop3.ssl:
                self.stream.start_tls(pop3.tls_settings, pop3.timeout)
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
        self.stream.write(self._client.send(*commands), self._settings.timeout)

    def reply(self) -> Reply:
        """Return the next reply, or with a long block its first part. Raises ConnectionFailed, RemoteProtocolError, Stopped."""
        pace = Pace(self._settings.timeout)
        try:
            while (reply := self._client.next_reply()) is None:
                data = self.stream.read(pace.deadline)
                pace.received(len(data))
                self._client.receive(data)
        except RemoteProtocolError as error:
            raise RemoteProtocolError(f"{self.stream.server}: {error}") from error
        return reply

    def parts(self, reply: Reply) -> Iterator[bytes]:
        """Yield the whole block of `reply`, part by part. It must be read to its end before the next reply."""
        yield reply.block
        more = reply.more
        pace = Pace(self._settings.timeout)
        while more:
            part = self._client.next_part()
            if part is None:
                data = self.stream.read(pace.deadline)
                pace.received(len(data))
                self._client.receive(data)
                continue
            more = not part.last
            yield part.data

    def start_tls(self) -> Reply:
        """Ask for STLS (RFC 2595 4) and encrypt if the server agrees. Raises TlsError, RemoteProtocolError."""
        reply = self.ask(STLS)
        if reply.ok:
            refuse_early(self._client.forget_received(), self.stream.server)
            self.stream.start_tls(self._settings.tls_settings, self._settings.timeout)
        return reply

    @property
    def awaited(self) -> int:
        """How many replies the server still owes."""
        return self._client.outstanding

    def close(self) -> None:
        """Drop the line without QUIT: the server then commits nothing (RFC 1939 6)."""
        self.stream.close()
