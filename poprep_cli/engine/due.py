"""Whether a connector is due: its own `poll_every`, and what the server asks for by LOGIN-DELAY (RFC 2449 6.5). Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from poprep_cli.engine.clock import parse, stamp
from poprep_cli.engine.status import Status

MAX_DELAY = 86_400  # seconds: no server stops its mail for longer than a day
TOLERANCE = 30.0  # seconds of cron's jitter at most


def waits(status: Status, poll_every: float, now: datetime) -> str:
    """Return why and until when a connector is not due, for people, or "" if it is due. `poll_every` is in minutes."""
    wanted = not_due_until(status, poll_every, now)
    allowed = delayed_until(status, now)
    if allowed > wanted:  # RFC 3339 in UTC: texts compare as times do
        return f"not due before {allowed}: {delay_told(status)}"
    return f"not due before {wanted} (poll_every)" if wanted else ""


def not_due_until(status: Status, poll_every: float, now: datetime) -> str:
    """Return when the connector is due (RFC 3339), or "" if it is due now. `poll_every` is in minutes.

    Counted from the start of the last attempt, with a tolerance of 30 seconds or 10 % for the jitter of cron. An attempt
    in the future says that a clock is or was wrong, and counts for nothing.
    """
    last = _moment(status.last_attempt)
    if not poll_every or last is None:
        return ""
    seconds = poll_every * 60
    due = last + timedelta(seconds=seconds - min(TOLERANCE, seconds / 10))
    return stamp(last + timedelta(seconds=seconds)) if last <= now < due else ""


def delayed_until(status: Status, now: datetime) -> str:
    """Return until when (RFC 3339) the server wants no other login, or "" if it may be asked now. No tolerance here."""
    last = _moment(status.last_login)
    if status.login_delay <= 0 or last is None:
        return ""
    # The login was in the course of the second that was noted.
    until = last + timedelta(seconds=min(status.login_delay, MAX_DELAY) + 1)
    return stamp(until) if last <= now < until else ""


def delay_told(status: Status) -> str:
    """Return what the server asks for, for people."""
    return f"the server wants {min(status.login_delay, MAX_DELAY):,} seconds between logins (LOGIN-DELAY)"


def login_delay(words: Sequence[str]) -> int:
    """Return the seconds between logins that the arguments of LOGIN-DELAY ask for, 0 if it is none.

    With USER behind it, it is the longest that any user has to wait (RFC 2449 6.5), so that keeping to it is always right.
    """
    if not words or not (words[0].isascii() and words[0].isdigit()):
        return 0
    return min(int(words[0][:9]), MAX_DELAY)


def _moment(text: str) -> datetime | None:
    try:
        return parse(text) if text else None
    except ValueError:
        return None
