"""What arrives is what was in the mailbox, octet by octet, but for line ends; in front of it there is our trace."""

from __future__ import annotations

import pytest

from tests.poll.world import DUPLICATE, World, letter

HEADER = letter(1, b"")

MENDED = {
    "bare-lf": (b"one\ntwo\r\n", b"one\r\ntwo\r\n"),
    "bare-cr": (b"one\rtwo\r\n", b"one\r\ntwo\r\n"),
    "cr-cr-lf": (b"one\r\r\ntwo\r\n", b"one\r\ntwo\r\n"),
    "many-crs-before-lf": (b"one\r\r\r\r\ntwo\r\n", b"one\r\ntwo\r\n"),
    "lf-lf": (b"one\n\ntwo\r\n", b"one\r\n\r\ntwo\r\n"),
    "lf-cr": (b"one\n\rtwo\r\n", b"one\r\n\r\ntwo\r\n"),
    "two-bare-crs": (b"one\r\rtwo\r\n", b"one\r\n\r\ntwo\r\n"),
    "no-final-line-end": (b"one\r\ntwo", b"one\r\ntwo\r\n"),
    "final-lf": (b"one\r\ntwo\n", b"one\r\ntwo\r\n\r\n"),  # POP3 puts a CRLF in front of the last dot
    "final-cr": (b"one\r\ntwo\r", b"one\r\ntwo\r\n"),
    "smuggling-lf-dot-lf": (b"one\n.\nMAIL FROM:<x@y>\r\n", b"one\r\n.\r\nMAIL FROM:<x@y>\r\n"),
    "smuggling-lf-dot-crlf": (b"one\n.\r\nMAIL FROM:<x@y>\r\n", b"one\r\n.\r\nMAIL FROM:<x@y>\r\n"),
    "smuggling-cr-dot-cr": (b"one\r.\rMAIL FROM:<x@y>\r\n", b"one\r\n.\r\nMAIL FROM:<x@y>\r\n"),
    "smuggling-cr-dot-crlf": (b"one\r.\r\nMAIL FROM:<x@y>\r\n", b"one\r\n.\r\nMAIL FROM:<x@y>\r\n"),
    "smuggling-crlf-dot-cr": (b"one\r\n.\rMAIL FROM:<x@y>\r\n", b"one\r\n.\r\nMAIL FROM:<x@y>\r\n"),
}

KEPT = {
    "empty-body": b"",
    "nul": b"one\0two\0\r\n",
    "every-octet": bytes(octet for octet in range(256) if octet not in (10, 13)) + b"\r\n",
    "dots": b".\r\n..\r\n...\r\n.one\r\n\r\n.\r\n",
    "dot-first": b".",
    "long-line": b"x" * 100_000 + b"\r\n",
    "blanks-at-the-end": b"one \t \r\n\r\n\r\n",
    "mbox-from": b"From the start\r\n>From\r\n",
    "not-utf-8": b"\xff\xfe\x80\r\n",
}


@pytest.mark.parametrize(("body", "mended"), MENDED.values(), ids=list(MENDED))
def test_line_ends_are_mended_and_nothing_else(world: World, body: bytes, mended: bytes) -> None:
    world.mail(HEADER + body)
    world.poll().ended(0)
    assert world.arrived == [HEADER + mended]
    assert world.left == []
    world.poll().ended(0)
    assert len(world.smtp.delivered) == 1


@pytest.mark.parametrize("body", KEPT.values(), ids=list(KEPT))
def test_all_else_is_kept(world: World, body: bytes) -> None:
    content = HEADER + body
    world.mail(content)
    world.poll().ended(0)
    assert world.arrived == [content if content.endswith(b"\r\n") else content + b"\r\n"]
    assert world.left == []


@pytest.mark.parametrize(
    "content", [b"", b"\r\n", b"no header at all\r\n", b"Subject: only a header\r\n", b".\r\n", b"\r\nbody\r\n"]
)
def test_what_is_hardly_a_message(world: World, content: bytes) -> None:
    world.mail(content, letter(7))
    world.poll().ended(0)
    assert world.arrived == world.sent
    assert world.left == []


def test_mending_in_a_message_that_comes_in_parts(world: World) -> None:
    body = b"".join(
        b"line %d%s" % (number, (b"\r\n", b"\n", b"\r", b"\r\r\n")[number % 4]) for number in range(200_000)
    )
    mended = b"".join(b"line %d\r\n" % number for number in range(200_000))
    assert len(body) > 2 << 20
    world.mail(HEADER + body + b".\r\n")
    world.poll().ended(0)
    assert world.arrived == [HEADER + mended + b".\r\n"]
    assert world.kept("held") == []


@pytest.mark.usefixtures("by_data")
def test_held_and_badmail_have_the_exact_octets(world: World) -> None:
    content = HEADER + b"one\ntwo\r\r\nthree\0\r\n.\r\n\xff\r\n"
    world.mail(content)
    world.smtp.faults = type(world.smtp.faults)(replies={"end-of-data": b"451 4.3.0 later\r\n"})
    world.poll().ended(1, "message u1: held")
    assert [slip["content"] for slip in world.kept("held")] == [content]
    world.heal()
    world.poll().ended(0)
    assert world.arrived == [HEADER + b"one\r\ntwo\r\nthree\0\r\n.\r\n\xff\r\n"]
    assert world.left == []


def test_the_envelope_and_the_trace(world: World) -> None:
    world.letters(1)
    world.mail(b"Subject: nobody sent this\r\n\r\n", b"Return-Path: <>\r\n\r\n")
    world.poll().ended(0)
    assert [message.reverse_path for message in world.smtp.delivered] == [b"ada@example.net", b"", b""]
    assert {message.forward_paths for message in world.smtp.delivered} == {(b"office@corp.example",)}
    for message in world.smtp.delivered:
        assert message.content.startswith(b"Received: from [127.0.0.1] ([127.0.0.1]) by ")
        assert b"\tfor <office@corp.example>;" in message.content
        assert DUPLICATE not in message.content


def test_mail_that_has_been_through_this_connector_is_a_loop(world: World) -> None:
    world.letters(1)
    world.poll().ended(0)
    world.mail(world.smtp.delivered[0].content)
    world.poll().ended(1, "message u2: badmail: a mail loop: it has been through this connector before")
    assert len(world.smtp.delivered) == 1
    assert len(world.kept("badmail")) == 1
