"""An SMTP and LMTP server that accepts everything at once and remembers what it got: `python -m benchmarks.sink`.

It writes its port as the first line on stdout. A line `begin` on its stdin, with the arguments of
`Ledger.begin` as JSON, starts a count; a line `take` ends it and is answered by a line of JSON: see `Count`. Messages are
checked and hashed then, after the time that is measured, unless they would fill the memory.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections import deque
from dataclasses import asdict, dataclass, field

from benchmarks.mail import digest

EXTENSIONS = (b"PIPELINING", b"8BITMIME", b"SIZE 1000000000")
CHUNKING = b"CHUNKING"
TERMINATOR = b"\r\n.\r\n"
READ = 1 << 18  # octets at once
HELD = 700 << 20  # octets of messages not yet checked; above that they are checked at once
_OK = b"250 OK\r\n"
_QUICKACK = getattr(socket, "TCP_QUICKACK", None)  # Linux


@dataclass(slots=True)
class Count:
    """What came since `begin`.

    `digests` are those of the messages in the order of their ends; `faults` is what was wrong with the framing;
    `sessions` counts connections that sent a message or a command; `round_trips` counts how often a session, with
    everything answered, waited for its client for most of a round trip or longer; `data` and `chunked` count messages by how they came.
    """

    digests: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    sessions: int = 0
    round_trips: int = 0
    data: int = 0
    chunked: int = 0


class Ledger:
    """What all sessions share: the count, and the messages that wait to be checked. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._unchecked: deque[tuple[bytes, bool]] = deque()
        self._octets = 0
        self.count = Count()
        self.round_trip = 0.0
        self.acknowledge = True
        self.chunking = True

    def begin(self, *, round_trip: float, acknowledge: bool, chunking: bool) -> None:
        """Start counting from nothing. The round trip is in seconds, 0 if there is none to count.

        Without `acknowledge` the kernel delays its acknowledgements; without `chunking` that extension is not offered.
        """
        with self._lock:
            self.count, self.round_trip = Count(), round_trip
            self.acknowledge, self.chunking = acknowledge, chunking
            self._unchecked.clear()
            self._octets = 0

    def session(self) -> None:
        """Count a session."""
        with self._lock:
            self.count.sessions += 1

    def waited(self, seconds: float) -> None:
        """Count a wait for the client, if it was about a round trip or longer."""
        if self.round_trip and seconds > 0.75 * self.round_trip:
            with self._lock:
                self.count.round_trips += 1

    def add(self, content: bytes, *, stuffed: bool) -> None:
        """Take a message: mail data with its terminator, or the content that came in chunks."""
        with self._lock:
            self._unchecked.append((content, stuffed))
            self._octets += len(content)
            if self._octets > HELD:
                self._check()

    def take(self) -> Count:
        """Return what came, all of it checked."""
        with self._lock:
            self._check()
            return self.count

    def fault(self, what: str) -> None:
        """Note what a client did wrong."""
        with self._lock:
            self.count.faults.append(what)

    def _check(self) -> None:
        while self._unchecked:
            content, stuffed = self._unchecked.popleft()
            self._octets -= len(content)
            if content.count(b"\n") != content.count(b"\r\n") or content.count(b"\r") != content.count(b"\r\n"):
                self.count.faults.append("a stray CR or LF")
            if stuffed:
                self.count.data += 1
                content = self._unstuffed(content)
            else:
                self.count.chunked += 1
            self.count.digests.append(digest(content))

    def _unstuffed(self, block: bytes) -> bytes:
        content = block[:-3]
        dots = content.count(b"\r\n.") + content.startswith(b".")
        if dots != content.count(b"\r\n..") + content.startswith(b".."):
            self.count.faults.append("a dot at the start of a line was not doubled")
        content = content.removeprefix(b".")
        return content.replace(b"\r\n..", b"\r\n.")


