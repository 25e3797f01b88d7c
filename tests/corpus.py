"""Messages of every shape that mail comes in, the same for the same seed, to be moved without a changed octet."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

CRLF = b"\r\n"
MIB = 1024 * 1024

Shape = tuple[str, bytes]


@dataclass(frozen=True, slots=True)
class Sample:
    """One message. `canonical`: every CR and LF in it is part of a CRLF, and it ends with one."""

    name: str
    content: bytes
    canonical: bool


def corpus(seed: int) -> list[Sample]:
    """Return at least 150 messages, the largest of 30 MB, that a POP3 server can hold as they are."""
    random = Random(seed)
    shapes = [
        *_extremes(),
        *_dots(),
        *_long_lines(),
        *_stray_returns(),
        *_octets(random),
        *_headers(),
        *_mime(random),
        *_ordinary(random, 60),
        *_large(random),
    ]
    return _samples(shapes)


def uncanonical_corpus() -> list[Sample]:
    """Return messages that Dovecot can't give out as they are, for the embedded server: bare LF, no last line end.

    Nor can it give out a dot as the first octet of all: it does not double that one (2.3). These few are canonical.
    """
    head = b"From: a@example.net\r\nSubject: line ends\r\n\r\n"
    shapes = [
        ("empty message", b""),
        ("message is a dot", b".\r\n"),
        ("message is two dots", b"..\r\n"),
        ("message is dots", b".\r\n..\r\n...\r\n"),
        ("message is a dot without end", b"."),
        ("header starts with a dot", b".X: y\r\nSubject: x\r\n\r\nbody\r\n"),
        ("one octet", b"x"),
        ("one LF", b"\n"),
        ("one CR", b"\r"),
        ("no last newline", head + b"end"),
        ("no last newline, header only", b"From: a@example.net\r\nSubject: x"),
        ("CR at the end", head + b"end\r"),
        ("LF at the end", head + b"end\n"),
        ("dot at the end", head + b"end\r\n."),
        ("two dots at the end", head + b"end\r\n.."),
        ("all LF", head.replace(CRLF, b"\n") + b"one\ntwo\n"),
        ("header CRLF, body LF", head + b"one\ntwo\n"),
        ("one LF among CRLF", head + b"one\r\ntwo\nthree\r\n"),
        ("LF CR", head + b"one\n\rtwo\r\n"),
        ("LF CRLF", head + b"one\n\r\ntwo\r\n"),
        ("LF dot LF", head + b"one\n.\ntwo\r\n"),
        ("LF dot CRLF", head + b"one\n.\r\ntwo\r\n"),
        ("CRLF dot LF", head + b"one\r\n.\ntwo\r\n"),
        ("CRLF dot CR", head + b"one\r\n.\rtwo\r\n"),
        (
            "LF dot LF and SMTP",
            head + b"one\n.\nMAIL FROM:<evil@example.com>\nRCPT TO:<x@example.com>\nDATA\nSubject: x\n",
        ),
        (
            "CR dot CR and SMTP",
            head + b"one\r.\rMAIL FROM:<evil@example.com>\rRCPT TO:<x@example.com>\rDATA\rSubject: x\r",
        ),
        ("CR CRLF without end", head + b"one\r\r\ntwo"),
        ("LF between 64 KiB", head + b"x" * 65_536 + b"\n" + b"y" * 65_536),
    ]
    return _samples(shapes)


def is_canonical(content: bytes) -> bool:
    """Return whether every CR and LF is part of a CRLF, and the last octets are one."""
    return content.endswith(CRLF) and content.count(CRLF) == content.count(b"\r") == content.count(b"\n")


def _samples(shapes: list[Shape]) -> list[Sample]:
    return [Sample(name, content, is_canonical(content)) for name, content in shapes]


def _message(name: str, *lines: bytes, body: bytes | None = None) -> Shape:
    """Return a message with a small header, and these lines or this body."""
    ident = name.replace(" ", "-").replace(",", "").encode()
    head = b"From: Ann <ann@example.net>\r\nTo: joe@example.net\r\nSubject: " + name.encode()
    head += b"\r\nMessage-ID: <" + ident + b"@corpus.example.net>\r\nDate: Mon, 3 Nov 2025 10:00:00 +0100\r\n\r\n"
    return name, head + (b"".join(line + CRLF for line in lines) if body is None else body)


def _extremes() -> Iterator[Shape]:
    yield "one empty line", CRLF
    yield "two empty lines", CRLF * 2
    yield "one octet and CRLF", b"x\r\n"
    yield "one space and CRLF", b" \r\n"
    yield "header only, no empty line", b"From: a@example.net\r\nSubject: header only\r\n"
    yield "header and empty line", b"From: a@example.net\r\nSubject: empty body\r\n\r\n"
    yield "no header, body after an empty line", b"\r\nno header at all\r\n"
    yield "no header, starts with text", b"this is no header\r\n\r\nand this is a body\r\n"
    yield "text amid the header", b"From: a@example.net\r\nthis is no field\r\nSubject: x\r\n\r\nbody\r\n"
    yield "starts with a folded line", b" folded from nowhere\r\nSubject: x\r\n\r\nbody\r\n"
    yield "starts with a tab", b"\tfolded from nowhere\r\n\r\nbody\r\n"
    yield "colon first", b": no name\r\nSubject: x\r\n\r\nbody\r\n"
    yield "name with a space", b"Sub ject : x\r\n\r\nbody\r\n"
    yield _message("empty body")
    yield _message("body of empty lines", *[b""] * 200)
    yield _message("trailing spaces", b"one  ", b"two\t", b"   ", b"\t", b"end ")
    yield _message("trailing empty lines", b"end", b"", b"", b"")
    yield _message("50,000 empty lines", *[b""] * 50_000)
    yield _message("50,000 lines of one octet", *[b"x"] * 50_000)


def _dots() -> Iterator[Shape]:
    for number in (1, 2, 3, 4, 70, 998):
        yield _message(f"line of {number} dots", b"before", b"." * number, b"after")
        yield _message(f"line starts with {number} dots", b"before", b"." * number + b"text", b"after")
    yield _message("dot first in the body", b".", b"after")
    yield _message("dot last in the body", b"before", b".")
    yield _message("dot alone in the body", b".")
    yield _message("dots only", *[b"."] * 5_000)
    yield _message("dot and space", b". ", b" .", b".\t", b"..  ")
    yield _message("dot after empty lines", b"", b"", b".", b"", b".", b"")
    yield _message(
        "SMTP after a dot", b".", b"MAIL FROM:<evil@example.com>", b"RCPT TO:<x@example.com>", b"DATA", b".", b"QUIT"
    )
    yield _message("POP3 after a dot", b".", b"+OK 1 octets", b".", b"-ERR no", b"+OK")


def _long_lines() -> Iterator[Shape]:
    for length in (
        76,
        510,
        511,
        512,
        513,
        997,
        998,
        999,
        1_000,
        1_022,
        1_023,
        1_024,
        1_025,
        2_000,
        2_046,
        2_047,
        2_048,
        2_049,
    ):
        yield _message(f"line of {length} octets", b"before", b"x" * length, b"after")
    for length in (4_096, 8_190, 8_192, 16_384, 65_535, 65_536, 100_000, 1_000_000):
        yield _message(f"line of {length} octets", b"before", b"y" * length, b"after")
    # A dot on either side of where a line of some limit would be cut.
    for place in (510, 998, 1_000, 2_048, 4_096, 65_536):
        yield _message(f"dots about octet {place}", b"x" * (place - 2) + b"......" + b"x" * 10)


def _stray_returns() -> Iterator[Shape]:
    yield _message("bare CR", b"one\rtwo")
    yield _message("bare CR first", b"\rone")
    yield _message("CR CRLF", b"one\r", b"two")
    yield _message("CR CR CRLF", b"one\r\r", b"two")
    yield _message("empty line of CRs", b"one", b"\r\r\r", b"two")
    yield _message("many bare CRs", b"one\r\r\rtwo\rthree")
    yield _message("bare CR and dot", b"one\r.", b"two\r.\rthree", b"\r.")
    yield _message("bare CR and dots", b"one\r..two")
    yield _message("CR at the end of a long line", b"x" * 998 + b"\r", b"y" * 65_535 + b"\r")
    yield "bare CR in the header", b"From: a@example.net\r\nSubject: one\rtwo\r\n\r\nbody\r\n"
    yield "CR CRLF in the header", b"From: a@example.net\r\r\nSubject: x\r\r\n\r\r\nbody\r\r\n"


def _octets(random: Random) -> Iterator[Shape]:
    yield _message("NUL", b"one\0two", b"\0", b"\0\0\0")
    yield "NUL in the header", b"From: a@example.net\r\nSubject: one\0two\r\n\r\nbody\r\n"
    yield "NUL first", b"\0\r\n"
    yield _message("latin-1 body", "Grüße aus Köln".encode("latin-1"))
    yield _message("UTF-8 body", "Grüße aus Köln, 日本語, 🙂".encode())
    yield _message("broken UTF-8", b"\xc3", b"\xc3(", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\xff\xfe")
    yield _message("byte order mark", b"\xef\xbb\xbftext")
    yield _message(
        "NEL and line separators",
        b"one\x85two",
        "one\u2028two\u2029three".encode(),
        b"one\x0btwo\x0cthree\x1cfour\x1efive",
    )
    yield _message("escape sequences", b"\x1b[31mred\x1b[0m\x07", b"\x9b31m", b"\x08\x7f")
    yield _message("every octet", bytes(octet for octet in range(256) if octet not in b"\r\n"))
    yield "latin-1 header", "From: Jürgen <j@example.net>\r\nSubject: Grüße\r\n\r\nbody\r\n".encode("latin-1")
    yield "UTF-8 header", "From: Jürgen <j@example.net>\r\nSubject: Grüße 日本語\r\n\r\nbody\r\n".encode()
    yield "UTF-8 addresses", "From: jürgen@exämple.net\r\nTo: 用户@例子.example\r\nSubject: x\r\n\r\nbody\r\n".encode()
    yield "UTF-8 field name", "Gruß: x\r\nSubject: x\r\n\r\nbody\r\n".encode()
    for number in range(6):
        octets = random.randbytes(20_000 * (number + 1)).replace(b"\r", b"").replace(b"\n", CRLF)
        yield _message(f"binary {number}", octets)


def _headers() -> Iterator[Shape]:
    end = b"Subject: header\r\n\r\nbody\r\n"
    yield "folded", b"To: a@example.net,\r\n b@example.net,\r\n\tc@example.net\r\n" + end
    yield "folded with empty parts", b"To: a@example.net,\r\n \r\n\t\r\n b@example.net\r\n" + end
    yield "field of 900 folds", b"X-Folded: a" + b"\r\n b" * 900 + CRLF + end
    for length in (998, 2_048, 100_000, 300_000):
        yield f"field of {length} octets", b"X-Long: " + b"h" * (length - 8) + CRLF + end
    yield "References of 60,000 octets", b"References:" + b"\r\n <0123456789@example.net>" * 2_300 + CRLF + end
    yield "5,000 fields", b"".join(b"X-Field-%d: value\r\n" % number for number in range(5_000)) + end
    yield (
        "2,000 recipients",
        b"To: " + b",\r\n ".join(b"r%d@example.net" % number for number in range(2_000)) + CRLF + end,
    )
    trace = b"Received: from a.example (a.example [192.0.2.1])\r\n\tby b.example with ESMTP id 12345;\r\n\tMon, 3 Nov 2025 10:00:00 +0100\r\n"
    for number in (1, 20, 45):
        yield f"{number} Received", trace * number + end
    yield "Return-Path", b"Return-Path: <bounce@example.org>\r\nFrom: a@example.net\r\n" + end
    yield "null Return-Path", b"Return-Path: <>\r\nFrom: MAILER-DAEMON@example.net\r\n" + end
    yield "two Return-Paths", b"Return-Path: <one@example.org>\r\nReturn-Path: <two@example.org>\r\n" + end
    yield "absurd Return-Path", b"Return-Path: <a b>c@<<example>.org>\r\n" + end
    yield "UTF-8 Return-Path", "Return-Path: <jürgen@exämple.org>\r\n".encode() + end
    yield "Return-Path with a command", b"Return-Path: <a@example.org> SIZE=1 BODY=BINARYMIME\r\n" + end
    yield "Bcc", b"From: a@example.net\r\nBcc: secret@example.net\r\n" + end
    yield "Bcc only", b"Bcc: secret@example.net\r\n\r\nbody\r\n"
    yield "Resent-Bcc", b"Resent-From: b@example.net\r\nResent-Bcc: c@example.net\r\n" + end
    yield "Content-Length", b"From: a@example.net\r\nContent-Length: 3\r\nLines: 1\r\n" + end + b"more than three\r\n"
    yield "Delivered-To", b"Delivered-To: joe@example.net\r\nX-Original-To: joe@example.net\r\n" + end
    yield "Status", b"Status: RO\r\nX-Status: A\r\nX-UIDL: 12345\r\nX-Keywords: \r\n" + end
    yield "mbox line in front", b"From ann@example.net Mon Nov  3 10:00:00 2025\r\nFrom: a@example.net\r\n" + end
    yield (
        "mbox line quoted in front",
        b">From ann@example.net Mon Nov  3 10:00:00 2025\r\nFrom: a@example.net\r\n" + end,
    )
    yield _message(
        "mbox lines in the body", b"From the start", b"", b"From ann@example.net Mon Nov  3 10:00:00 2025", b">From me"
    )
    yield "no From, no Date, no Message-ID", b"Subject: bare\r\n\r\nbody\r\n"
    yield "Message-ID twice", b"Message-ID: <a@example.net>\r\nMessage-ID: <b@example.net>\r\n" + end
    yield "mixed case", b"fRoM: a@example.net\r\nSUBJECT: x\r\nmessage-id:<a@example.net>\r\n\r\nbody\r\n"
    yield "empty fields", b"From:\r\nTo: \r\nCc:\t\r\nSubject:\r\n\r\nbody\r\n"


def _mime(random: Random) -> Iterator[Shape]:
    encoded = _base64(random, 3_000)
    yield "MIME attachment", _multipart([b"Content-Type: text/plain\r\n\r\ntext\r\n", _attachment(encoded)], b"b1")
    inner = _multipart(
        [b"Content-Type: text/plain\r\n\r\nplain\r\n", b"Content-Type: text/html\r\n\r\n<p>html</p>\r\n"], b"b2"
    )
    yield "MIME nested", _multipart([inner, _attachment(encoded)], b"b1")
    deep = b"Content-Type: text/plain\r\n\r\nthe bottom\r\n"
    for level in range(150):
        deep = _multipart([deep], b"level%d" % level)
    yield "MIME nested 150 deep", deep
    yield (
        "MIME without its end",
        _multipart([b"Content-Type: text/plain\r\n\r\ntext\r\n"], b"b1").removesuffix(b"--b1--\r\n"),
    )
    yield (
        "message in a message",
        b"Content-Type: message/rfc822\r\nSubject: outer\r\n\r\nReceived: x\r\nSubject: inner\r\n\r\nbody\r\n",
    )
    yield "8bit part", _multipart(["Content-Transfer-Encoding: 8bit\r\n\r\nGrüße\r\n".encode()], b"b1")
    yield "binary part", _multipart([b"Content-Transfer-Encoding: binary\r\n\r\n\0\1\2\xff\r\n"], b"b1")
    yield "7bit that is 8-bit", "Content-Transfer-Encoding: 7bit\r\nSubject: x\r\n\r\nGrüße\r\n".encode()
    yield (
        "quoted-printable",
        b"Content-Transfer-Encoding: quoted-printable\r\n\r\nGr=C3=BC=C3=9Fe =\r\n=2E\r\n.=\r\n\r\n",
    )
    yield "boundary that starts with dots", _multipart([b"\r\ntext\r\n"], b"..x").replace(b"--..x", b"..x")


def _multipart(parts: list[bytes], boundary: bytes) -> bytes:
    head = b'MIME-Version: 1.0\r\nContent-Type: multipart/mixed;\r\n boundary="' + boundary + b'"\r\n\r\n'
    return head + b"".join(b"--" + boundary + CRLF + part for part in parts) + b"--" + boundary + b"--\r\n"


def _attachment(encoded: bytes) -> bytes:
    return b"Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n\r\n" + encoded


def _base64(random: Random, octets: int) -> bytes:
    return base64.encodebytes(random.randbytes(octets)).replace(b"\n", CRLF)


_WORDS = b"mail drop greeting reply envelope path . .. From >From = -- \t \xc3\xbc copy pass server forward".split(b" ")


def _ordinary(random: Random, number: int) -> Iterator[Shape]:
    for index in range(number):
        lines = [b" ".join(random.choices(_WORDS, k=random.randrange(15))) for _ in range(random.randrange(120))]
        yield _message(f"ordinary {index}", *lines)


def _large(random: Random) -> Iterator[Shape]:
    # Just at the size above which a message is no longer kept in memory, and one octet on either side.
    for size in (MIB - 1, MIB, MIB + 1):
        name, head = _message(f"{size} octets", body=b"")
        body = (b"z" * 62 + CRLF) * ((size - len(head)) // 64)
        yield name, head + body + b"z" * (size - len(head) - len(body) - 2) + CRLF
    for name, size in (("1 MB", 1_000_000), ("2 MB", 2_000_000), ("5 MB", 5_000_000), ("30 MB", 30_000_000)):
        yield _message(name, body=_base64(random, size * 57 // 78))
    yield _message("3 MB of dots", *[b"." * 10] * 250_000)
