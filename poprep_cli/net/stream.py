"""One byte stream to a server: TCP or a unix socket, with or without TLS. The only module that imports socket.

Every wait has a deadline, a point on the monotonic clock and not a time per read, so one octet a second is no life.
Operating system errors become ours here and nowhere else.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from poprep_cli.config.model import Address, TlsSettings
from poprep_cli.errors import ConnectionFailed, RemoteProtocolError, Stopped, TlsError
from poprep_cli.net import tls
from poprep_cli.net.stop import Stop

if TYPE_CHECKING:
    import ssl

_READ = 1 << 18
_EARLY = 0.95  # of a wait: so much is set as the socket's timeout, which then serves the waits that follow
_WRITE = 1 << 18
MIN_RATE = 1024  # octets a second that count as progress of a long transfer


class Stream:
    """A connected stream. Not safe for two threads at once, `interrupt` aside. `server` names the peer for messages.

    `seconds` is how long the connection took to stand, without the look-up of the name: one round trip.
    """

    __slots__ = (
        "_forget",
        "_patience",
        "_received",
        "_socket",
        "_stop",
        "_unproven",
        "host",
        "peer",
        "seconds",
        "server",
        "tls",
    )

    def __init__(self, connected: socket.socket, server: str, host: str, stop: Stop) -> None:
        self._socket: socket.socket | ssl.SSLSocket = connected
        self._stop = stop
        self.server = server
        self.host = host
        self.seconds = 0.0
        self.tls = False
        self._unproven = False  # whether nothing has come over TLS yet
        self._patience = -1.0  # the socket's timeout, below 0 if it is not known
        # One for all reads: a new one each time would be 256 KiB asked of the system and given back for a line. Only
        # what was written to takes memory.
        self._received = memoryview(bytearray(_READ))
        self.peer = _peer(connected)
        self._forget: Callable[[], None] = stop.on_trip(self.interrupt)

    @classmethod
    def connect(cls, address: Address, timeout: float, stop: Stop) -> Stream:
        """Connect to `address`, trying each of its IP addresses in turn, all within `timeout` seconds.

        Raises ConnectionFailed if the name is unknown, nobody answers or the connection is refused; Stopped.
        """
        server = str(address)
        deadline = time.monotonic() + timeout
        if address.path:
            return cls(_connect_unix(address.path, timeout, server), server, "", stop)
        try:
            # As octets where that is the same: for a text the codec of IDNA is loaded, which takes a millisecond.
            host = address.host.encode() if address.host.isascii() else address.host
            found = socket.getaddrinfo(host, address.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise ConnectionFailed(f"{server}: the name {address.host} has no address: {_why(error)}") from error
        failures: list[str] = []
        for position, (family, kind, number, _, where) in enumerate(found):
            stop.check()
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                break
            connecting = socket.socket(family, kind, number)
            connecting.settimeout(max(remaining / (len(found) - position), 0.05))
            started = time.monotonic()
            forget = stop.on_trip(lambda c=connecting: _shut(c))  # type: ignore[misc]
            try:
                connecting.connect(where)
                connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError as error:
                connecting.close()
                failures.append(f"{where[0]}: {_why(error)}")
                continue
            finally:
                forget()
            stream = cls(connecting, server, address.host, stop)
            stream.seconds = time.monotonic() - started
            return stream
        stop.check()
        raise ConnectionFailed(f"can't connect to {server} ({'; '.join(failures) or 'timed out'})")

    def start_tls(self, settings: TlsSettings, timeout: float) -> None:
        """Encrypt the stream from here on; the certificate is checked for the host's name, or against the pin.

        Raises TlsError, also if the line drops or `timeout` seconds pass; ConfigError for files that can't be used; Stopped.
        """
        context = tls.context_for(settings)
        name = tls.server_name(self.host)
        try:
            asked = name.encode("idna").decode()
            wrapped = context.wrap_socket(self._socket, server_hostname=asked, do_handshake_on_connect=False)
        except (OSError, ValueError) as error:
            self._stop.check()
            raise TlsError(f"TLS with {self.server} can't be set up: {_why(error)}") from error
        self._socket, self._patience = wrapped, -1.0
        try:
            _handshake(wrapped, time.monotonic() + timeout)
        except OSError as error:
            self._stop.check()
            expected = name if asked == name else f"{name} ({asked})"
            raise tls.failure(error, self.server, expected) from error
        tls.check_pin(settings, wrapped.getpeercert(binary_form=True), self.server)
        self.tls = self._unproven = True

    def read(self, deadline: float) -> memoryview:
        """Return what has arrived, at least one octet; wait for it until `deadline` (monotonic seconds).

        What is returned is overwritten by the next call.

        Raises ConnectionFailed at the end of the stream, when the deadline passes or the line drops; TlsError if the
        server ends TLS before it has said anything; Stopped.
        """
        try:
            octets = self._receive(deadline)
        except OSError as error:
            raise self._failed(error, "no answer came in time") from error
        if not octets:
            self._stop.check()
            raise ConnectionFailed(f"{self.server} closed the connection")
        self._unproven = False
        return self._received[:octets]

    def _receive(self, deadline: float) -> int:
        while (remaining := deadline - time.monotonic()) > 0:
            self._wait_at_most(remaining)
            try:
                return self._socket.recv_into(self._received)
            except TimeoutError:
                continue  # it was set for less than what remains
        raise TimeoutError

    def _wait_at_most(self, seconds: float) -> None:
        """Set the socket's timeout, unless it is a little below `seconds` already: setting it is a system call, too."""
        if seconds < 1:
            self._patience = seconds
        elif _EARLY * _EARLY * seconds <= self._patience <= seconds:
            return
        else:
            self._patience = _EARLY * seconds
        self._socket.settimeout(self._patience)

    def write(self, data: bytes | memoryview, timeout: float) -> None:
        """Send all of `data`, each 256 KiB of it within `timeout` seconds.

        Raises ConnectionFailed if the peer stops reading or the line drops; Stopped.
        """
        try:
            self._wait_at_most(timeout)
            if len(data) <= _WRITE:
                self._socket.sendall(data)
                return
            view = memoryview(data)
            for start in range(0, len(view), _WRITE):
                self._socket.sendall(view[start : start + _WRITE])
        except OSError as error:
            raise self._failed(self._last_words() or error, "it stopped reading") from error

    def unique_binding(self) -> bytes | None:
        """Return the tls-unique data (RFC 5929 3), or None without TLS or where it is not to be had."""
        if not self.tls:
            return None
        try:
            found: bytes | None = self._socket.get_channel_binding("tls-unique")  # type: ignore[union-attr]
        except ValueError:
            return None
        return found

    def channel_binding(self) -> bytes | None:
        """Return the tls-server-end-point data (RFC 5929 4.1), or None without TLS or where the certificate has none."""
        certificate = self.certificate()
        if certificate is None:
            return None
        from hashlib import new

        from cryptography.x509 import load_der_x509_certificate

        algorithm = load_der_x509_certificate(certificate).signature_hash_algorithm
        if algorithm is None:
            return None
        return new("sha256" if algorithm.name in ("md5", "sha1") else algorithm.name, certificate).digest()

    def certificate(self) -> bytes | None:
        """Return the server's certificate (DER), or None without TLS."""
        if not self.tls:
            return None
        found: bytes | None = self._socket.getpeercert(binary_form=True)  # type: ignore[union-attr]
        return found

    def cipher(self) -> str:
        """Return version and cipher of the TLS session, such as "TLSv1.3, TLS_AES_256_GCM_SHA384"; "" without TLS."""
        if not self.tls:
            return ""
        found = self._socket.cipher()  # type: ignore[union-attr]
        # The session's own version: the one that comes with the cipher is that of the cipher's definition.
        return f"{self._socket.version()}, {found[0]}" if found else ""  # type: ignore[union-attr]

    @property
    def is_loopback(self) -> bool:
        """Whether the peer's address is this machine's own."""
        return self.peer == "::1" or self.peer.startswith(("127.", "::ffff:127."))

    def close(self) -> None:
        """Close the stream. Never fails, may be called twice."""
        self._forget()
        try:
            self._socket.close()
        except OSError:
            return

    def local_address(self) -> str:
        """Return the IP address of this side, without a zone; "" for a unix socket or a line that is gone."""
        try:
            name = self._socket.getsockname()
        except OSError:
            return ""
        return str(name[0]).partition("%")[0] if isinstance(name, tuple) else ""

    def fileno(self) -> int:
        """Return the socket's number for the system's calls, -1 if it is closed."""
        return self._socket.fileno()

    @property
    def has_received(self) -> bool:
        """Whether the next read need not ask the system: TLS has decrypted more than was read, or the stream is closed."""
        return self.fileno() < 0 or (self.tls and self._socket.pending() > 0)  # type: ignore[union-attr]

    def interrupt(self) -> None:
        """Make every call in another thread end at once (RFC 793 shutdown of both directions)."""
        _shut(self._socket)

    def _last_words(self) -> OSError | None:
        """Return the alert by which the server ended TLS at once, which is still to be read when a write fails."""
        if not self._unproven:
            return None
        try:
            self._patience = -1.0
            self._socket.settimeout(0)
            self._socket.recv(1)
        except OSError as error:
            return error if tls.is_alert(error) else None
        return None

    def _failed(self, error: OSError, timed_out: str) -> ConnectionFailed | TlsError | Stopped:
        if self._stop.tripped:
            return Stopped()
        if self._unproven and tls.is_alert(error):
            return tls.failure(error, self.server, self.host)
        if isinstance(error, TimeoutError):
            return ConnectionFailed(f"{self.server}: {timed_out}")
        return ConnectionFailed(f"the connection to {self.server} broke: {_why(error)}")


