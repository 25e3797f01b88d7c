"""The storm guard: whether new UIDLs are new mail, or known mail under other names. Pure: no I/O, no clock.

A server that was migrated names all its mail anew. Fingerprints tell; where they can't, the number of messages and their
sizes say whether it is safe to go on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from poprep_cli.engine.state import Entry
from poprep_cli.engine.survey import KEPT, Survey, was_missed
from poprep_cli.net.maildrop import Listed

MANY = 10  # so many possible repeats are too many to be risked
ALIKE = 3  # so many sizes that agree are no accident, if they are half of them
BURST = 10  # so many new messages at once are compared with what has been gone for days, too
SIZE_SLACK = 2  # octets: some servers count the last line end, others don't


class Sight(msgspec.Struct, frozen=True):
    """A new message and its fingerprint, "" if there is none to be had."""

    listed: Listed
    fingerprint: str


class Recognition(msgspec.Struct, frozen=True):
    """`adopted` says which known key a listed message had; `strange` was not recognised; `left` are entries without a message."""

    adopted: Mapping[bytes, Listed]
    strange: tuple[Sight, ...]
    left: tuple[Entry, ...]


def suspects(found: Survey, entries: Mapping[bytes, Entry]) -> tuple[bytes, ...]:
    """Return the keys of known messages that may be what is new; () if there is no reason to suspect it.

    There is one if as much of what was settled is missing as is still listed, or if many messages come at once where many
    have gone: a migration may take days.
    """
    if not found.new:
        return ()
    missing = tuple(key for key in found.missing if entries[key].status in KEPT)
    gone = tuple(key for key in found.gone if entries[key].status in KEPT and entries[key].fingerprint)
    if (missing and len(missing) >= found.kept) or (len(found.new) >= BURST and len(gone) >= BURST):
        return missing + gone
    return ()


def recognise(sights: Iterable[Sight], known: Iterable[tuple[bytes, Entry]]) -> Recognition:
    """Match by fingerprint; each known message is one new one at most. Where several could be it, the size decides."""
    waiting: dict[str, list[tuple[bytes, Entry]]] = {}
    nameless: list[Entry] = []
    for key, entry in known:
        if entry.fingerprint:
            waiting.setdefault(entry.fingerprint, []).append((key, entry))
        else:
            nameless.append(entry)
    adopted: dict[bytes, Listed] = {}
    strange: list[Sight] = []
    for sight in sights:
        alike = waiting.get(sight.fingerprint, []) if sight.fingerprint else []
        if not alike:
            strange.append(sight)
            continue
        place = next((at for at, (_, entry) in enumerate(alike) if entry.octets == sight.listed.size), 0)
        adopted[alike.pop(place)[0]] = sight.listed
    left = (entry for entries in waiting.values() for _, entry in entries)
    return Recognition(adopted, tuple(strange), (*nameless, *left))


def doubtful(found: Recognition) -> int:
    """Return how many of the strange messages may be known ones, if those are too many to go on; else 0.

    A fingerprint that nobody has is new mail, unless entries without a fingerprint are left; a message without one may be
    any entry's.
    """
    # What went one by one, days ago, is no sign of a migration.
    left = [entry for entry in found.left if not was_missed(entry)]
    nameless = [entry for entry in left if not entry.fingerprint]
    named = [entry for entry in left if entry.fingerprint]
    clear = [sight.listed.size for sight in found.strange if sight.fingerprint]
    dark = [sight.listed.size for sight in found.strange if not sight.fingerprint]
    possible = min(len(dark) + min(len(clear), len(nameless)), len(left))
    if possible >= MANY:
        return possible
    sizes = Counter(entry.octets for entry in nameless if entry.octets)
    alike = _alike(clear, sizes)
    sizes.update(entry.octets for entry in named if entry.octets)
    alike += _alike(dark, sizes)
    return alike if alike >= ALIKE and 2 * alike >= len(clear) + len(dark) else 0


def _alike(sizes: Sequence[int], among: Counter[int]) -> int:
    """Return how many sizes agree with one of `among`, which is used up."""
    count = 0
    for size in sizes:
        near = next((one for one in range(size - SIZE_SLACK, size + SIZE_SLACK + 1) if among[one] > 0), None)
        if near is not None:
            among[near] -= 1
            count += 1
    return count
