"""Mail moves from Dovecot to Postfix, and each octet of it arrives, over every kind of connection."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.corpus import CRLF, Sample, corpus, uncanonical_corpus
from tests.real.dovecot import Dovecot
from tests.real.passes import Passes, Table
from tests.real.postfix import Postfix, own_fields, stored_form
from tests.real.raw import maildrop

pytestmark = pytest.mark.real

# Our own field, as the rulings on traces have it: name, "poprep", and at its end the date (RFC 5322, section 3.3).
_OURS = re.compile(
    rb"Received: from (?P<text>[^\n]*\n(?:\t[^\n]*\n)*?)\t[A-Z][a-z]{2}, \d{1,2} [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d [+-]\d{4}\n"
)
_MEMORY_LIMIT = 64 * 1024  # KiB
_PEAK = """\
import json, resource, subprocess, sys
done = subprocess.run(sys.argv[1:], capture_output=True, text=True)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps([done.returncode, done.stdout, done.stderr, peak]))
"""


@pytest.fixture(scope="module")
def dovecot() -> Iterator[Dovecot]:
    with Dovecot() as server:
        yield server


@pytest.fixture(scope="module")
def postfix() -> Iterator[Postfix]:
    with Postfix(tls=True) as server:
        yield server


@pytest.fixture
def passes(dovecot: Dovecot, postfix: Postfix, tmp_path: Path) -> Passes:
    """Passes from an empty maildrop to an empty Maildir."""
    dovecot.empty("joe")
    postfix.settle()
    postfix.take()
    return Passes(tmp_path)


def smtp(postfix: Postfix) -> Table:
    return {"host": f"localhost:{postfix.port}", "tls": "required", "tls_ca_file": str(postfix.ca_file)}


def pop3s(dovecot: Dovecot) -> Table:
    return {"host": f"localhost:{dovecot.ssl_port}", "ssl": True, "tls_ca_file": str(dovecot.ca_file)}


def stls(dovecot: Dovecot) -> Table:
    return {"host": f"localhost:{dovecot.port}", "tls": "required", "tls_ca_file": str(dovecot.ca_file)}


def small() -> list[Sample]:
    return [sample for sample in corpus(2) if len(sample.content) < 100_000]


def mended(content: bytes) -> bytes:
    """Return what poprep makes of a message: CRs in front of CRLF go, other bare CRs and LFs become CRLF, CRLF ends it.

    A message of no octets has no line that could be ended.
    """
    lines = re.sub(rb"\r+\n|\r|\n", CRLF, content)
    return lines if lines.endswith(CRLF) or not lines else lines + CRLF


def test_the_rules_for_line_ends() -> None:
    assert mended(b"a\r\r\r\nb\rc\nd\r\re\n\rf\r\n") == b"a\r\nb\r\nc\r\nd\r\n\r\ne\r\n\r\nf\r\n"
    assert [mended(end) for end in (b"a", b"a\r", b"a\n", b"a\r\r\n")] == [b"a\r\n"] * 4


def fill(dovecot: Dovecot, samples: Sequence[Sample]) -> dict[str, bytes]:
    """Put the samples into the maildrop and return what RETR gives for each."""
    names = {dovecot.deliver("joe", sample.content): sample.name for sample in samples}
    assert len(set(names.values())) == len(samples), "names must differ"
    # Files are handed out in the order of their names, UIDLs in the order of message numbers.
    messages = maildrop(dovecot.port, "joe", "secret")
    assert len(messages) == len(samples)
    received = dict(
        zip((names[name] for name in sorted(names)), (messages[uidl] for uidl in sorted(messages)), strict=True)
    )
    for sample in samples:
        if sample.canonical:
            assert received[sample.name] == sample.content, f"Dovecot gives {sample.name} another form"
    return received


def arrived(postfix: Postfix) -> list[bytes]:
    """Return the new messages in Postfix's Maildir without what it and poprep put in front of them."""
    postfix.settle()
    contents = []
    for stored in postfix.take().values():
        ours = _OURS.match(stored, own_fields(stored))
        assert ours is not None, f"no Received field of poprep's in {stored[:1000]!r}"
        assert b"poprep" in ours["text"]
        contents.append(stored[ours.end() :])
    return contents


def assert_arrived(postfix: Postfix, received: dict[str, bytes]) -> None:
    """Assert that exactly these messages have arrived, each once, with no octet changed but line ends that needed it."""
    expected: dict[bytes, list[str]] = {}
    for name, content in received.items():
        expected.setdefault(hashlib.sha256(stored_form(mended(content))).digest(), []).append(name)
    unexpected = []
    for content in arrived(postfix):
        names = expected.get(hashlib.sha256(content).digest())
        if names:
            names.pop()
        else:
            unexpected.append(content[:300])
    missing = sorted(name for names in expected.values() for name in names)
    assert (missing, unexpected) == ([], [])


