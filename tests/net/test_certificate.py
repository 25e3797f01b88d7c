"""What is told of a certificate, also of one that somebody made to do harm."""

from __future__ import annotations

import hashlib
import ssl
from datetime import UTC, datetime, timedelta

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from poprep_cli.net.certificate import read_certificate

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def made(
    name: str, *, issuer: str | None = None, days: float = 10, names: tuple[str, ...] = (), bits: int = 0
) -> bytes:
    key = rsa.generate_private_key(65537, bits) if bits else ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    by = subject if issuer is None else x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, issuer)])
    builder = x509.CertificateBuilder(by, subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(NOW - timedelta(days=100)).not_valid_after(NOW + timedelta(days=days))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(one) for one in names]), False)
    return builder.sign(key, hashes.SHA256()).public_bytes(ssl_encoding())


def ssl_encoding():
    from cryptography.hazmat.primitives.serialization import Encoding

    return Encoding.DER


def test_names_issuer_and_days() -> None:
    der = made("pop.example.net", issuer="Example Trust", names=("pop.example.net", "*.example.org"), bits=2048)
    found = read_certificate(der, NOW)
    assert found.names == ("pop.example.net", "*.example.org")
    assert (found.subject, found.issuer, found.self_signed) == ("pop.example.net", "Example Trust", False)
    assert (found.valid_from, found.valid_until, found.days_left) == ("2026-08-15", "2026-12-03", 10)
    assert found.sha256 == hashlib.sha256(der).hexdigest()
    assert found.key == "RSA 2048"
    assert found.unreadable == ""


def test_self_signed_and_expired() -> None:
    found = read_certificate(made("old", days=-3), NOW)
    assert found.self_signed
    assert found.days_left == -3
    assert found.names == ()


def test_a_certificate_with_ip_addresses() -> None:
    pem = trustme.CA().issue_cert("localhost", "127.0.0.1", "::1").cert_chain_pems[0].bytes().decode()
    assert read_certificate(ssl.PEM_cert_to_DER_cert(pem), NOW).names == ("localhost", "127.0.0.1", "::1")


def test_control_characters_are_made_visible() -> None:
    found = read_certificate(made("a\x1b[31m\u202eb", issuer="x\0y", names=("p\x1b]0;z\x07.example",)), NOW)
    told = repr((found.subject, found.issuer, found.names))
    assert found.subject == "a\\x1b[31m\\u202eb"
    assert found.issuer == "x\\x00y"
    for evil in ("\x1b", "\0", "\x07", "\u202e"):
        assert evil not in told
        assert not any(evil in text for text in (found.subject, found.issuer, *found.names))


@pytest.mark.parametrize("der", [b"", b"\x30\x80", b"not one at all", made("x")[:200]])
def test_garbage_is_told_and_still_has_its_fingerprint(der: bytes) -> None:
    found = read_certificate(der, NOW)
    assert found.unreadable
    assert found.sha256 == hashlib.sha256(der).hexdigest()
    assert found.days_left is None
