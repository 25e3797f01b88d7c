from __future__ import annotations

from email import message_from_bytes, policy

import pytest

from poprep_cli.embedded.samples import ATTACHMENT_OCTETS, dots, html_with_attachment, large, latin1, samples, utf8


@pytest.mark.parametrize("content", samples(), ids=["plain", "html", "latin1", "utf8", "dots", "large"])
def test_samples_are_canonical_and_complete(content: bytes) -> None:
    pairs = content.count(b"\r\n")
    assert pairs == content.count(b"\r") == content.count(b"\n")
    assert content.endswith(b"\r\n")
    assert max(map(len, content.split(b"\r\n"))) <= 998
    message = message_from_bytes(content, policy=policy.default)
    for name in ("Message-ID", "Date", "From", "To", "Subject"):
        assert message[name], name
    assert not [defect for part in message.walk() for defect in part.defects]


def test_samples_are_the_same_every_time_and_differ() -> None:
    first, second = samples(), samples()
    assert first == second
    assert len(set(first)) == len(first) == 6


def test_what_is_in_them() -> None:
    assert b"\r\n.\r\n" in dots()
    assert not latin1().isascii()
    assert utf8().decode().count("おはよう") == 5
    attachments = list(message_from_bytes(large(), policy=policy.default).iter_attachments())
    assert len(attachments[0].get_content()) == ATTACHMENT_OCTETS
    html = message_from_bytes(html_with_attachment(), policy=policy.default)
    assert [part.get_content_type() for part in html.walk()][1:] == [
        "multipart/alternative",
        "text/plain",
        "text/html",
        "image/png",
    ]
