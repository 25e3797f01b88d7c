"""A line with a round trip: a proxy that hands on every octet half a round trip later: `python -m benchmarks.delay`.

Arguments: the round trip in seconds, then a port of 127.0.0.1 to lead to. It writes the port that it listens on as its first
line on stdout, answers each line on stdin by how often since the last one the server, with everything answered, waited for
its client for most of a round trip or longer, and ends when its stdin does.

Whatever comes is released half a round trip after it came, in order, so pipelined commands cost what they cost on
a real line. The connection to the server is opened one and a half round trips after the client's, and the greeting takes
half of one: it arrives after two, as it does after a TCP handshake. Not modelled: `connect` itself returns at once, there
is no slow start, no loss and no bandwidth limit, and a segment is acknowledged at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections import deque
from dataclasses import dataclass
from typing import cast

_QUICKACK = getattr(socket, "TCP_QUICKACK", None)  # Linux
_LATE = 0.0005  # seconds: the event loop wakes up to a millisecond late


class End(asyncio.Protocol):
    """One end of a connection: what it receives leaves through `other`, later."""

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._queue: deque[bytes | None] = deque()  # in order, whatever the timers do; None is the end
        self.other: asyncio.Transport | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""
        self.transport = cast("asyncio.Transport", transport)
        self._acknowledge()

    def _acknowledge(self) -> None:
        line = self.transport.get_extra_info("socket") if self.transport is not None else None
        if _QUICKACK is not None and line is not None:
            with contextlib.suppress(OSError):
                line.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)

    def data_received(self, data: bytes) -> None:
        """Queue octets for the other end."""
        self._acknowledge()
        self._later(data)

    def eof_received(self) -> bool:
        """Queue the end for the other end, and stay open in the other direction."""
        self._later(None)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Close the other end, later."""
        del exc
        asyncio.get_running_loop().call_later(self._delay, self._close)

    def _later(self, data: bytes | None) -> None:
        self._queue.append(data)
        asyncio.get_running_loop().call_later(max(0.0, self._delay - _LATE), self._release)

    def _release(self) -> None:
        if self.other is None:
            # The connection to the server is still being made.
            asyncio.get_running_loop().call_later(0.001, self._release)
            return
        data = self._queue.popleft()
        if self.other.is_closing():
            return
        if data is not None:
            self.other.write(data)
        elif self.other.can_write_eof():
            self.other.write_eof()

    def _close(self) -> None:
        if self.other is not None:
            self.other.close()


@dataclass(slots=True)
class Waits:
    """How often the server waited for a client."""

    round_trips: int = 0

    def take(self) -> int:
        """Return the count and start a new one."""
        taken, self.round_trips = self.round_trips, 0
        return taken


class Far(End):
    """The server's end: it notes when the server last said something."""

    def __init__(self, delay: float) -> None:
        super().__init__(delay)
        self.said: float | None = None

    def data_received(self, data: bytes) -> None:
        """Queue octets for the client."""
        self.said = asyncio.get_running_loop().time()
        super().data_received(data)


class Near(End):
    """The client's end: it opens the connection to the server, late."""

    def __init__(self, round_trip: float, port: int, waits: Waits) -> None:
        super().__init__(round_trip / 2)
        self._round_trip = round_trip
        self._port = port
        self._waits = waits
        self._far = Far(self._delay)
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, and make the one to the server after the handshake would have ended."""
        super().connection_made(transport)
        self._task = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        await asyncio.sleep(1.5 * self._round_trip)
        loop = asyncio.get_running_loop()
        self._far.other = self.transport
        try:
            self.other, _ = await loop.create_connection(lambda: self._far, "127.0.0.1", self._port)
        except OSError:
            if self.transport is not None:
                self.transport.abort()

    def _release(self) -> None:
        said, self._far.said = self._far.said, None
        if said is not None and asyncio.get_running_loop().time() - said > 0.75 * self._round_trip:
            self._waits.round_trips += 1
        super()._release()


async def _serve(round_trip: float, port: int) -> None:
    loop = asyncio.get_running_loop()
    waits = Waits()
    server = await loop.create_server(lambda: Near(round_trip, port, waits), "127.0.0.1", 0, backlog=256)
    print(server.sockets[0].getsockname()[1], flush=True)
    while await loop.run_in_executor(None, sys.stdin.readline):
        print(waits.take(), flush=True)


def main() -> None:
    """Lead a port to a port until stdin ends."""
    asyncio.run(_serve(float(sys.argv[1]), int(sys.argv[2])))


if __name__ == "__main__":
    main()