class Session:
    """One connection: octets in, replies out, in one write for all that came at once."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._buffer = bytearray()
        self._searched = 0
        self._in_data = False
        self._chunks: list[bytes] = []
        self._chunk = 0  # octets of the present chunk
        self._last = False
        self._known = False
        self.ended = False

    def receive(self, octets: bytes) -> bytes:
        """Take what came and return the replies to all that is complete."""
        if not self._known:
            self._known = True
            self._ledger.session()
        self._buffer += octets
        replies: list[bytes] = []
        while not self.ended and (reply := self._step()) is not None:
            replies.append(reply)
        return b"".join(replies)

    def _step(self) -> bytes | None:
        if self._in_data:
            return self._data()
        if self._chunk:
            return self._chunked()
        end = self._buffer.find(b"\r\n")
        if end < 0:
            return None
        line = self._cut(end + 2)[:-2]
        return self._command(line)

    def _cut(self, octets: int) -> bytes:
        cut = bytes(memoryview(self._buffer)[:octets])
        del self._buffer[:octets]
        self._searched = 0
        return cut

    def _command(self, line: bytes) -> bytes | None:
        verb, _, argument = line.partition(b" ")
        verb = verb.upper()
        if verb in (b"MAIL", b"RCPT", b"RSET", b"NOOP"):
            return _OK
        if verb == b"DATA":
            self._in_data = True
            return b"354 Go ahead\r\n"
        if verb == b"BDAT":
            size, _, last = argument.partition(b" ")
            self._chunk, self._last = int(size), last.upper() == b"LAST"
            return self._chunked() if not self._chunk else self._step()
        if verb in (b"EHLO", b"LHLO"):
            lines = [b"sink.example", *EXTENSIONS, *([CHUNKING] if self._ledger.chunking else [])]
            return b"".join(b"250-" + text + b"\r\n" for text in lines[:-1]) + b"250 " + lines[-1] + b"\r\n"
        if verb == b"HELO":
            return b"250 sink.example\r\n"
        if verb == b"QUIT":
            self.ended = True
            return b"221 Bye\r\n"
        self._ledger.fault(f"an unknown command: {line[:80]!r}")
        return b"500 What?\r\n"

    def _data(self) -> bytes | None:
        if self._searched == 0 and self._buffer.startswith(b".\r\n"):
            end = 3
        else:
            found = self._buffer.find(TERMINATOR, self._searched)
            if found < 0:
                self._searched = max(0, len(self._buffer) - 4)
                return None
            end = found + 5
        self._in_data = False
        self._ledger.add(self._cut(end), stuffed=True)
        return _OK

    def _chunked(self) -> bytes | None:
        if len(self._buffer) < self._chunk:
            return None
        self._chunks.append(self._cut(self._chunk))
        self._chunk = 0
        if self._last:
            self._ledger.add(b"".join(self._chunks), stuffed=False)
            self._chunks.clear()
        return _OK


def serve(connection: socket.socket, ledger: Ledger) -> None:
    """Talk to one client until it ends or hangs up."""
    session = Session(ledger)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection:
        try:
            connection.sendall(b"220 sink.example ESMTP\r\n")
            while not session.ended:
                began = time.monotonic()
                if ledger.acknowledge and _QUICKACK is not None:
                    connection.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)  # the kernel drops it at will
                octets = connection.recv(READ)
                if not octets:
                    return
                ledger.waited(time.monotonic() - began)
                replies = session.receive(octets)
                if replies:
                    connection.sendall(replies)
        except OSError:
            return  # the client is gone; what it sent completely counts


def listen(ledger: Ledger) -> int:
    """Serve on a port of 127.0.0.1 that the system picks, in threads; return the port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)

    def accept() -> None:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=(connection, ledger), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return int(listener.getsockname()[1])


def main() -> None:
    """Serve until stdin ends."""
    ledger = Ledger()
    print(listen(ledger), flush=True)
    for line in sys.stdin:
        command, _, argument = line.strip().partition(" ")
        if command == "begin":
            ledger.begin(**json.loads(argument))
            print("{}", flush=True)
        elif command == "take":
            print(json.dumps(asdict(ledger.take())), flush=True)


if __name__ == "__main__":
    main()
