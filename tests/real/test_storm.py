"""A real server gives all its mail other UIDLs between two passes: nothing is sent twice, and what is new arrives."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from poprep_cli.embedded.deliveries import without_trace
from poprep_cli.embedded.smtp import SmtpServer
from tests.real.dovecot import Dovecot
from tests.real.passes import Passes

pytestmark = pytest.mark.real

COUNT = 40
FORMATS = ("%08Xu%08Xv", "%g", "%v.%u")


def letter(number: int) -> bytes:
    return (
        f"Message-ID: <{number}@example.net>\r\nDate: Mon, 2 Nov 2026 09:00:00 +0000\r\nFrom: ada@example.net\r\n"
        f"To: joe@example.net\r\nSubject: {'Long ' * (number % 7)}\r\n\r\nNumber {number}.\r\n"
    ).encode()


def change_format(dovecot: Dovecot, before: str, after: str) -> None:
    """Restart it with another pop3_uidl_format, as an administrator does."""
    dovecot.stop()
    path = dovecot.root / "dovecot.conf"
    old, new = (f"pop3_uidl_format = {form}\n" for form in (before, after))
    text = path.read_text("ascii")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), "ascii")
    dovecot.start()


def messages(passes: Passes) -> dict[str, dict[str, str]]:
    """Return the last line of each message that is not forgotten."""
    found = [json.loads(line) for line in passes.journal.splitlines()]
    return {line["uidl"]: line for line in found if "uidl" in line}


@pytest.mark.parametrize("pipelining", ["auto", "off"])
def test_the_uidl_format_changes(tmp_path: Path, pipelining: str) -> None:
    passes = Passes(tmp_path)
    sent = Counter[bytes]()

    def deliver(first: int, count: int) -> None:
        for number in range(first, first + count):
            sent[letter(number)] += 1
            dovecot.deliver("joe", letter(number).replace(b"\r\n", b"\n"))

    with Dovecot(ssl=False, uidl_format=FORMATS[0]) as dovecot, SmtpServer() as smtp:
        passes.configure(
            pop3={"host": f"127.0.0.1:{dovecot.port}", "pipelining": pipelining},
            smtp={"host": smtp.address},
            server_copy={"leave_copy": True},
        )
        deliver(1, COUNT)
        passes.poll()
        first_seen = sorted(line["first_seen"] for line in messages(passes).values())
        for place, (before, after) in enumerate(pairwise(FORMATS)):
            known = set(messages(passes))
            change_format(dovecot, before, after)
            deliver(1000 * (place + 1), 3)
            recognised = COUNT + 3 * place
            (said,) = passes.finish()
            assert f"{recognised} messages were recognised under new UIDLs" in said
            assert Counter(without_trace(message.content) for message in smtp.delivered) == sent
            now = messages(passes)
            assert known.isdisjoint(now)
            assert len(now) == recognised + 3
            assert {line["status"] for line in now.values()} == {"delivered"}
            assert sorted(line["first_seen"] for line in now.values())[:COUNT] == first_seen
            quiet = passes.journal
            passes.poll()
            assert passes.journal == quiet
        assert sum(sent.values()) == len(smtp.delivered) == COUNT + 3 * (len(FORMATS) - 1)
