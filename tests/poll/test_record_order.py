"""What is on record, and on the disk, before what: the journal's writes and fsyncs beside what the two servers see."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from dataclasses import dataclass

import pytest

from poprep_cli.engine.state import SYNC_INTERVAL
from tests.poll.world import Pop3Faults, SmtpFaults, World

MESSAGES = 12
_NUMBER = re.compile(rb"^Subject: Number (\d+)\r$", re.MULTILINE)


@dataclass(frozen=True)
class Event:
    """`what` is a status on record, "going" (what QUIT is about to delete), "received" (the end of data), "synced", or "quit".

    `at` is monotonic seconds.
    """

    what: str
    uidl: str = ""
    at: float = 0.0


class Recorder:
    """Writes down the order of events: the journal's by what the system is asked to do, the servers' by themselves."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch, pause: float) -> None:
        self.events: list[Event] = []
        self._lock = threading.Lock()
        self._journal = world.state / "office.jsonl"
        self._write, self._sync = os.write, os.fsync
        self._pause = pause
        monkeypatch.setattr(os, "write", self.write)
        monkeypatch.setattr(os, "fsync", self.fsync)
        world.smtp.faults = SmtpFaults(replies={"end-of-data": self._received})
        world.pop3.faults = Pop3Faults(replies={"QUIT": self._quit})

    def write(self, descriptor: int, data: bytes) -> int:
        count = self._write(descriptor, data)
        if self._is_journal(descriptor):
            at = time.monotonic()  # of all lines of a write
            for line in map(json.loads, bytes(data[:count]).splitlines()):
                if "status" in line:
                    self._note("going" if line.get("gone") else line["status"], line["uidl"], at)
        return count

    def fsync(self, descriptor: int) -> None:
        self._sync(descriptor)
        if self._is_journal(descriptor):
            self._note("synced")

    def _is_journal(self, descriptor: int) -> bool:
        return self._journal.exists() and os.path.samestat(os.fstat(descriptor), self._journal.stat())

    def _received(self, content: bytes) -> None:
        number = _NUMBER.search(content)
        assert number is not None
        self._note("received", f"u{int(number[1])}")
        time.sleep(self._pause)

    def _quit(self, _: bytes) -> None:
        self._note("quit")

    def _note(self, what: str, uidl: str = "", at: float | None = None) -> None:
        with self._lock:
            self.events.append(Event(what, uidl, time.monotonic() if at is None else at))

    def place(self, what: str, uidl: str = "") -> int:
        """Return where an event is, which there must be once."""
        (place,) = (place for place, event in enumerate(self.events) if (event.what, event.uidl) == (what, uidl))
        return place


@pytest.mark.parametrize("limit", [1, 3])
@pytest.mark.parametrize("pause", [0.0, 0.03])
def test_every_step_is_on_record_before_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch, limit: int, pause: float
) -> None:
    world.smtp_lines = f"max_in_flight = {limit}"
    world.letters(MESSAGES)
    world.write()
    seen = Recorder(world, monkeypatch, pause)
    world.poll().ended(0)
    for uidl in world_uidls():
        order = [seen.place(what, uidl) for what in ("seen", "sending", "received", "delivered", "going")]
        assert order == sorted(order), uidl
        assert order[-1] < seen.place("quit")
        assert seen.place("deleted", uidl) > seen.place("quit")
    on_their_way = most = 0
    for event in seen.events:
        on_their_way += {"sending": 1, "delivered": -1}.get(event.what, 0)
        most = max(most, on_their_way)
    assert most <= limit
    assert_synced(seen.events)


def world_uidls() -> list[str]:
    return [f"u{number}" for number in range(1, MESSAGES + 1)]


def assert_synced(events: list[Event]) -> None:
    """Assert that QUIT finds all on the disk, and that no write left what was older than 100 ms to the mercy of the power."""
    oldest: float | None = None
    synced = 0.0
    for place, event in enumerate(events):
        if event.what == "synced":
            oldest, synced = None, event.at
        elif event.what == "quit":
            assert oldest is None, "QUIT commits what a power cut could make forgotten"
        elif event.what != "received":
            oldest = oldest or event.at
            due = event.at - synced >= SYNC_INTERVAL + 0.01  # it takes a moment from the write to the look at the clock
            following = [one.what for one in events[place + 1 :] if one.what != "received" and one.at != event.at]
            assert not due or following[:1] == ["synced"], (event, following[:3])
    assert sum(event.what == "synced" for event in events) >= 2


@pytest.mark.parametrize("connections", [1, 3])
def test_a_reply_is_on_record_before_those_to_many_recipients_are_waited_for(world: World, connections: int) -> None:
    world.timeout = 5
    world.send_to = tuple(f"r{number}@corp.example" for number in range(120))  # more than one group of commands
    world.smtp_lines = f"connections = {connections}\nmax_in_flight = 1"
    world.letters(2)
    long = b"250 " + b"x" * 400 + b"\r\n"
    world.smtp.faults = SmtpFaults(replies={"mail": long}, hang="rcpt", only={"rcpt": (121,)})
    running = world.start()
    end = time.monotonic() + 10
    while world.statuses().get("u1") != "delivered" and time.monotonic() < end:
        time.sleep(0.01)
    found = world.statuses()
    running.kill()
    running.communicate()
    assert (len(world.smtp.delivered), found["u1"]) == (1, "delivered")
    assert found["u2"] == "seen"
