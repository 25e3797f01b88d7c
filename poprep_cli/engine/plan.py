"""The plan of a pass: what to fetch, read again, delete and leave, each with its reason. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from poprep_cli.config.model import Limits, ServerCopy
from poprep_cli.engine.clock import parse
from poprep_cli.engine.state import Entry
from poprep_cli.net.maildrop import Listed


@dataclass(frozen=True, slots=True)
class Step:
    """One message and what is done with it. `in_doubt` says that an earlier pass may have sent it already."""

    listed: Listed
    reason: str
    in_doubt: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What a pass will do. `verify` are delivered messages that came short: only a second read allows their deletion."""

    fetch: tuple[Step, ...]
    delete: tuple[Step, ...]
    verify: tuple[Step, ...]
    oversize: tuple[Step, ...]
    unusable: tuple[Step, ...]


def plan(
    listing: Sequence[Listed],
    entries: Mapping[bytes, Entry],
    held: Collection[bytes],
    server_copy: ServerCopy,
    limits: Limits,
    now: datetime,
) -> Plan:
    """Return what is to be done about `listing`, given what is known. `held` are UIDLs that wait in the spool."""
    fetch: list[Step] = []
    delete: list[Step] = []
    verify: list[Step] = []
    oversize: list[Step] = []
    unusable: list[Step] = []
    seen: set[bytes] = set()
    for listed in listing:
        if not listed.uidl or listed.uidl in seen:
            unusable.append(
                Step(listed, "its UIDL is blank" if not listed.uidl else "another message has the same UIDL")
            )
            continue
        seen.add(listed.uidl)
        entry = entries.get(listed.uidl)
        if entry is None or entry.status in ("seen", "sending", "oversize", "deleted"):
            if 0 < limits.max_message_size < listed.size:
                oversize.append(Step(listed, f"{listed.size:,} octets, more than limits.max_message_size"))
            elif listed.uidl not in held:
                in_doubt = entry is not None and entry.status == "sending"
                again = entry is not None and entry.status == "deleted"
                reason = "in doubt" if in_doubt else "deleted, but listed again" if again else "new"
                fetch.append(Step(listed, reason, in_doubt))
        elif entry.status in ("delivered", "discarded"):
            reason = deletion_due(entry, server_copy, now)
            if reason:
                (verify if entry.short else delete).append(Step(listed, reason))
    return Plan(tuple(_bounded(fetch, limits)), tuple(delete), tuple(verify), tuple(oversize), tuple(unusable))


def deletion_due(entry: Entry, server_copy: ServerCopy, now: datetime) -> str:
    """Return why a delivered message is to be deleted from the server now, or "" if it is not."""
    if not server_copy.leave_copy:
        return "delivered (leave_copy = false)"
    if server_copy.remove_after_delivered:
        return "delivered (remove_after_delivered)"
    if server_copy.remove_after_days is None:
        return ""
    try:
        first_seen = parse(entry.first_seen)
    except ValueError:
        return ""
    age = now - first_seen
    if age < timedelta(days=server_copy.remove_after_days):
        return ""
    return f"first seen {age.days} days ago (remove_after_days = {server_copy.remove_after_days})"


def _bounded(fetch: list[Step], limits: Limits) -> list[Step]:
    """Return what one pass may fetch: at least one message, so that a limit never stops progress."""
    if limits.max_messages:
        fetch = fetch[: limits.max_messages]
    if not limits.max_octets:
        return fetch
    octets = 0
    for position, step in enumerate(fetch):
        octets += step.listed.size
        if position and octets > limits.max_octets:
            return fetch[:position]
    return fetch
