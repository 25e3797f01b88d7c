"""The status file of one connector: what changes at every pass, kept apart so that a quiet pass leaves the journal alone."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import msgspec
from msgspec.structs import replace

from poprep_cli.engine import files
from poprep_cli.engine.backoff import NONE, Rejections
from poprep_cli.engine.clock import parse, stamp
from poprep_cli.engine.quiet import NO_MEMO, Memo
from poprep_cli.engine.retention import NO_MASS, Mass
from poprep_cli.net.detect import Answers, Memory
from poprep_cli.net.proof import NO_PROOF, Proof

AFRESH = timedelta(days=7)
ANSWERS = timedelta(days=1)  # so often at least a server is asked what it announces


class Groups(msgspec.Struct, frozen=True, omit_defaults=True):
    """In so many passes in a row a server broke on commands in one write, and took them one by one; when it did so last."""

    count: int = 0
    since: str = ""


NO_GROUPS = Groups()


class Status(msgspec.Struct, omit_defaults=True):
    """When the connector was last tried, when it last went well, how the last pass ended, and how it logged in.

    `login_delay` is how many seconds the server wants between logins, the last of which was at `last_login`.
    `full` says that a session of the last pass read so much that its listing may have been a part of the mailbox.
    """

    last_attempt: str = ""
    latest: str = ""  # the latest time that any pass has had: a clock that is behind stays so for more than one
    last_success: str = ""
    reason: str = ""
    method: str = ""
    method_since: str = ""
    announcements: str = ""
    mute: tuple[str, ...] = ()
    listed: tuple[str, ...] = ()
    answers: Answers | None = None
    pop3_login: Rejections = NONE
    smtp_login: Rejections = NONE
    chunking: Proof = NO_PROOF
    pop3_groups: Groups = NO_GROUPS
    smtp_groups: Groups = NO_GROUPS
    mass: Mass = NO_MASS
    quiet: Memo = NO_MEMO
    last_login: str = ""
    login_delay: int = 0
    told_expiry: str = ""
    told_clock: str = ""
    failing_since: str = ""
    told_failing: str = ""
    untold_badmail: list[str] = []
    top: str = ""
    top_since: str = ""
    capped: str = ""
    capped_since: str = ""
    full: bool = False


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
    """Return what the last login teaches this one. After a week all methods are tried afresh: no lasting downgrade.

    What CAPA answered counts for a day.
    """
    if not _is_within(status.method_since, AFRESH, now):
        return Memory()
    answers = status.answers
    if answers is not None and not _is_within(answers.since, ANSWERS, now):
        answers = None
    return Memory(status.method, status.announcements, status.mute, status.listed, answers)


def _is_within(since: str, span: timedelta, now: datetime) -> bool:
    """Return whether that was less than `span` ago. A time in the future says that a clock is or was wrong."""
    try:
        return timedelta(0) <= now - parse(since) < span
    except ValueError:
        return False


def remember(status: Status, learned: Memory, now: datetime) -> None:
    """Note what a login teaches the next one."""
    if (status.method, status.announcements) != (learned.method, learned.announcements) or memory(
        status, now
    ) == Memory():
        status.method_since = stamp(now)
    status.method, status.announcements = learned.method, learned.announcements
    status.mute, status.listed = learned.mute, learned.listed
    status.answers = learned.answers
    if learned.answers is not None and not learned.answers.since:
        status.answers = replace(learned.answers, since=stamp(now))


def breaks_on(groups: Groups, now: datetime) -> bool:
    """Return whether a server is to get its commands one by one. Once is no more than a line that dropped; after a week it is tried afresh."""
    return groups.count > 1 and _is_within(groups.since, AFRESH, now)


def learned_groups(groups: Groups, *, broke: bool | None, now: datetime) -> Groups:
    """Return what is known after a pass in which a server broke on commands in one write, or did not; None: they were not tried."""
    if broke is None:
        return groups
    return Groups(groups.count + 1, stamp(now)) if broke else NO_GROUPS


def proof(status: Status, now: datetime) -> Proof:
    """Return what is known of the SMTP server's BDAT. After a week it is tried afresh."""
    return status.chunking if _is_within(status.chunking.since, AFRESH, now) else NO_PROOF


def remember_proof(status: Status, found: Proof, now: datetime) -> None:
    """Note what a pass has found out about the SMTP server's BDAT, or still believes."""
    status.chunking = found if found.since or found == NO_PROOF else replace(found, since=stamp(now))


def top_trouble(status: Status, now: datetime) -> str:
    """Return what is wrong with the server's TOP as far as is known, "" for nothing. After a week it is tried afresh."""
    return status.top if _is_within(status.top_since, AFRESH, now) else ""


def remember_top(status: Status, trouble: str, now: datetime) -> None:
    """Note what a pass has found out about the server's TOP."""
    if not trouble:
        status.top = status.top_since = ""
    elif trouble != top_trouble(status, now):
        status.top, status.top_since = trouble, stamp(now)


def capped(status: Status, now: datetime) -> str:
    """Return what another login right after a session has found lately, "" if nothing is known. After a week it is forgotten.

    "yes": mail that had not been listed; "no": none; "delayed": the server lets nobody in so soon.
    """
    return status.capped if _is_within(status.capped_since, AFRESH, now) else ""


def remember_capped(status: Status, found: str, now: datetime) -> None:
    """Note what another login has found. That there was nothing more this time does not undo that there was some before."""
    if found == "no" and capped(status, now) == "yes":
        return
    status.capped, status.capped_since = found, stamp(now)
