"""What a listing says, compared with what is known: what is new, missing, back again, or long gone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta

import msgspec

from poprep_cli.engine.clock import parse, stamp
from poprep_cli.engine.retention import DAWN
from poprep_cli.engine.state import DIGEST, LATE, Entry, Journal
from poprep_cli.net.maildrop import Listed

GRACE = timedelta(days=30)  # that a message which vanished by itself is remembered
KEPT = frozenset(("delivered", "discarded", "ignored", "badmail", "held"))  # what a listing should go on showing


class Survey(msgspec.Struct, frozen=True):
    """`new` and `returned` are listed; `missing` and `gone` are keys of what is not, noted for the first time and before.

    `kept` counts what is known, settled, and listed as ever, if anything is missing or gone; else it is 0.
    """

    new: tuple[Listed, ...] = ()
    returned: tuple[Listed, ...] = ()
    missing: tuple[bytes, ...] = ()
    gone: tuple[bytes, ...] = ()
    kept: int = 0


def survey(listing: Sequence[Listed], entries: Mapping[bytes, Entry]) -> Survey:
    """Compare. From an empty listing nothing follows: servers have shown one in their bad hours.

    What has a late key (its message has to be read first) is nobody's yet: whatever has its UIDL may be it.
    """
    if len(listing) == len(entries) and {one.uidl for one in listing} == entries.keys():  # a quiet pass: as ever
        return Survey(returned=tuple(one for one in listing if entries[one.uidl].gone))
    listed = {one.uidl: one for one in reversed(listing)}  # of several with one key the first
    listed.pop(b"", None)
    late = {key for key in listed if LATE in key}
    for key in late:
        del listed[key]
    if not listed and not late:
        return Survey()
    returned = tuple(listed[key] for key, entry in entries.items() if entry.gone and key in listed)
    new = tuple(one for one in listing if one.uidl not in entries and listed.get(one.uidl) is one)
    covered = {key.partition(DIGEST)[0] for key in late}
    absent = [
        key
        for key, entry in entries.items()
        if key not in listed and entry.status != "deleted" and not (covered and key.partition(DIGEST)[0] in covered)
    ]
    return Survey(
        new,
        returned,
        tuple(key for key in absent if not was_missed(entries[key])),
        tuple(key for key in absent if was_missed(entries[key])),
        sum(entry.status in KEPT and not entry.gone and key in listed for key, entry in entries.items())
        if absent
        else 0,
    )


def was_missed(entry: Entry) -> bool:
    """Return whether a listing was without it before.

    A `gone` that is its `at` says no more than that it may have been deleted, by a QUIT whose answer was never seen.
    """
    return entry.gone not in ("", entry.at)


def note_missing(
    journal: Journal,
    found: Survey,
    now: datetime,
    before: str,
    waiting: Callable[[], Collection[bytes]],
) -> None:
    """Note in the journal what is missing since when, and forget what has been missing for 30 days.

    `before` is the time of the last pass: a clock that jumps ahead makes nothing forgotten, unless it stays there. `waiting`
    are the keys of mail in the stores, which is not forgotten; it is asked only if need be.
    """
    today = stamp(now)
    for key in (*found.missing, *_wrongly_dated(found.gone, journal.entries, now)):
        if key in journal.entries and journal.entries[key].gone != today:
            journal.update(key, gone=today)
    forgotten = _long_gone(found.gone, journal.entries, now, before)
    if forgotten:
        kept = waiting()
        for key in forgotten:
            if key not in kept:
                journal.forget(key, today)


def _wrongly_dated(gone: Iterable[bytes], entries: Mapping[bytes, Entry], now: datetime) -> list[bytes]:
    """Return what is missing since a time that is none: to come, or of a clock that had not been set."""
    found = []
    for key in gone:
        since = _time(entries[key].gone) if key in entries else now
        if since is None or since > now or since < DAWN <= now:
            found.append(key)
    return found


def _long_gone(gone: Iterable[bytes], entries: Mapping[bytes, Entry], now: datetime, before: str) -> list[bytes]:
    last = _time(before)
    if last is None:
        return []
    until = min(now, last) - GRACE
    found = []
    for key in gone:
        since = _time(entries[key].gone) if key in entries else None
        if since is not None and since <= until:
            found.append(key)
    return found


def _time(text: str) -> datetime | None:
    try:
        return parse(text)
    except ValueError:
        return None