class Readable(Protocol):
    """A stream, or what is on top of one."""

    def fileno(self) -> int:
        """Return the socket's number."""

    @property
    def has_received(self) -> bool:
        """Whether the next read need not ask the system."""


def readable(streams: Sequence[Readable], timeout: float) -> set[int]:
    """Return the places of those streams that have something to be read; wait up to `timeout` seconds for the first.

    A stream that broke, or that was closed, counts: its next read says so.
    """
    import selectors

    found = {place for place, stream in enumerate(streams) if stream.has_received}
    if found:
        return found
    with selectors.DefaultSelector() as selector:
        for place, stream in enumerate(streams):
            selector.register(stream, selectors.EVENT_READ, place)
        return {int(key.data) for key, _ in selector.select(timeout)}


class Pace:
    """The deadline of one answer, and of a long one that keeps coming: at least 1 KiB/s over each span of `timeout`."""

    __slots__ = ("_octets", "_timeout", "deadline")

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._octets = 0
        self.deadline = time.monotonic() + timeout

    def received(self, octets: int) -> None:
        """Count octets of a transfer; once the span has had its share the next span begins."""
        self._octets += octets
        if self._octets >= MIN_RATE * self._timeout:
            self._octets = 0
            self.deadline = time.monotonic() + self._timeout


