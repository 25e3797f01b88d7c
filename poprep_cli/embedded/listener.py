"""Accepts connections on loopback and runs a conversation over each, in a thread of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from socketserver import StreamRequestHandler, ThreadingTCPServer
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Any

from poprep_cli.embedded.channel import Channel, LineClosedError
from poprep_cli.embedded.sessions import Session

if TYPE_CHECKING:
    import socket
    import ssl

HOST = "127.0.0.1"
BACKLOG = 128
STOP_INTERVAL = 0.02  # seconds until a stop is noticed

Conversation = Callable[[Channel], None]


class _Connection(StreamRequestHandler):
    """One connection. The standard library asks for a class here."""

    disable_nagle_algorithm = True

    def handle(self) -> None:
        """Converse until the line is closed."""
        server = self.server
        assert isinstance(server, _Server)  # noqa: S101 - for the type checker: only _Server makes these
        server.listener.converse(self.connection)


class _Server(ThreadingTCPServer):
    """The standard library's threading server with this program's settings."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = BACKLOG

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        super().__init__((HOST, 0), _Connection)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - the standard library's signature
        """Tell of what went wrong, unless it is only that the client was gone before it was served."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class Listener:
    """Listens on a free port of 127.0.0.1 between `start` and `stop`, and keeps the record of every session.

    With `context` and `ssl` a connection starts with the TLS handshake (RFC 8314 3).
    """

    def __init__(self, conversation: Conversation, *, context: ssl.SSLContext | None, ssl: bool) -> None:
        if ssl and context is None:
            raise ValueError("TLS at connect needs a context")
        self.sessions: list[Session] = []
        self.stopping = Event()
        self._conversation = conversation
        self._context = context if ssl else None
        self._channels: set[Channel] = set()
        self._lock = Lock()
        self._server: _Server | None = None
        self._thread: Thread | None = None
        self._port = 0

    @property
    def port(self) -> int:
        """The TCP port, 0 before the first start. It stays known after the stop."""
        return self._port

    @property
    def open_sessions(self) -> int:
        """How many connections there are at this moment, those not counted that have said QUIT."""
        with self._lock:
            return sum(not channel.session.quit for channel in self._channels)

    def start(self) -> None:
        """Listen. Raises OSError if that is not possible, and ValueError if it listens already."""
        if self._server is not None:
            raise ValueError("already started")
        self.stopping.clear()
        self._server = _Server(self)
        self._port = self._server.server_address[1]
        options: dict[str, Any] = {"poll_interval": STOP_INTERVAL}
        self._thread = Thread(target=self._server.serve_forever, kwargs=options, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening and break all lines. Does nothing if it is not started."""
        if self._server is None or self._thread is None:
            return
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._server = self._thread = None
        with self._lock:
            channels = list(self._channels)
        for channel in channels:
            channel.interrupt()

    def converse(self, connection: socket.socket) -> None:
        """Hold the conversation on one connection and close it, whatever happens."""
        session = Session()
        channel = Channel(connection, session, self.stopping)
        with self._lock:
            self.sessions.append(session)
            self._channels.add(channel)
        try:
            channel.wait(0)  # a connection that was accepted while the server stopped ends here
            if self._context is not None:
                channel.start_tls(self._context)
            self._conversation(channel)
            channel.finish()
        except (LineClosedError, OSError):
            pass  # the client left, a handshake failed, or the fault asked for was a broken line
        finally:
            channel.close()
            with self._lock:
                self._channels.discard(channel)
