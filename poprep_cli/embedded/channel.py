"""One connection of an embedded server: buffered input, and output that is sent when no more input is at hand."""

from __future__ import annotations

from threading import Event
from typing import TYPE_CHECKING, NoReturn

from poprep_cli.embedded.sessions import Session

if TYPE_CHECKING:
    import socket
    import ssl

READ_OCTETS = 262_144
MAX_LINE = 65_536  # far above what RFC 5321 4.5.3.1 and RFC 2449 4 allow
UNSENT_OCTETS = 262_144  # more than this is sent even while there is input
LINGER = 1.0  # seconds for the client to close, so that it can read the last reply before the connection is reset

_SHUT_WR = 1  # the values of socket.SHUT_WR and SHUT_RDWR, the same everywhere
_SHUT_RDWR = 2


class LineClosedError(Exception):
    """The conversation is over: the client has left, or the server was to drop the line."""


class Channel:
    """What a server reads from and writes to. Replies to commands that came together leave together (RFC 2920 3.2)."""

    def __init__(self, connection: socket.socket, session: Session, stopping: Event) -> None:
        self.session = session
        self.latency = 0.0  # seconds before each group of replies: a distant server
        self._socket = connection
        self._stopping = stopping
        self._input = bytearray()
        self._output: list[bytes] = []
        self._unsent = 0
        self._waited_for = True  # whether the next input starts a batch

    @property
    def pending(self) -> bool:
        """Whether input that nobody has asked for is at hand."""
        return bool(self._input)

    def line(self) -> bytes:
        """Return the next line without its CRLF. Raises LineClosedError when there is none to come."""
        searched = 0
        while (end := self._input.find(b"\n", searched)) < 0:
            searched = len(self._input)
            if searched > MAX_LINE:
                self.drop()
            self._read()
        line = bytes(self._input[:end])
        del self._input[: end + 1]
        return line.removesuffix(b"\r")

    def octets(self, count: int) -> bytes:
        """Return exactly `count` octets. Raises LineClosedError when they don't come."""
        while len(self._input) < count:
            self._read()
        return self._take(count)

    def block(self) -> bytes:
        """Return a dot-stuffed block with its terminator, which only CRLF.CRLF is (RFC 5321 4.1.1.4)."""
        searched = 0
        while True:
            if self._input.startswith(b".\r\n"):
                return self._take(3)
            end = self._input.find(b"\r\n.\r\n", searched)
            if end >= 0:
                return self._take(end + 5)
            searched = max(0, len(self._input) - 4)
            self._read()

    def await_input(self) -> None:
        """Return when there is at least one octet of input. Raises LineClosedError when there is none to come."""
        if not self._input:
            self._read()

    def write(self, data: bytes) -> None:
        """Send octets, later if there is more input at hand."""
        self._output.append(data)
        self._unsent += len(data)
        if self._unsent > UNSENT_OCTETS:
            self.flush()

    def flush(self) -> None:
        """Send all that was written."""
        if not self._output:
            return
        data = b"".join(self._output)
        self._output.clear()
        self._unsent = 0
        self._waited_for = True
        if self.latency:
            self.wait(self.latency)
        self._socket.sendall(data)

    def discard_input(self) -> None:
        """Forget what the client has sent and nobody has read."""
        self._input.clear()

    def start_tls(self, context: ssl.SSLContext) -> None:
        """Do the server's half of a TLS handshake. What came before it in the clear is thrown away (RFC 3207 6)."""
        self.flush()
        self.discard_input()
        self._socket = context.wrap_socket(self._socket, server_side=True)
        self.session.tls = True

    def wait(self, seconds: float) -> None:
        """Do nothing for some seconds, or until the server is stopped."""
        if self._stopping.wait(seconds):
            raise LineClosedError

    def hang(self) -> NoReturn:
        """Say nothing any more, whatever the client sends, until it leaves."""
        self.flush()
        while True:
            self._read()
            self.discard_input()

    def drop(self) -> NoReturn:
        """Send what was written and break the line."""
        self.flush()
        raise LineClosedError

    def finish(self) -> None:
        """Take leave: send what was written, end TLS, and give the client time to read it."""
        self.flush()
        unwrap = getattr(self._socket, "unwrap", None)
        if unwrap is not None:
            self._socket.setblocking(False)
            try:
                unwrap()  # sends close_notify and doesn't wait for the answer: that is the error
            except (OSError, ValueError):
                return
        self._socket.shutdown(_SHUT_WR)
        self._socket.settimeout(LINGER)
        while self._socket.recv(READ_OCTETS):
            pass

    def close(self) -> None:
        """Release the connection."""
        self.interrupt()
        self._socket.close()
        self.session.ended = True

    def interrupt(self) -> None:
        """Break the line from another thread: whoever reads from it wakes up."""
        try:
            self._socket.shutdown(_SHUT_RDWR)
        except OSError:
            return  # it is broken already

    def _read(self) -> None:
        self.flush()
        data = self._socket.recv(READ_OCTETS)
        if not data:
            raise LineClosedError
        if self._waited_for:
            self.session.batches += 1
            self._waited_for = False
        self.session.add_octets(data)
        self._input += data

    def _take(self, count: int) -> bytes:
        data = bytes(memoryview(self._input)[:count])
        del self._input[:count]
        return data
