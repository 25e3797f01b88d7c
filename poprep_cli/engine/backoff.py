"""The pause after repeated rejections of a login, so that a run every minute does not lock the account. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from poprep_cli.engine.clock import parse, stamp

# Minutes after the first, second, ... rejection in a row. One may be a hiccup; servers lock at five to ten in half an hour.
PAUSES = (0, 5, 15, 60, 240)


class Rejections(msgspec.Struct, frozen=True, omit_defaults=True):
    """How often in a row a login was rejected, when last, and until when it is not tried again (RFC 3339)."""

    count: int = 0
    last: str = ""
    until: str = ""


NONE = Rejections()


def rejected(before: Rejections, now: datetime) -> Rejections:
    """Return the state after one more rejection."""
    pause = PAUSES[min(before.count, len(PAUSES) - 1)]
    return Rejections(before.count + 1, stamp(now), stamp(now + timedelta(minutes=pause)) if pause else "")


def paused_until(state: Rejections, now: datetime, changed: datetime | None = None) -> str:
    """Return until when no login is tried, "" if one may be.

    `changed` is when the configuration was last written: who has just mended it need not wait. A clock that was set back
    makes no pause longer than it was meant to be.
    """
    try:
        last, until = parse(state.last), parse(state.until)
    except ValueError:
        return ""
    if changed is not None and changed > last:
        return ""
    return state.until if last <= now < until else ""
