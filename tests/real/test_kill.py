"""Polls and purges that are killed at random instants lose no mail, delete none too soon, and repeat only what was in doubt."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.real.dovecot import Dovecot
from tests.real.passes import Passes
from tests.real.postfix import Postfix

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]

KILLS = 50
MESSAGES = 300
REFILL_BELOW = 30
PASSES = 4  # for each kill, at most: some end before theirs
DAYS = 2  # that delivered mail is kept in the test with purges
ORDERED = 1  # days that a purge is told
ORDER = ["--older-than", str(ORDERED), "office"]
START = datetime(2026, 11, 1, 6, 0, tzinfo=UTC)

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


def seeded() -> random.Random:
    seed = int(os.environ.get("POPREP_SEED") or random.SystemRandom().randrange(1_000_000))
    print(f"POPREP_SEED={seed}")  # noqa: T201 - pytest shows it when the test fails
    return random.Random(seed)


def test_kills_of_polls_that_move_mail(dovecot: Dovecot, postfix: Postfix, tmp_path: Path) -> None:
    instants = seeded()
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
    for _ in range(PASSES * KILLS):
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
    assert amid, "no kill came amid the transfer"

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


class Almanac:
    """The clock that passes see, and what a deletion by days may take: mail that was first seen so long ago."""

    def __init__(self, dovecot: Dovecot, passes: Passes) -> None:
        self._dovecot = dovecot
        self._passes = passes
        self._there: set[str] = set()
        self.now = START
        self.deleted = 0

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a pass at this time."""
        return self._passes.environment | {"POPREP_TESTING": "1", "POPREP_TEST_CLOCK": self.now.isoformat()}

    def run(self, *command: str) -> None:
        """Run a command to its end; raise AssertionError unless all was well."""
        line = [*self._passes.command[:-1], *command]
        done = subprocess.run(line, env=self.environment, capture_output=True, text=True, check=False, timeout=100)
        assert done.returncode == 0, done.stderr

    def assert_none_too_soon(self, days: int) -> None:
        """Assert that what has gone since the last call was delivered, and first seen so many days ago."""
        there = self._dovecot.names("joe")
        gone, self._there = self._there - there, there
        latest = (self.now - timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")
        known = self._known()
        for name in gone:
            assert known[name]["status"] in ("delivered", "deleted"), known[name]
            assert known[name]["first_seen"] <= latest, (known[name], self.now)
        self.deleted += len(gone)

    def expect(self) -> None:
        """Note what is in the maildrop before a command."""
        self._there = self._dovecot.names("joe")

    def _known(self) -> dict[str, Mapping[str, str]]:
        lines = map(json.loads, self._passes.journal.split(b"\n")[:-1])
        return {line["uidl"]: line for line in lines if "uidl" in line}


@pytest.mark.parametrize("kills", [KILLS, pytest.param(500, marks=[pytest.mark.kills, pytest.mark.timeout(3600)])])
def test_kills_of_polls_and_purges(dovecot: Dovecot, postfix: Postfix, tmp_path: Path, kills: int) -> None:
    instants = seeded()
    passes = Passes(tmp_path)
    passes.configure(
        pop3={"host": f"127.0.0.1:{dovecot.port}"},
        smtp={"host": f"127.0.0.1:{postfix.port}"},
        server_copy={"leave_copy": True, "remove_after_days": DAYS},
    )
    books, almanac = Books(dovecot, postfix, passes), Almanac(dovecot, passes)
    idle = _seconds(almanac, "poll")
    books.fill()
    each = max(_seconds(almanac, "poll") - idle, 0.01) / MESSAGES

    killed: Counter[str] = Counter()
    for _ in range(PASSES * kills):
        almanac.now += timedelta(hours=instants.uniform(0, 12))
        if books.pending() < REFILL_BELOW:
            books.fill()
        pending = books.pending()
        command, days = instants.choice([(["poll"], DAYS)] * 3 + [(["purge"], DAYS), (["purge", *ORDER], ORDERED)])
        work = each * pending if command == ["poll"] else 0.3 * idle
        almanac.expect()
        if _kill_after(passes, instants.uniform(0.5 * idle, 1.1 * idle + work), command, almanac.environment):
            killed[command[0]] += 1
            killed["amid"] += 0 < books.pending() < pending
        almanac.assert_none_too_soon(days)
        books.note_kill()
        books.note_delivered()
        books.assert_none_lost()
        if killed["poll"] + killed["purge"] == kills:
            break
    assert killed["poll"] + killed["purge"] == kills, "too many passes ended before their kill"
    assert killed["purge"], killed
    assert killed["amid"], killed
    assert almanac.deleted > 0

    for _ in range(3):  # what is in doubt; then all that is due at once waits for an hour
        almanac.run("poll")
        almanac.now += timedelta(days=DAYS)
    assert dovecot.names("joe") == set()
    assert passes.held == []
    postfix.settle()
    books.note_delivered()
    assert set(books.copies) == set(books.all)
    books.assert_repeats_were_in_doubt()
    repeats = books.copies.total() - len(books.all)
    assert repeats <= killed["poll"]
    print(  # noqa: T201
        f"{dict(killed)}, {len(books.all)} messages, {almanac.deleted} deletions by days amid the kills, "
        f"{repeats} repeats, {books.marked.total()} marked, {books.doubts.total()} in doubt"
    )


def _seconds(almanac: Almanac, *command: str) -> float:
    start = time.monotonic()
    almanac.run(*command)
    return time.monotonic() - start


def _kill_after(
    passes: Passes, delay: float, command: Sequence[str] = ("poll",), environment: Mapping[str, str] | None = None
) -> bool:
    """Start a command, kill it after `delay` seconds, and return whether it was still running."""
    null = subprocess.DEVNULL
    process = subprocess.Popen(
        [*passes.command[:-1], *command],
        env=environment or passes.environment,
        stdin=null,
        stdout=null,
        stderr=null,
    )
    try:
        process.wait(delay)
    except subprocess.TimeoutExpired:
        process.kill()
    code = process.wait()
    assert code in (0, -9), f"a pass ended by itself with exit code {code}"
    return code == -9
