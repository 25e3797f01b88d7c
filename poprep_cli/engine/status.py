"""The status file of one connector: what changes at every pass, kept apart so that a quiet pass leaves the journal alone."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from poprep_cli.engine import files
from poprep_cli.engine.clock import parse, stamp
from poprep_cli.net.detect import Memory

AFRESH = timedelta(days=7)


class Status(msgspec.Struct, omit_defaults=True):
    """When the connector was last tried, when it last went well, how the last pass ended, and how it logged in."""

    last_attempt: str = ""
    last_success: str = ""
    reason: str = ""
    method: str = ""
    method_since: str = ""
    announcements: str = ""
    mute: tuple[str, ...] = ()


def load(path: Path) -> Status:
    """Return the status; an unreadable one counts as none, since nothing depends on it but comfort."""
    try:
        return msgspec.json.decode(files.read_private(path) or b"{}", type=Status)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return Status()


def save(path: Path, status: Status) -> None:
    """Replace the status file."""
    files.replace(path, msgspec.json.encode(status) + b"\n", durable=False)


def memory(status: Status, now: datetime) -> Memory:
    """Return what the last login teaches this one. After a week all methods are tried afresh: no lasting downgrade."""
    try:
        fresh = timedelta(0) <= now - parse(status.method_since) < AFRESH
    except ValueError:
        fresh = False
    return Memory(status.method, status.announcements, status.mute) if fresh else Memory()


def remember(status: Status, learned: Memory, now: datetime) -> None:
    """Note what a login teaches the next one."""
    if (status.method, status.announcements) != (learned.method, learned.announcements) or memory(
        status, now
    ) == Memory():
        status.method_since = stamp(now)
    status.method, status.announcements, status.mute = learned.method, learned.announcements, learned.mute


def not_due_until(status: Status, poll_every: float, now: datetime) -> str:
    """Return when the connector is due (RFC 3339), or "" if it is due now. `poll_every` is in minutes.

    Counted from the start of the last attempt, with a tolerance of 30 seconds or 10 % for the jitter of cron.
    """
    if not poll_every or not status.last_attempt:
        return ""
    try:
        last = parse(status.last_attempt)
    except ValueError:
        return ""
    seconds = poll_every * 60
    due = last + timedelta(seconds=seconds - min(30.0, seconds / 10))
    return stamp(last + timedelta(seconds=seconds)) if last <= now < due else ""
