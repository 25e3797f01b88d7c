"""The hand-over: bounded, narrow until the SMTP server is there, and never a reason to hang."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from poprep_cli.engine.handoff import FIRST_MESSAGES, FIRST_OCTETS, MAX_MESSAGES, MAX_OCTETS, Handoff
from poprep_cli.engine.message import Message
from poprep_cli.net.maildrop import Listed

PATIENCE = 5.0


def listed(size: int = 100) -> Listed:
    return Listed(1, b"u", size)


def message(uidl: bytes = b"u", size: int = 100) -> Message:
    return Message(uidl, size, canonical=True, eight_bit=False, head=b"", block=b".\r\n", listed_octets=size)


def admitted(handoff: Handoff, size: int = 100, most: int = 1000) -> int:
    """Return how many messages of this size find room at once."""
    count = 0
    while count < most and handoff.admit(listed(size), wait=False):
        count += 1
    return count


def release(handoff: Handoff, count: int, size: int = 100) -> None:
    for _ in range(count):
        handoff.release(size)


class Waiting:
    """A call in another thread that is to wait."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.results: list[object] = []
        self._thread = threading.Thread(target=lambda: self.results.append(call()), daemon=True)
        self._thread.start()
        self._thread.join(0.05)
        assert self._thread.is_alive()

    def ended(self) -> object:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        return self.results[0]


@pytest.mark.parametrize(
    ("size", "count"),
    [
        (100, FIRST_MESSAGES),
        (0, FIRST_MESSAGES),
        (FIRST_OCTETS // 4, 4),
        (FIRST_OCTETS // 4 + 1, 3),
        (FIRST_OCTETS + 1, 1),  # one is always read, whatever its size
    ],
)
def test_the_first_window(size, count) -> None:
    handoff = Handoff()
    assert admitted(handoff, size) == count
    # What is done with makes no room: it counts what was read while there is no SMTP server.
    handoff.release(size)
    assert admitted(handoff, size) == 0


def test_the_first_window_is_what_the_contract_says() -> None:
    assert (FIRST_MESSAGES, FIRST_OCTETS) == (8, 4 << 20)


def test_the_bounds_once_the_server_is_there() -> None:
    handoff = Handoff()
    handoff.open_wide()
    assert admitted(handoff) == MAX_MESSAGES
    # Once it was full it has to come down to half before there is room again, for all that then fit at once.
    release(handoff, MAX_MESSAGES // 2 - 1)
    assert admitted(handoff) == 0
    release(handoff, 1)
    assert admitted(handoff) == MAX_MESSAGES // 2

    handoff = Handoff()
    handoff.open_wide()
    count = admitted(handoff, 1 << 20)
    assert 1 < count <= MAX_OCTETS >> 20
    release(handoff, 1, 1 << 20)
    assert admitted(handoff, 1 << 20) == 0
    release(handoff, count // 2, 1 << 20)
    assert admitted(handoff, 1 << 20) == count // 2 + 1


def test_a_huge_message_costs_what_is_in_memory() -> None:
    handoff = Handoff()
    handoff.open_wide()
    assert admitted(handoff, 1 << 40) == admitted_fresh(1 << 20)


def admitted_fresh(size: int) -> int:
    handoff = Handoff()
    handoff.open_wide()
    return admitted(handoff, size)


def test_opening_wide_lets_the_waiting_in() -> None:
    handoff = Handoff()
    assert admitted(handoff) == FIRST_MESSAGES
    waiting = Waiting(lambda: handoff.admit(listed(), wait=True))
    handoff.open_wide()
    assert waiting.ended() is True


def test_a_release_lets_the_waiting_in() -> None:
    handoff = Handoff()
    handoff.open_wide()
    assert admitted(handoff) == MAX_MESSAGES
    waiting = Waiting(lambda: handoff.admit(listed(), wait=True))
    release(handoff, MAX_MESSAGES // 2)
    assert waiting.ended() is True


def test_the_download_waits_a_moment_for_the_server() -> None:
    handoff = Handoff()
    assert admitted(handoff, most=FIRST_MESSAGES) == FIRST_MESSAGES
    waiting = Waiting(lambda: handoff.admit(listed(), wait=False))
    handoff.open_wide()
    assert waiting.ended() is True
    # Only once, and not for long: then it goes on reading what was asked for.
    handoff = Handoff()
    assert admitted(handoff) == FIRST_MESSAGES
    assert not handoff.admit(listed(), wait=False)


def test_closing_wakes_whoever_waits_for_room() -> None:
    handoff = Handoff()
    assert admitted(handoff) == FIRST_MESSAGES
    waiting = Waiting(lambda: handoff.admit(listed(), wait=True))
    handoff.close()
    assert waiting.ended() is False
    assert handoff.admit(listed(), wait=True) is False


def test_messages_come_in_order_and_then_the_end() -> None:
    handoff = Handoff()
    for number in range(3):
        handoff.put(message(b"%d" % number))
    first = handoff.peek()
    assert first is not None
    assert handoff.get() is first
    handoff.close()  # what was being retrieved still comes
    handoff.put(message(b"3"))
    handoff.finish()
    rest = [handoff.get(), handoff.get(), handoff.get()]
    assert [one.uidl for one in rest if one] == [b"1", b"2", b"3"]
    assert (handoff.peek(), handoff.get(), handoff.get()) == (None, None, None)


def test_getting_waits_for_a_message_or_the_end() -> None:
    handoff = Handoff()
    waiting = Waiting(handoff.get)
    one = message()
    handoff.put(one)
    assert waiting.ended() is one
    waiting = Waiting(handoff.get)
    handoff.finish()
    assert waiting.ended() is None


def test_two_threads_move_everything() -> None:
    handoff, count = Handoff(), 2000

    def put_all() -> None:
        for number in range(count):
            assert handoff.admit(listed(50_000), wait=True)
            handoff.put(message(b"%d" % number, 50_000))
        handoff.finish()

    thread = threading.Thread(target=put_all)
    thread.start()
    handoff.open_wide()
    received = []
    while (one := handoff.get()) is not None:
        received.append(int(one.uidl))
        handoff.release(one.listed_octets)
    thread.join(PATIENCE)
    assert received == list(range(count))