def refuse_early(data: bytes, server: str) -> None:
    """Raise RemoteProtocolError if the server sent octets in the clear that would be read as encrypted (CVE-2021-33515)."""
    if data:
        raise RemoteProtocolError(
            f"{server} sent {len(data)} octets in the clear before TLS began: somebody may be tampering with the line",
        )


def local_name() -> str:
    """Return this host's full name, as far as it knows it without asking the network."""
    return socket.gethostname()


def _handshake(wrapped: ssl.SSLSocket, deadline: float) -> None:
    """Shake hands by the deadline: a timeout alone would start anew with each octet the peer sends."""
    import select
    import ssl

    wrapped.setblocking(False)
    while True:
        try:
            wrapped.do_handshake()
            return
        except ssl.SSLWantReadError:
            sets: tuple[list[ssl.SSLSocket], list[ssl.SSLSocket]] = ([wrapped], [])
        except ssl.SSLWantWriteError:
            sets = ([], [wrapped])
        remaining = deadline - time.monotonic()
        if remaining <= 0 or not any(select.select(*sets, [], remaining)):
            raise TimeoutError("timed out")


def _connect_unix(path: str, timeout: float, server: str) -> socket.socket:
    if not hasattr(socket, "AF_UNIX"):
        raise ConnectionFailed(f"{server}: unix sockets are not to be had on this system")
    connecting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connecting.settimeout(timeout)
    try:
        connecting.connect(path)
    except OSError as error:
        connecting.close()
        raise ConnectionFailed(f"can't connect to {server}: {_why(error)}") from error
    return connecting


def _peer(connected: socket.socket) -> str:
    try:
        name = connected.getpeername()
    except OSError:
        return ""
    return str(name[0]) if isinstance(name, tuple) else ""


def _shut(some: socket.socket) -> None:
    try:
        # Of the plain socket's class: SSLSocket.shutdown would touch TLS state that the other thread is using.
        socket.socket.shutdown(some, socket.SHUT_RDWR)
    except OSError:
        return


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()
