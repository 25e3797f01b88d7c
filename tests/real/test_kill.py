"""Passes that are killed at random instants lose no mail, and repeat only what was in doubt."""

from __future__ import annotations

import os
import random
import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.dovecot import Dovecot
from tests.real.passes import Passes
from tests.real.postfix import Postfix

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]

KILLS = 50
MESSAGES = 300
REFILL_BELOW = 30
PASSES = 4 * KILLS

_IDENT = re.compile(rb"^Message-ID: <([^>\n\r]+)>", re.MULTILINE)
_POSSIBLE_DUPLICATE = re.compile(rb"^X-Poprep-Possible-Duplicate: yes\r?\n", re.MULTILINE)


@pytest.fixture
def dovecot() -> Iterator[Dovecot]:
    # The UIDL is the file's name, which is the Message-ID: one key for server, journal and delivered mail.
    with Dovecot(uidl_format="%g") as server:
        yield server


@pytest.fixture
def postfix() -> Iterator[Postfix]:
    with Postfix() as server:
        yield server


class Books:
    """Keeps account of each message: where it is, how often it was delivered, and how often it was in doubt."""

    def __init__(self, dovecot: Dovecot, postfix: Postfix, passes: Passes) -> None:
        self._dovecot = dovecot
        self._postfix = postfix
        self._passes = passes
        self.all: list[str] = []
        self.copies: Counter[str] = Counter()
        self.marked: Counter[str] = Counter()
        self.doubts: Counter[str] = Counter()
        self._in_doubt: set[str] = set()

    def fill(self) -> None:
        """Put new messages into the maildrop."""
        for number in range(len(self.all), len(self.all) + MESSAGES):
            name = f"message{number:06d}"
            size = number * 37 % 3_000
            head = f"From: a@example.net\r\nSubject: {number}\r\nMessage-ID: <{name}>\r\n\r\n".encode()
            self._dovecot.deliver("joe", head + b"0123456789\r\n" * (size // 12), name=name)
            self.all.append(name)

    def pending(self) -> int:
        """Return how many messages on the server are not on record as delivered."""
        done = {uidl.decode() for uidl, status in self._passes.statuses.items() if status == "delivered"}
        return len(self._dovecot.names("joe") - done)

    def note_kill(self) -> None:
        """Note what the journal says after a kill."""
        sending = {uidl.decode() for uidl, status in self._passes.statuses.items() if status == "sending"}
        assert len(sending - self._in_doubt) <= 1, (
            f"one kill left several messages in doubt: {sending - self._in_doubt}"
        )
        self._in_doubt = sending
        self.doubts.update(sending)

    def note_delivered(self) -> None:
        """Note what Postfix has delivered since the last call."""
        for stored in self._postfix.take().values():
            head = stored.partition(b"\n\n")[0] + b"\n"
            ident = _IDENT.search(head)
            assert ident is not None, f"not one of the messages: {stored[:500]!r}"
            name = ident[1].decode()
            self.copies[name] += 1
            self.marked[name] += _POSSIBLE_DUPLICATE.search(head) is not None

    def assert_none_lost(self) -> None:
        """Assert that every message is on the server, or delivered, or held."""
        missing = set(self.all) - self._dovecot.names("joe") - set(self.copies)
        if not missing:
            return
        # What was accepted may still be in Postfix's queue.
        missing -= {ident[1].decode() for content in self._passes.held if (ident := _IDENT.search(content))}
        self._postfix.settle()
        self.note_delivered()
        missing -= set(self.copies)
        assert missing == set(), "deleted before it was accepted"

    def assert_repeats_were_in_doubt(self) -> None:
        """Assert that only messages in doubt were delivered again, once for each doubt, and with the field that says so."""
        for name, copies in self.copies.items():
            told = (
                f"{name} came {copies} times, was in doubt {self.doubts[name]} times, marked {self.marked[name]} times"
            )
            assert copies - 1 <= self.doubts[name], told
            assert copies - 1 <= self.marked[name], told
            assert self.marked[name] <= self.doubts[name], told


def test_kills_at_random_instants(dovecot: Dovecot, postfix: Postfix, tmp_path: Path) -> None:
    seed = int(os.environ.get("POPREP_SEED") or random.SystemRandom().randrange(1_000_000))
    print(f"POPREP_SEED={seed}")  # noqa: T201 - pytest shows it when the test fails
    instants = random.Random(seed)
    passes = Passes(tmp_path)
    passes.configure(
        pop3={"host": f"127.0.0.1:{dovecot.port}"},
        smtp={"host": f"127.0.0.1:{postfix.port}"},
        server_copy={"leave_copy": False},
    )
    books = Books(dovecot, postfix, passes)
    idle = _duration(passes)
    books.fill()
    each = max(_duration(passes) - idle, 0.01) / MESSAGES
    assert dovecot.names("joe") == set()

    kills = amid = 0
    for _ in range(PASSES):
        if len(dovecot.names("joe")) < REFILL_BELOW:
            books.fill()
        pending = books.pending()
        # From the end of start-up to a little after the end; the last part is deletion and QUIT.
        delay = instants.uniform(0.7 * idle, 1.1 * idle + each * pending)
        killed = _kill_after(passes, delay)
        kills += killed
        amid += killed and 0 < books.pending() < pending
        books.note_kill()
        books.note_delivered()
        books.assert_none_lost()
        if kills == KILLS:
            break
    assert kills == KILLS, "too many passes ended before their kill"
    assert amid >= KILLS // 5, f"only {amid} of {kills} kills came amid the transfer"

    # What is in doubt is told; then nothing is left to tell or to do.
    assert [line for line in passes.finish() if "X-Poprep-Possible-Duplicate" not in line] == []
    passes.poll()
    assert dovecot.names("joe") == set()
    assert passes.held == []
    postfix.settle()
    books.note_delivered()
    assert set(books.copies) == set(books.all)
    books.assert_repeats_were_in_doubt()
    repeats = books.copies.total() - len(books.all)
    print(f"{kills} kills, {amid} amid the transfer, {len(books.all)} messages, {repeats} repeats")  # noqa: T201


def _duration(passes: Passes) -> float:
    start = time.monotonic()
    passes.poll()
    return time.monotonic() - start


def _kill_after(passes: Passes, delay: float) -> bool:
    """Start a pass, kill it after `delay` seconds, and return whether it was still running."""
    process = passes.start()
    try:
        process.wait(delay)
    except subprocess.TimeoutExpired:
        process.kill()
    code = process.wait()
    assert code in (0, -9), f"a pass ended by itself with exit code {code}"
    return code == -9
