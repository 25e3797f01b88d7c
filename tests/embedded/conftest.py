from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import closing

import pytest
import trustme


class Wire:
    """A raw connection to a server: what is sent is what is written, and what came is read as it is."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=5)

    def close(self) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def until(self, end: bytes) -> bytes:
        data = b""
        while not data.endswith(end):
            more = self.socket.recv(65_536)
            assert more, f"the line dropped after {data!r}"
            data += more
        return data

    def rest(self) -> bytes:
        data = b""
        try:
            while more := self.socket.recv(65_536):
                data += more
        except ConnectionError:
            pass
        return data

    def ask(self, command: bytes, end: bytes = b"\r\n") -> bytes:
        self.send(command + b"\r\n")
        return self.until(end)

    def is_silent(self, seconds: float = 0.1) -> bool:
        self.socket.settimeout(seconds)
        try:
            self.socket.recv(1)
        except TimeoutError:
            return True
        return False

    def secure(self, context: ssl.SSLContext) -> None:
        self.socket = context.wrap_socket(self.socket, server_hostname="localhost")


class Wires:
    def __init__(self) -> None:
        self.opened: list[Wire] = []

    def __call__(self, port: int) -> Wire:
        wire = Wire(port)
        self.opened.append(wire)
        return wire


@pytest.fixture
def connect() -> Iterator[Wires]:
    wires = Wires()
    yield wires
    for wire in wires.opened:
        with closing(wire):
            pass


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def server_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    return context


@pytest.fixture(scope="session")
def client_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context
