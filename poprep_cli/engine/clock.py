"""The time of day, which tests may set: POPREP_TEST_CLOCK (RFC 3339), honoured only with POPREP_TESTING=1."""

from __future__ import annotations

import os
from datetime import UTC, datetime


def now() -> datetime:
    """Return the time, in UTC and whole seconds."""
    return exact().replace(microsecond=0)


def exact() -> datetime:
    """Return the time, in UTC, as exactly as the system tells it."""
    if os.environ.get("POPREP_TESTING") == "1" and "POPREP_TEST_CLOCK" in os.environ:
        return parse(os.environ["POPREP_TEST_CLOCK"])
    return datetime.now(UTC)


def stamp(moment: datetime) -> str:
    """Return a moment as state files write it: RFC 3339 in UTC, such as 2026-11-23T09:41:00Z."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse(text: str) -> datetime:
    """Return the moment of an RFC 3339 time. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
