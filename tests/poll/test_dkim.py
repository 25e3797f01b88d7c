"""A DKIM signature (RFC 6376) that was valid in the mailbox is valid after the relay, as long as nothing had to be mended."""

from __future__ import annotations

import base64
from functools import cache

import pytest

from tests.poll.world import SmtpFaults, World

HEADER = (
    b"From: Ada <ada@example.net>\r\nTo: office@example.net,\r\n\tpostmaster@example.net\r\nSubject:  Two   spaces\r\n"
    b" and a fold\r\nDate: Mon, 2 Nov 2026 09:00:00 +0000\r\nMessage-ID: <1@example.net>\r\n"
)
BODIES = {
    "plain": b"Hello.\r\n",
    "empty": b"",
    "blank-lines": b"\r\n\r\n\r\n",
    "trailing-blank-lines": b"Hello.\r\n\r\n\r\n\r\n",
    "trailing-blanks": b"Hello. \t \r\n \t\r\n",
    "dots": b".\r\n..\r\n...\r\n.one\r\n\r\n.\r\n",
    "dot-last": b"one\r\n.\r\n\r\n.\r\n",
    "8-bit": "Grüße\r\n".encode() + b"\xff\xfe\x80\r\n",
    "nul": b"one\0two\r\n",
    "long-line": b"x" * 5_000 + b"\r\n",
    "mbox": b"From the start\r\n>From\r\n",
    "large": b".dot and a line of text \xfc\r\n" * 60_000 + b"\r\n\r\n",
}
SIGNED = (b"from", b"to", b"subject", b"date", b"message-id")


@cache
def key_pair() -> tuple[bytes, bytes]:
    """Return an RSA key as PEM, and the DNS record for it."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return private, b"v=DKIM1; k=rsa; p=" + base64.b64encode(public)


def signed(content: bytes, header: bytes, body: bytes) -> bytes:
    """Return the message with a signature in front, made with these canonicalisations (RFC 6376 3.4)."""
    import dkim

    signature: bytes = dkim.sign(
        content, b"test", b"example.net", key_pair()[0], canonicalize=(header, body), include_headers=SIGNED
    )
    return signature + content


def is_valid(content: bytes) -> bool:
    """Verify the signature. The key is at hand: no DNS server is asked."""
    import dkim

    asked = []

    def record(name: bytes, timeout: int = 5) -> bytes:
        asked.append(name)
        return key_pair()[1]

    valid: bool = dkim.verify(content, dnsfunc=record)
    assert asked == [b"test._domainkey.example.net."]
    return valid


@pytest.mark.parametrize("body", [b"simple", b"relaxed"])
@pytest.mark.parametrize("header", [b"simple", b"relaxed"])
def test_signatures_stay_valid(world: World, header: bytes, body: bytes) -> None:
    world.timeout = 20
    world.mail(*(signed(HEADER + b"\r\n" + text, header, body) for text in BODIES.values()))
    assert all(map(is_valid, world.sent))
    world.poll().ended(0)
    assert world.arrived == world.sent
    assert [
        name for name, message in zip(BODIES, world.smtp.delivered, strict=True) if not is_valid(message.content)
    ] == []


def test_a_signature_survives_the_spool_and_the_mark_of_a_second_copy(world: World) -> None:
    world.mail(*(signed(HEADER + b"\r\n" + BODIES[name], b"simple", b"simple") for name in ("dots", "large")))
    world.smtp.faults = SmtpFaults(drop="after-accept", only={"after-accept": range(1, 3)})
    world.poll()
    world.heal()
    world.poll()
    assert len(world.smtp.delivered) == 4
    assert all(is_valid(message.content) for message in world.smtp.delivered)


def test_a_signature_below_other_hops(world: World) -> None:
    hop = b"Received: from a.example by b.example;\r\n\tMon, 3 Nov 2025 10:00:00 +0100\r\n"
    world.mail(b"Return-Path: <ada@example.net>\r\n" + hop + signed(HEADER + b"\r\nHello.\r\n", b"simple", b"simple"))
    world.poll().ended(0)
    assert is_valid(world.smtp.delivered[0].content)


def test_a_change_would_be_noticed(world: World) -> None:
    genuine = signed(HEADER + b"\r\none\r\ntwo\r\n", b"relaxed", b"relaxed")
    world.mail(genuine, genuine.replace(b"one", b"0ne"), genuine.replace(b"one\r\n", b"one\r\n\n"))
    world.poll().ended(0)
    assert [is_valid(message.content) for message in world.smtp.delivered] == [True, False, False]