def test_every_message_arrives_unchanged(dovecot: Dovecot, postfix: Postfix, passes: Passes) -> None:
    # Dovecot does not double a dot that is the first octet of a message (2.3), so such mail can't be had from it.
    uncanonical = [sample for sample in uncanonical_corpus() if not sample.content.startswith(b".")]
    received = fill(dovecot, [*corpus(1), *uncanonical])
    passes.configure(pop3=pop3s(dovecot), smtp=smtp(postfix))
    passes.poll()
    assert_arrived(postfix, received)
    assert len(dovecot.names("joe")) == len(received)


@pytest.mark.parametrize("pipelining", ["auto", "off"])
def test_with_stls(dovecot: Dovecot, postfix: Postfix, passes: Passes, pipelining: str) -> None:
    received = fill(dovecot, small())
    passes.configure(pop3={**stls(dovecot), "pipelining": pipelining}, smtp=smtp(postfix))
    passes.poll()
    assert_arrived(postfix, received)


def test_without_tls_on_loopback(dovecot: Dovecot, postfix: Postfix, passes: Passes) -> None:
    received = fill(dovecot, small()[::4])
    passes.configure(pop3={"host": f"127.0.0.1:{dovecot.port}"}, smtp={"host": f"127.0.0.1:{postfix.port}"})
    passes.poll()
    assert_arrived(postfix, received)


def test_a_second_pass_moves_nothing(dovecot: Dovecot, postfix: Postfix, passes: Passes) -> None:
    received = fill(dovecot, small()[::4])
    passes.configure(pop3=pop3s(dovecot), smtp=smtp(postfix))
    passes.poll()
    assert_arrived(postfix, received)
    journal = passes.journal
    assert sorted(passes.statuses.values()) == ["delivered"] * len(received)
    passes.poll()
    assert arrived(postfix) == []
    assert passes.journal == journal
    assert sorted(maildrop(dovecot.port, "joe", "secret").values()) == sorted(received.values())
    # And new mail among the known is found.
    name = dovecot.deliver("joe", b"Subject: new\r\n\r\nnew\r\n")
    passes.poll()
    assert arrived(postfix) == [b"Subject: new\n\nnew\n"]
    assert name in dovecot.names("joe")


def test_without_leave_copy_the_maildrop_ends_empty(dovecot: Dovecot, postfix: Postfix, passes: Passes) -> None:
    received = fill(dovecot, small()[::4])
    passes.configure(pop3=pop3s(dovecot), smtp=smtp(postfix), server_copy={"leave_copy": False})
    passes.poll()
    assert_arrived(postfix, received)
    assert dovecot.names("joe") == set()
    assert maildrop(dovecot.port, "joe", "secret") == {}


def test_leave_copy_switched_off_later_deletes_what_was_delivered(
    dovecot: Dovecot, postfix: Postfix, passes: Passes
) -> None:
    received = fill(dovecot, small()[::4])
    passes.configure(pop3=pop3s(dovecot), smtp=smtp(postfix))
    passes.poll()
    assert_arrived(postfix, received)
    passes.configure(pop3=pop3s(dovecot), smtp=smtp(postfix), server_copy={"leave_copy": False})
    passes.poll()
    assert arrived(postfix) == []
    assert dovecot.names("joe") == set()


def test_memory_stays_small_with_messages_of_30_mb(dovecot: Dovecot, postfix: Postfix, passes: Passes) -> None:
    large = max(corpus(3), key=lambda sample: len(sample.content)).content
    lines = b"Subject: one line\r\n\r\n" + b"x" * 30_000_000 + CRLF
    received = fill(
        dovecot,
        [Sample("lines", large, True), Sample("again", b"X-Again: yes\r\n" + large, True), Sample("line", lines, True)],
    )
    passes.configure(pop3=pop3s(dovecot), smtp=smtp(postfix))
    # A fresh process measures: the peak of its children is that of the pass alone.
    measured = subprocess.run(
        [sys.executable, "-c", _PEAK, *passes.command],
        env=passes.environment,
        capture_output=True,
        check=True,
        timeout=100,
    )
    code, stdout, stderr, peak = json.loads(measured.stdout)
    assert (code, stdout, stderr) == (0, "", "")
    assert_arrived(postfix, received)
    assert peak < _MEMORY_LIMIT, f"{peak} KiB at peak"
