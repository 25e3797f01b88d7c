"""The hand-over between the thread that downloads and the thread that submits: a queue bounded in octets and messages."""

from __future__ import annotations

import threading
import time
from collections import deque

from poprep_cli.engine.message import Message
from poprep_cli.net.maildrop import Listed
from poprep_cli.protocol.wire import PART_OCTETS

MAX_OCTETS = 8 << 20  # in memory, between RETR and the SMTP server's acceptance
MAX_MESSAGES = 512
REFILL = 2  # when it was full, nothing is admitted before it has come down to one in so many: threads change seldom
FIRST_MESSAGES = 8  # until the SMTP server is there, no more than this is read
FIRST_OCTETS = 4 << 20
OPENING = 0.06  # seconds for which the download waits for the SMTP server, rather than for the first messages


class Handoff:
    """A bounded queue. The download side admits and puts, the submission side gets and releases."""

    def __init__(self, deadline: float = float("inf")) -> None:
        """Start empty. After `deadline` (monotonic seconds) nothing is admitted but a first message: there is progress."""
        self._deadline = deadline
        self._lock = threading.Lock()  # taken by itself it costs a third of what it does by way of the condition
        self._changed = threading.Condition(self._lock)
        self._waiting = 0  # threads
        self._queue: deque[Message] = deque()
        self._octets = 0
        self._messages = 0
        self._read_octets = 0
        self._read_messages = 0
        self._wide = False
        self._opening = 0.0  # until when the download waits for it; 0 before it had to
        self._full = False
        self._closed = False
        self._finished = False

    def admit(self, listed: Listed, wait: bool) -> bool:
        """Reserve room for a message about to be retrieved. False: not now, or, if `wait` is true, never again."""
        with self._lock:
            while not self._closed:
                remaining = self._deadline - time.monotonic()
                if remaining <= 0 and self._read_messages:
                    return False
                if self._has_room(listed.size):
                    self._octets += _cost(listed.size)
                    self._messages += 1
                    self._read_octets += listed.size
                    self._read_messages += 1
                    return True
                if not wait:
                    remaining = min(remaining, self._opening_time())
                    if remaining <= 0:
                        return False
                self._wait(remaining)
            return False

    def _wait(self, seconds: float = threading.TIMEOUT_MAX) -> None:
        self._waiting += 1
        try:
            self._changed.wait(min(seconds, threading.TIMEOUT_MAX))
        finally:
            self._waiting -= 1

    def _wake(self) -> None:
        if self._waiting:
            self._changed.notify_all()

    def _opening_time(self) -> float:
        """Return how long it is worthwhile to wait until the SMTP server is there, before the first messages are read.

        A near one is there at once, and then the commands for all messages go out together. While a far one is waited for
        the first messages come, which keep it busy until the others are here.
        """
        if self._wide:
            return 0.0
        self._opening = self._opening or time.monotonic() + OPENING
        return self._opening - time.monotonic()

    def _has_room(self, size: int) -> bool:
        if (
            not self._wide
            and self._read_messages
            and (self._read_messages >= FIRST_MESSAGES or self._read_octets + size > FIRST_OCTETS)
        ):
            return False
        if not self._messages:
            self._full = False
            return True
        self._full = self._full or self._messages >= MAX_MESSAGES or self._octets + _cost(size) > MAX_OCTETS
        return not self._full

    def put(self, message: Message) -> None:
        """Hand over a message that was admitted."""
        with self._lock:
            self._queue.append(message)
            self._wake()

    def finish(self) -> None:
        """Say that nothing more comes."""
        with self._lock:
            self._finished = True
            self._wake()

    def get(self) -> Message | None:
        """Return the next message, waiting for it; None when nothing more comes."""
        with self._lock:
            while not self._queue and not self._finished:
                self._wait()
            return self._queue.popleft() if self._queue else None

    def peek(self) -> Message | None:
        """Return the message that the next `get` will return, if it is here already."""
        return self._queue[0] if self._queue else None

    def release(self, listed_octets: int) -> None:
        """Give back the room of a message that is done with; `listed_octets` as at `admit`."""
        with self._lock:
            self._octets -= _cost(listed_octets)
            self._messages -= 1
            if not self._messages or (
                self._full and self._messages <= MAX_MESSAGES // REFILL and self._octets <= MAX_OCTETS // REFILL
            ):
                self._full = False
                self._wake()

    def open_wide(self) -> None:
        """Lift the bound of the first window: the SMTP server is there."""
        with self._lock:
            self._wide = True
            self._wake()

    def close(self) -> None:
        """Admit nothing more; what is being retrieved still comes."""
        with self._lock:
            self._closed = True
            self._wake()


def _cost(size: int) -> int:
    return min(size, PART_OCTETS) + 2048  # above a part it is in a file
