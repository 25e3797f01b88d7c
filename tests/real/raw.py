"""POP3 and SMTP over a plain socket, with nothing of the program under test: what tests compare with."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

_TIMEOUT = 60.0  # seconds, for each read


class Line:
    """A connection to 127.0.0.1, TLS at connect if there is a CA file; both sides closed at the end of its `with` block."""

    def __init__(self, port: int, ca_file: Path | None = None) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream: BinaryIO = self._socket.makefile("rb")
        if ca_file is not None:
            self.start_tls(ca_file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()
        self._socket.close()

    def start_tls(self, ca_file: Path) -> None:
        """Go on in TLS, with the name localhost verified."""
        self._stream.close()
        self._socket = ssl.create_default_context(cafile=ca_file).wrap_socket(self._socket, server_hostname="localhost")
        self._stream = self._socket.makefile("rb")

    def send(self, octets: bytes) -> None:
        """Write octets as they are."""
        self._socket.sendall(octets)

    def line(self) -> bytes:
        """Return the next line with its end; raise AssertionError at the end of the connection."""
        line = self._stream.readline()
        assert line.endswith(b"\r\n"), f"the server hung up after {line!r}"
        return line

    def block(self) -> bytes:
        """Return the next multi-line answer's content, dots undone, each line with its CRLF (RFC 1939, section 3)."""
        lines = []
        while (line := self.line()) != b".\r\n":
            # readline() ends at LF; a line that ends in a bare LF is no line to POP3, nor to `line`.
            lines.append(line[1:] if line.startswith(b".") else line)
        return b"".join(lines)

    def pop3(self, command: bytes) -> bytes:
        """Send a POP3 command and return its status line, which must be +OK."""
        self.send(command + b"\r\n")
        status = self.line()
        assert status.startswith(b"+OK"), f"{command!r}: {status!r}"
        return status

    def smtp(self, command: bytes, code: bytes) -> bytes:
        """Send an SMTP command (none if empty) and return its reply, which must have this code."""
        if command:
            self.send(command + b"\r\n")
        lines = [self.line()]
        while lines[-1][3:4] == b"-":
            lines.append(self.line())
        assert lines[-1].startswith(code), f"{command[:100]!r}: {lines[-1]!r}"
        return b"".join(lines)


def maildrop(port: int, user: str, password: str, ca_file: Path | None = None) -> dict[bytes, bytes]:
    """Return the messages of a maildrop by their UIDL, as RETR gives them; nothing is deleted."""
    with Line(port, ca_file) as line:
        assert line.line().startswith(b"+OK")
        line.pop3(b"USER " + user.encode())
        line.pop3(b"PASS " + password.encode())
        line.pop3(b"UIDL")
        entries: Sequence[list[bytes]] = [entry.split(b" ", 1) for entry in line.block().splitlines()]
        messages = {}
        for number, uidl in entries:
            line.pop3(b"RETR " + number)
            messages[uidl] = line.block()
        line.pop3(b"QUIT")
    return messages


def submit(port: int, contents: Iterable[bytes]) -> None:
    """Send messages with CRLF line ends to a server on 127.0.0.1 by DATA, with a null reverse path."""
    with Line(port) as line:
        line.smtp(b"", b"220")
        line.smtp(b"EHLO localhost", b"250")
        for content in contents:
            line.smtp(b"MAIL FROM:<> BODY=8BITMIME", b"250")
            line.smtp(b"RCPT TO:<all@corp.example>", b"250")
            line.smtp(b"DATA", b"354")
            stuffed = content.replace(b"\r\n.", b"\r\n..")
            line.send(b"." + stuffed if content.startswith(b".") else stuffed)
            line.smtp(b".", b"250")
        line.smtp(b"QUIT", b"221")
