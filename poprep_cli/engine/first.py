"""What is known of a mailbox from the start, or anew: `ignore_existing`, `--mark-seen`, and `--rescan`.

Each changes what is known of the whole listing, and does it at once: the journal is replaced by rename, so that after a crash
all of it is known or nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from msgspec.structs import replace

from poprep_cli.config.model import Connector
from poprep_cli.config.weaknesses import weaknesses
from poprep_cli.engine import clock, files
from poprep_cli.engine.message import Message, receive
from poprep_cli.engine.plan import Plan
from poprep_cli.engine.report import ConnectorReport
from poprep_cli.engine.state import DIGEST, Entry, is_late, packed
from poprep_cli.engine.visit import Surroundings, Visit, told
from poprep_cli.net.dialogue import VERBOSE
from poprep_cli.net.maildrop import Listed, Maildrop
from poprep_cli.net.stop import Stop

SINCE = "since"  # the key in the journal's first line: when the first contact was completed
_UNDELIVERED = frozenset(("seen", "oversize"))


def is_first_contact(visit: Visit) -> bool:
    """Return whether nothing is known of the mailbox: no pass has listed it, and no mail of it is kept here."""
    journal = visit.journal
    if SINCE in journal.header or journal.lines or journal.entries:
        return False
    return not visit.held.items() and not visit.badmail.items()


def begin(visit: Visit, maildrop: Maildrop, held: Collection[bytes]) -> None:
    """Do to the journal, before anything is decided, what the configuration and the command line ask for.

    `held` are the keys of mail in the spool. With --dry-run nothing is written. Raises ConnectionFailed,
    RemoteProtocolError, StateError; then it is all to be done by the next pass.
    """
    if visit.surroundings.rescan:
        _rescan(visit, maildrop, held)
    elif visit.connector.ignore_existing and is_first_contact(visit):
        count = _ignore(visit, maildrop)
        if count:
            visit.report.advice.append(_existing(count, dry_run=visit.surroundings.dry_run))


def mark_seen(connector: Connector, surroundings: Surroundings, report: ConnectorReport, stop: Stop) -> Plan | None:
    """Log in and record as `ignored` all that is listed and was not delivered; move nothing. A `Work` for a run."""
    with told(report, stop):
        visit = Visit(connector, surroundings, report, stop)
        report.advice.extend(weaknesses(connector))
        with visit:
            maildrop = visit.access.arrive()
            report.listed = len(maildrop.listed)
            report.say(VERBOSE, f"{maildrop.server}: logged in by {maildrop.method}, {report.listed} listed")
            count = _ignore(visit, maildrop)
            maildrop.quit()
            would = "would be" if surroundings.dry_run else "are"
            report.advice.append(
                f"{count} of {report.listed} listed messages {would} marked as seen: they are never forwarded nor deleted"
            )
    return None


def _existing(count: int, *, dry_run: bool) -> str:
    plural, verb = ("", "was") if count == 1 else ("s", "were")
    ignored = "would be" if dry_run else "is" if count == 1 else "are"
    return f"{count} message{plural} {verb} there before and {ignored} ignored (ignore_existing)"


def _ignore(visit: Visit, maildrop: Maildrop) -> int:
    """Record as ignored what is listed and not settled, and that there was a first contact. Return how many they are."""
    journal = visit.journal
    now = clock.stamp(visit.began)
    fresh = dict(_entries(visit, maildrop, now))
    changed = bool(fresh) or SINCE not in journal.header
    journal.entries |= fresh
    journal.header.setdefault(SINCE, now)
    if changed and not visit.surroundings.dry_run:
        journal.compact(force=True)
    return len(fresh)


def _entries(visit: Visit, maildrop: Maildrop, now: str) -> Iterable[tuple[bytes, Entry]]:
    entries = visit.journal.entries
    late = []
    for listed in maildrop.listed:
        known = entries.get(listed.uidl)
        if is_late(listed.uidl):
            late.append(listed)
        elif known is None or known.status in _UNDELIVERED:
            first_seen = known.first_seen if known is not None else now
            yield listed.uidl, Entry(first_seen, "ignored", now, octets=listed.size)
    if late:
        yield from _by_reading(visit, maildrop, late, now)


def _by_reading(visit: Visit, maildrop: Maildrop, late: list[Listed], now: str) -> Iterable[tuple[bytes, Entry]]:
    """Yield what has to be read to be told apart. With --dry-run, under its key for this session."""
    if visit.surroundings.dry_run:  # reading could mark it as read, or worse
        yield from ((listed.uidl, Entry(now, "ignored", now, octets=listed.size)) for listed in late)
        return
    files.make_folder(visit.spool)
    limit = visit.connector.limits.max_message_size
    for listed in late:
        if 0 < limit < listed.size:
            continue  # no pass fetches it
        message = _read(visit, maildrop, listed)
        if message is None:
            continue
        known = visit.journal.entries.get(message.uidl)
        if known is None or known.status in _UNDELIVERED:
            yield message.uidl, Entry(now, "ignored", now, message.octets, packed(message.fingerprint))


def _read(visit: Visit, maildrop: Maildrop, listed: Listed) -> Message | None:
    """Read one message for its key alone, one at a time; None if the server refuses it."""
    for _, reply in maildrop.retrieve([listed], lambda _message, _wait: True):
        if not reply.ok:
            visit.report.deferred += 1
            visit.report.note(listed.uidl, "left on the server", f"RETR was refused: {reply}")
            return None
        message = receive(listed.uidl, maildrop.parts(reply), visit.spool / "first.part")
        try:
            if message.octets < listed.size:
                maildrop.confirm(listed)
            visit.access.identity.settle(maildrop, listed, message)
        finally:
            message.discard()
        return message
    return None


def _rescan(visit: Visit, maildrop: Maildrop, held: Collection[bytes]) -> None:
    """Make all that is listed new again, but for what waits in the spool. What is in doubt stays so, it is sent anyway."""
    journal = visit.journal
    listed = {one.uidl for one in maildrop.listed}
    late = {one.partition(DIGEST)[0] for one in listed if is_late(one)}
    now = clock.stamp(visit.began)
    again = {
        key: replace(entry, status="seen", at=now, short=False, gone="")
        for key, entry in journal.entries.items()
        if (key in listed or key.partition(DIGEST)[0] in late)
        and key not in held
        and entry.status not in ("seen", "sending", "oversize")
    }
    journal.entries |= again
    if again and not visit.surroundings.dry_run:
        journal.compact(force=True)
