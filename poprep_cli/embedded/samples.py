"""Sample mail, the same at every call: what a mailbox holds, from two lines of text to an attachment of 5 MB."""

from __future__ import annotations

from base64 import encodebytes
from hashlib import shake_128

ATTACHMENT_OCTETS = 5_000_000

_SENDER = "Ada Sample <ada@example.net>"
_RECIPIENT = "office@example.net"


def samples() -> tuple[bytes, ...]:
    """Return one message of each kind. All have canonical line ends and a complete header."""
    return (plain(), html_with_attachment(), latin1(), utf8(), dots(), large())


def plain() -> bytes:
    """Return a short text."""
    return _message(1, "Lunch on Friday", "text/plain; charset=us-ascii", b"Are you free at noon?\r\n\r\nAda\r\n")


def html_with_attachment() -> bytes:
    """Return text and HTML side by side, with a small picture attached."""
    boundary = "=-alternative-=", "=-mixed-="
    texts = _multipart(
        boundary[0],
        _part("text/plain; charset=us-ascii", b"The plan is attached.\r\n"),
        _part("text/html; charset=us-ascii", b"<p>The <b>plan</b> is attached.</p>\r\n"),
    )
    body = _multipart(
        boundary[1],
        _part(f'multipart/alternative; boundary="{boundary[0]}"', texts),
        _attachment("plan.png", "image/png", _octets("plan", 6_000)),
    )
    return _message(2, "The plan, with a picture", f'multipart/mixed; boundary="{boundary[1]}"', body)


def latin1() -> bytes:
    """Return a text in ISO 8859-1, sent as 8-bit octets."""
    body = "Schöne Grüße aus Köln\r\n".encode("latin-1") * 5
    return _message(3, "=?iso-8859-1?Q?Gr=FC=DFe?=", "text/plain; charset=iso-8859-1", body, encoding="8bit")


def utf8() -> bytes:
    """Return a text in UTF-8, sent as 8-bit octets."""
    body = "Καλημέρα · おはよう · Добрый день · 🙂\r\n".encode() * 5
    return _message(4, "Good morning, everywhere", "text/plain; charset=utf-8", body, encoding="8bit")


def dots() -> bytes:
    """Return a text with lines that start with dots, one of them a lone dot, which must not end the message."""
    body = (
        b"The next line is a lone dot:\r\n.\r\n..two dots\r\n...three\r\n.dotted word\r\n.\r\n.\r\nThis is the end.\r\n"
    )
    return _message(5, "Dots at the start of lines", "text/plain; charset=us-ascii", body)


def large() -> bytes:
    """Return a message with an attachment of 5 MB, which is 6.8 MB of base64."""
    boundary = "=-large-="
    body = _multipart(
        boundary,
        _part("text/plain; charset=us-ascii", b"Here is the recording.\r\n"),
        _attachment("recording.bin", "application/octet-stream", _octets("recording", ATTACHMENT_OCTETS)),
    )
    return _message(6, "A recording of 5 MB", f'multipart/mixed; boundary="{boundary}"', body)


def _message(number: int, subject: str, content_type: str, body: bytes, *, encoding: str = "7bit") -> bytes:
    header = (
        f"Return-Path: <ada@example.net>\r\n"
        f"Date: Thu, 01 Jan 2026 {8 + number:02}:00:00 +0000\r\n"
        f"From: {_SENDER}\r\n"
        f"To: {_RECIPIENT}\r\n"
        f"Subject: {subject}\r\n"
        f"Message-ID: <sample-{number}@example.net>\r\n"
        f"MIME-Version: 1.0\r\n"
        f"Content-Type: {content_type}\r\n"
        f"Content-Transfer-Encoding: {encoding}\r\n"
    )
    return header.encode() + b"\r\n" + body


def _multipart(boundary: str, *parts: bytes) -> bytes:
    line = f"--{boundary}".encode()
    return b"".join(line + b"\r\n" + part + b"\r\n" for part in parts) + line + b"--\r\n"


def _part(content_type: str, body: bytes, *fields: str) -> bytes:
    header = "".join(f"{field}\r\n" for field in (f"Content-Type: {content_type}", *fields))
    return header.encode() + b"\r\n" + body


def _attachment(name: str, content_type: str, octets: bytes) -> bytes:
    body = encodebytes(octets).replace(b"\n", b"\r\n")
    disposition = f'Content-Disposition: attachment; filename="{name}"'
    return _part(content_type, body, "Content-Transfer-Encoding: base64", disposition)


def _octets(seed: str, count: int) -> bytes:
    """Return octets that look random and don't compress, always the same."""
    return shake_128(seed.encode()).digest(count)
