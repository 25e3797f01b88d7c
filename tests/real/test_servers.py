"""The private servers work by themselves: what the other tests here rest on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.corpus import corpus
from tests.real import private
from tests.real.dovecot import Dovecot
from tests.real.postfix import Postfix, own_fields, stored_form
from tests.real.raw import Line, maildrop, submit

pytestmark = pytest.mark.real

MESSAGE = b"From: a@example.net\r\nSubject: dots\r\n\r\n.\r\n..two\r\nend\r\n"


@pytest.fixture(scope="module")
def dovecot() -> Iterator[Dovecot]:
    with Dovecot({"joe": "secret", "ann": "geheim"}, uidl_format="%g") as server:
        yield server


@pytest.fixture(scope="module")
def postfix() -> Iterator[Postfix]:
    with Postfix(tls=True) as server:
        yield server


def test_dovecot_serves_what_was_delivered(dovecot: Dovecot) -> None:
    name = dovecot.deliver("joe", MESSAGE)
    expected = {name.encode(): MESSAGE}
    assert maildrop(dovecot.port, "joe", "secret") == expected
    assert maildrop(dovecot.ssl_port, "joe", "secret", dovecot.ca_file) == expected
    assert dovecot.left("joe") == {name: MESSAGE}
    assert maildrop(dovecot.port, "ann", "geheim") == {}
    dovecot.empty("joe")
    assert maildrop(dovecot.port, "joe", "secret") == {}


def test_dovecot_deletes_at_quit(dovecot: Dovecot) -> None:
    dovecot.deliver("ann", MESSAGE)
    with Line(dovecot.port) as line:
        assert line.line().startswith(b"+OK")
        line.pop3(b"STLS")
        line.start_tls(dovecot.ca_file)
        line.pop3(b"USER ann")
        line.pop3(b"PASS geheim")
        line.pop3(b"DELE 1")
        assert len(dovecot.names("ann")) == 1
        line.pop3(b"QUIT")
    private.wait_until(lambda: not dovecot.names("ann"), "the message is still there")


def test_dovecot_announces_what_poprep_uses(dovecot: Dovecot) -> None:
    with Line(dovecot.port) as line:
        greeting = line.line()
        line.pop3(b"CAPA")
        capabilities = set(line.block().split(b"\r\n"))
        line.pop3(b"QUIT")
    assert b"<" in greeting, "no APOP timestamp"
    assert capabilities >= {b"UIDL", b"TOP", b"PIPELINING", b"STLS", b"USER"}


def test_postfix_stores_what_was_sent(postfix: Postfix) -> None:
    submit(postfix.port, [MESSAGE])
    postfix.settle()
    (stored,) = postfix.take().values()
    assert stored[own_fields(stored) :] == MESSAGE.replace(b"\r\n", b"\n")


def test_postfix_offers_starttls(postfix: Postfix) -> None:
    with Line(postfix.port) as line:
        line.smtp(b"", b"220")
        assert b"STARTTLS" in line.smtp(b"EHLO localhost", b"250")
        line.smtp(b"STARTTLS", b"220")
        line.start_tls(postfix.ca_file)
        assert b"CHUNKING" in line.smtp(b"EHLO localhost", b"250")
        line.smtp(b"QUIT", b"221")


def test_postfix_tells_a_bare_newline(postfix: Postfix) -> None:
    with Line(postfix.port) as line:
        line.smtp(b"", b"220")
        line.smtp(b"EHLO localhost", b"250")
        line.smtp(b"MAIL FROM:<>", b"250")
        line.smtp(b"RCPT TO:<all@corp.example>", b"250")
        line.smtp(b"DATA", b"354")
        line.smtp(b"Subject: x\r\n\r\none\ntwo\r\n.", b"550")


def test_postfix_stores_the_corpus_as_expected(postfix: Postfix) -> None:
    """What the relay tests find changed was changed by poprep, not by Postfix."""
    contents = [b"Received: control\r\n" + sample.content for sample in corpus(1) if sample.canonical]
    submit(postfix.port, contents)
    postfix.settle()
    stored = Counter(message[own_fields(message) :] for message in postfix.take().values())
    expected = Counter(stored_form(content) for content in contents)
    assert [content[:200] for content in expected - stored] == []
    assert [content[:200] for content in stored - expected] == []


@pytest.mark.parametrize(("value", "outcome"), [("1", "1 failed"), ("", "1 skipped")])
def test_a_missing_server_fails_only_where_servers_are_required(value: str, outcome: str, tmp_path: Path) -> None:
    test = tmp_path / "test_missing.py"
    test.write_text("from tests.real.private import require\ndef test_it():\n    require('no-such-server')\n", "ascii")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(test)]
    environment = os.environ | {private.REQUIRE: value, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=60
    )
    assert outcome in done.stdout
