"""The plan of a pass: what to fetch, read again, delete and leave, each with its reason. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

import msgspec

from poprep_cli.config.model import Limits, ServerCopy
from poprep_cli.engine.retention import DONE_WITH, Order, deletion_due
from poprep_cli.engine.state import Entry, is_late
from poprep_cli.net.maildrop import Listed


class Step(msgspec.Struct, frozen=True):
    """One message and what is done with it. `in_doubt` says that an earlier pass may have sent it already.

    `first_seen` and `status` are those of what is to be deleted.
    """

    listed: Listed
    reason: str
    in_doubt: bool = False
    first_seen: str = ""
    status: str = ""


class Plan(msgspec.Struct, frozen=True):
    """What a pass will do. `verify` are delivered messages that came short: only a second read allows their deletion.

    `kept` is how many are done with and still on the server, those to be deleted included.
    """

    fetch: tuple[Step, ...]
    delete: tuple[Step, ...]
    verify: tuple[Step, ...]
    oversize: tuple[Step, ...]
    kept: int = 0


def plan(
    listing: Sequence[Listed],
    entries: Mapping[bytes, Entry],
    held: Collection[bytes],
    server_copy: ServerCopy | Order,
    limits: Limits,
    now: datetime,
) -> Plan:
    """Return what is to be done about `listing`, given what is known. `held` are UIDLs that wait in the spool.

    The UIDLs are keys as `Identity` gives them: no two are the same.
    """
    fetch: list[Step] = []
    delete: list[Step] = []
    verify: list[Step] = []
    oversize: list[Step] = []
    late: list[Step] = []
    kept = 0
    keeps = _keeps(server_copy)
    for listed in listing:
        entry = entries.get(listed.uidl)
        if entry is None or entry.status in ("seen", "sending", "oversize", "deleted"):
            if 0 < limits.max_message_size < listed.size:
                oversize.append(Step(listed, f"{listed.size:,} octets, more than limits.max_message_size"))
            elif is_late(listed.uidl):
                late.append(Step(listed, "only reading it tells whether it is new"))
            elif listed.uidl not in held:
                in_doubt = entry is not None and entry.status == "sending"
                again = entry is not None and entry.status == "deleted"
                reason = "in doubt" if in_doubt else "deleted, but listed again" if again else "new"
                fetch.append(Step(listed, reason, in_doubt))
        elif entry.gone:  # it was away, and nobody knows whether it is the same: never deleted, and read once more
            settled = entry.status in ("delivered", "discarded", "badmail")
            too_large = 0 < limits.max_message_size < listed.size
            if settled and not too_large and listed.uidl not in held:
                fetch.append(Step(listed, "listed again, perhaps for other mail"))
        else:
            kept += entry.status in DONE_WITH
            if keeps:
                continue
            reason = deletion_due(entry, server_copy, now)
            if reason:
                step = Step(listed, reason, first_seen=entry.first_seen, status=entry.status)
                (verify if entry.short else delete).append(step)
    # Where they stay, those that are read at every pass must not stand in the way of those after them.
    fetch = _bounded(fetch, limits) + late if _stays(server_copy) else _bounded(fetch + late, limits)
    return Plan(tuple(fetch), tuple(delete), tuple(verify), tuple(oversize), kept)


def _stays(server_copy: ServerCopy | Order) -> bool:
    return isinstance(server_copy, ServerCopy) and server_copy.leave_copy and not server_copy.remove_after_delivered


def _keeps(server_copy: ServerCopy | Order) -> bool:
    """Return whether nothing is ever deleted by this rule, however old: then nobody has to be asked message by message."""
    return _stays(server_copy) and isinstance(server_copy, ServerCopy) and server_copy.remove_after_days is None


def _bounded(fetch: list[Step], limits: Limits) -> list[Step]:
    """Return what one pass may fetch: at least one message, so that a limit never stops progress."""
    if limits.small_first:
        fetch = sorted(fetch, key=lambda step: step.listed.size)
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
