"""Certificates as they should be and as they should not, and servers that break off or spoil the handshake."""

from __future__ import annotations

import datetime as dt
import hashlib
import ipaddress
import socket
import ssl
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from poprep_cli.config.model import TlsSettings

DAY = dt.timedelta(days=1)
NOW = dt.datetime.now(dt.UTC)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name if name.isascii() else name.encode("idna").decode())


@dataclass(frozen=True)
class Certified:
    """A certificate with its key, both in one PEM file."""

    path: Path
    der: bytes

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.der).hexdigest()

    def context(self) -> ssl.SSLContext:
        """Return the context of a server that has it."""
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.load_cert_chain(self.path)
        return made


@dataclass
class Authority:
    """A CA whose certificate is in `path`."""

    folder: Path
    label: str = "ca"
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def __post_init__(self) -> None:
        self.path = self.folder / f"{self.label}.pem"
        self._count = 0
        made = self._builder(self.key, self.label, NOW - DAY, NOW + DAY)
        made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        identifier = x509.SubjectKeyIdentifier.from_public_key(self.key.public_key())
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        made = made.add_extension(identifier, critical=False).add_extension(usage, critical=True)
        self.path.write_bytes(made.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def _builder(
        self, key: ec.EllipticCurvePrivateKey, subject: str, start: dt.datetime, end: dt.datetime
    ) -> x509.CertificateBuilder:
        builder = x509.CertificateBuilder(_name(self.label), _name(subject), key.public_key())
        return builder.serial_number(x509.random_serial_number()).not_valid_before(start).not_valid_after(end)

    def issue(
        self,
        *names: str | x509.GeneralName,
        start: dt.datetime = NOW - DAY,
        end: dt.datetime = NOW + DAY,
        passphrase: bytes = b"",
    ) -> Certified:
        """Return a certificate for host names and addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(key, "somebody", start, end)
        general = [_general(name) if isinstance(name, str) else name for name in names]
        builder = builder.add_extension(x509.SubjectAlternativeName(general), critical=False)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = builder.add_extension(issuer, critical=False)
        return self._write(builder.sign(self.key, hashes.SHA256()), key, passphrase)

    def self_signed(self, *names: str) -> Certified:
        """Return a certificate that nobody but its own key has signed."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = x509.CertificateBuilder(_name("myself"), _name("myself"), key.public_key())
        builder = builder.serial_number(7).not_valid_before(NOW - DAY).not_valid_after(NOW + DAY)
        general = x509.SubjectAlternativeName([_general(name) for name in names])
        builder = builder.add_extension(general, critical=False)
        return self._write(builder.sign(key, hashes.SHA256()), key)

    def _write(
        self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, passphrase: bytes = b""
    ) -> Certified:
        self._count += 1
        path = self.folder / f"{self.label}-{self._count}.pem"
        locked = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
        pem = serialization.Encoding.PEM
        path.write_bytes(
            key.private_bytes(pem, serialization.PrivateFormat.PKCS8, locked) + certificate.public_bytes(pem)
        )
        return Certified(path, certificate.public_bytes(serialization.Encoding.DER))


@dataclass
class Pki:
    """An authority that is trusted, one that is not, and what they have issued for 127.0.0.1 and others."""

    folder: Path

    def __post_init__(self) -> None:
        self.authority = Authority(self.folder)
        self.stranger = Authority(self.folder, "stranger")
        self.trusting = TlsSettings(ca_file=str(self.authority.path))
        self.good = self.authority.issue("127.0.0.1")
        self.certificates = {
            "wrong name": self.authority.issue("other.example", "192.0.2.1"),
            "expired": self.authority.issue("127.0.0.1", start=NOW - 2 * DAY, end=NOW - DAY),
            "not yet valid": self.authority.issue("127.0.0.1", start=NOW + DAY, end=NOW + 2 * DAY),
            "self-signed": self.authority.self_signed("127.0.0.1"),
            "unknown CA": self.stranger.issue("127.0.0.1"),
        }
        self.client = self.authority.issue("client.example")

    def context(self, problem: str) -> ssl.SSLContext:
        """Return what a server with this problem has for a context; the good one if it is not about TLS itself."""
        if problem in self.certificates:
            return self.certificates[problem].context()
        if problem == "old version":
            return old(self.good.context())
        if problem.startswith("client certificate"):
            made = self.good.context()
            made.verify_mode = ssl.CERT_REQUIRED
            made.load_verify_locations(self.authority.path)
            if problem.endswith("1.2"):
                made.maximum_version = ssl.TLSVersion.TLSv1_2
            return made
        if problem in MISCHIEF:
            return cast("ssl.SSLContext", Rogue(MISCHIEF[problem]))
        return self.good.context()


def old(context: ssl.SSLContext) -> ssl.SSLContext:
    """Return the context, which now speaks TLS 1.1 at most."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    return context


class Rogue:
    """Stands where a server has its context, and does something else to the connection than TLS. `seen` is what came."""

    def __init__(self, mischief: Callable[[Rogue, socket.socket], None]) -> None:
        self._mischief = mischief
        self.seen = bytearray()

    def wrap_socket(self, connection: socket.socket, *, server_side: bool) -> socket.socket:
        """Do it, and end the connection."""
        assert server_side
        self._mischief(self, connection)
        raise ConnectionAbortedError

    def read(self, connection: socket.socket) -> bytes:
        """Return what has arrived, and remember it."""
        data = connection.recv(65536)
        self.seen += data
        return data

    def rest(self, connection: socket.socket) -> None:
        """Read until the client leaves."""
        while self.read(connection):
            pass


def _later(rogue: Rogue, connection: socket.socket) -> None:
    """Send plain text after the client has begun the handshake."""
    rogue.read(connection)
    connection.sendall(b"+OK injected\r\n250 injected\r\n")
    rogue.rest(connection)


def _garbage(rogue: Rogue, connection: socket.socket) -> None:
    rogue.read(connection)
    connection.sendall(b"\xff" * 64)
    rogue.rest(connection)


def _drop(rogue: Rogue, connection: socket.socket) -> None:
    rogue.read(connection)


def _drip(rogue: Rogue, connection: socket.socket) -> None:
    """Send a TLS record that takes for ever, one octet after the other."""
    rogue.read(connection)
    connection.sendall(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc")
    end = time.monotonic() + 5
    while time.monotonic() < end:
        connection.sendall(b"\x00")
        time.sleep(0.02)


MISCHIEF: dict[str, Callable[[Rogue, socket.socket], None]] = {
    "injected later": _later,
    "garbage": _garbage,
    "hang": Rogue.rest,
    "drip": _drip,
    "drop": _drop,
}
