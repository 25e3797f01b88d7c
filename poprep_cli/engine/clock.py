"""The time of day, which tests may set: POPREP_TEST_CLOCK (RFC 3339), honoured only with POPREP_TESTING=1."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from functools import lru_cache


def now() -> datetime:
    """Return the time, in UTC and whole seconds."""
    return exact().replace(microsecond=0)


def exact() -> datetime:
    """Return the time, in UTC, as exactly as the system tells it."""
    if os.environ.get("POPREP_TESTING") == "1" and "POPREP_TEST_CLOCK" in os.environ:
        return parse(os.environ["POPREP_TEST_CLOCK"])
    return datetime.now(UTC)


class Ticks:
    """The time for who asks for it many times a second. Whether tests have set it is looked at once."""

    __slots__ = ("_is_set", "_last", "_second")

    def __init__(self) -> None:
        self._is_set = os.environ.get("POPREP_TESTING") == "1"
        self._second = -1
        self._last = now()

    def now(self) -> datetime:
        """Return what `now` does: the same object for as long as the second lasts."""
        if self._is_set:
            return now()
        second = int(time.time())
        if second != self._second:
            self._second, self._last = second, datetime.fromtimestamp(second, UTC)
        return self._last


@lru_cache(maxsize=16)
def stamp(moment: datetime) -> str:
    """Return a moment as state files write it: RFC 3339 in UTC, such as 2026-11-23T09:41:00Z."""
    utc = moment if moment.tzinfo is UTC else moment.astimezone(UTC)
    return f"{utc.isoformat()[:19]}Z"


def parse(text: str) -> datetime:
    """Return the moment of an RFC 3339 time. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
