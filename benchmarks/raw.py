"""The limit: a copy with all commands ahead and no processing, no state, no safety: `python -I -S raw.py`.

Arguments, as JSON: `users`, `password`, `pop3_port`, `smtp_port` (0: list only), `ca_file` (null: no TLS), `chunked`
(BDAT, else DATA) and `delete`. It prints the seconds from its first connection to the end of the last one, without its own start, and
the number of messages.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from dataclasses import dataclass

TERMINATOR = b"\r\n.\r\n"
READ = 1 << 18
_QUICKACK = getattr(socket, "TCP_QUICKACK", None)  # Linux


@dataclass(frozen=True)
class Task:
    """What to copy, and how."""

    users: list[str]
    password: str
    pop3_port: int
    smtp_port: int
    ca_file: str | None
    chunked: bool
    delete: bool


class Line:
    """A connection with a buffer."""

    def __init__(self, port: int, ca_file: str | None = None) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if ca_file is not None:
            import ssl

            context = ssl.create_default_context(cafile=ca_file)
            self.socket = context.wrap_socket(self.socket, server_hostname="localhost")
        self._buffer = bytearray()

    def send(self, octets: bytes) -> None:
        """Write all."""
        self.socket.sendall(octets)

    def until(self, end: bytes, through: Line | None = None) -> bytes:
        """Return what comes, up to and with `end`; what is large passes through another line as it comes, but for its end."""
        searched = 0
        while (found := self._buffer.find(end, searched)) < 0:
            searched = max(0, len(self._buffer) - len(end))
            if through is not None and len(self._buffer) > READ:
                through.send(self._cut(searched))
                searched = 0
            if _QUICKACK is not None:
                self.socket.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
            octets = self.socket.recv(READ)
            if not octets:
                raise ConnectionError(f"the server hung up after {bytes(self._buffer[-200:])!r}")
            self._buffer += octets
        return self._cut(found + len(end))

    def _cut(self, octets: int) -> bytes:
        taken = bytes(memoryview(self._buffer)[:octets])
        del self._buffer[:octets]
        return taken

    def lines(self, count: int, start: bytes) -> None:
        """Take so many lines, which must all start like this."""
        for _ in range(count):
            line = self.until(b"\r\n")
            if not line.startswith(start):
                raise ConnectionError(f"the server said {line!r}")


def copy(task: Task, user: str) -> int:
    """Copy a user's mail from POP3 to SMTP and return how many messages there were."""
    smtp = Line(task.smtp_port) if task.smtp_port else None  # its handshake runs beside that of POP3
    pop3 = Line(task.pop3_port, task.ca_file)
    pop3.lines(1, b"+OK")
    pop3.send(f"USER {user}\r\nPASS {task.password}\r\n".encode())
    pop3.lines(2, b"+OK")
    pop3.send(b"LIST\r\nUIDL\r\n")
    count = pop3.until(TERMINATOR).count(b"\r\n") - 2
    pop3.until(TERMINATOR)
    if smtp is not None:
        if count:
            pop3.send(b"".join(b"RETR %d\r\n" % number for number in range(1, count + 1)))
        smtp.lines(1, b"220")
        smtp.send(b"EHLO raw.example\r\n")
        smtp.until(b"\r\n250 ")
        smtp.until(b"\r\n")
        (_chunked if task.chunked else _data)(pop3, smtp, count)
        if task.delete and count:
            pop3.send(b"".join(b"DELE %d\r\n" % number for number in range(1, count + 1)))
            pop3.lines(count, b"+OK")
    pop3.send(b"QUIT\r\n")
    pop3.lines(1, b"+OK")
    return count


_ENVELOPE = b"MAIL FROM:<sender@example.net> BODY=8BITMIME\r\nRCPT TO:<all@corp.example>\r\n"


def _chunked(pop3: Line, smtp: Line, count: int) -> None:
    """Send each message as it comes, without waiting for a reply; another thread takes the replies."""
    replies = threading.Thread(target=smtp.lines, args=(3 * count, b"250"))
    replies.start()
    for _ in range(count):
        pop3.lines(1, b"+OK")
        content = pop3.until(TERMINATOR)[:-3].replace(b"\r\n..", b"\r\n.")
        smtp.send(b"".join((_ENVELOPE, b"BDAT %d LAST\r\n" % len(content), content)))
    replies.join()
    smtp.send(b"QUIT\r\n")
    smtp.lines(1, b"221")


def _data(pop3: Line, smtp: Line, count: int) -> None:
    """Send each message, as it comes, with the envelope of the next one: a round trip each."""
    following = _ENVELOPE + b"DATA\r\n"
    if count:
        smtp.send(following)
    for number in range(count):
        pop3.lines(1, b"+OK")
        smtp.lines(2, b"250")
        smtp.lines(1, b"354")
        smtp.send(pop3.until(TERMINATOR, smtp) + (following if number + 1 < count else b"QUIT\r\n"))
        smtp.lines(1, b"250")
    smtp.lines(1, b"221")


def main() -> None:
    """Copy all users' mail at once."""
    task = Task(**json.loads(sys.argv[1]))
    counts: list[int] = []
    began = time.monotonic()
    threads = [threading.Thread(target=lambda user=user: counts.append(copy(task, user))) for user in task.users]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps({"seconds": time.monotonic() - began, "messages": sum(counts)}))
    sys.exit(len(counts) != len(threads))


if __name__ == "__main__":
    main()
