"""The memo of a quiet pass over a large mailbox: while nothing differs from then, nobody has to look at every message again.

To read what is known of 200,000 messages and to compare it with their listing takes longer than the listing. What a pass decides
follows from the listing, the journal, the rules and the time alone, so that of the same listing under the same journal and
rules the same follows, until the first message is due.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from poprep_cli.config.model import Connector
from poprep_cli.engine.clock import parse, stamp
from poprep_cli.engine.retention import DONE_WITH, guarded_days
from poprep_cli.engine.state import Entry

if TYPE_CHECKING:
    from hashlib import blake2b

LARGE = 1 << 20  # octets of a journal, of some 6,000 messages: reading it takes a few milliseconds
LIFE = timedelta(days=1)  # what is forgotten, told or tried afresh by time alone is so at most this much later
_OCTETS = 16  # of a digest: nobody gains anything by two listings with the same one


class Memo(msgspec.Struct, frozen=True, omit_defaults=True):
    """Nothing was to be done about a listing of so many messages, `since` then, and nothing will be `until` then (RFC 3339).

    `listing` is the digest of the rules and the answers to UIDL and LIST, `journal` is the `signature` of the file.
    """

    listing: str = ""
    journal: str = ""
    since: str = ""
    until: str = ""
    listed: int = 0


NO_MEMO = Memo()


def signature(journal: Path) -> str:
    """Return what changes whenever the file does, "" for a small one or none: of those there is no memo."""
    try:
        found = journal.stat()
    except OSError:
        return ""
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ino}" if found.st_size >= LARGE else ""


def recall(memo: Memo, journal: str, now: datetime, latest: str) -> str:
    """Return the memo's listing if it is of this journal and this time, else "". A clock that went back is for a whole pass to judge."""
    present = stamp(now)
    holds = memo.journal == journal != "" and memo.since <= present < memo.until and latest <= present
    return memo.listing if holds else ""


def digest_of_rules(connector: Connector) -> blake2b:
    """Return a digest of all that decides what is done about a listing, to be continued with the listing."""
    from hashlib import blake2b

    from poprep_cli import __version__

    pop3 = connector.pop3
    rules = (
        __version__,
        str(pop3.address),
        pop3.user,
        pop3.use_top,
        connector.server_copy,
        connector.limits,
        connector.ignore_existing,
    )
    return blake2b(msgspec.json.encode(rules), digest_size=_OCTETS)


def lasts_until(entries: Mapping[bytes, Entry], connector: Connector, now: datetime) -> str:
    """Return until when nothing becomes due of what is known, a day at most (RFC 3339); "" if that can't be told.

    What is due already, and was not deleted by a pass with nothing to do, is not listed any more.
    """
    until = now + LIFE
    days = guarded_days(connector.server_copy)
    if days is not None:
        dates = {entry.first_seen for entry in entries.values() if entry.status in DONE_WITH}
        try:
            ends = [parse(date) + timedelta(days=days) for date in dates]
            until = min([until, *(end for end in ends if end > now)])
        except (ValueError, OverflowError):
            return ""
    return stamp(until)
