"""What is done about a listing that does not fit what is known: mail that is back, mail under new UIDLs, another mailbox."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

from poprep_cli.engine.clock import stamp
from poprep_cli.engine.state import Entry, named, packed, uidl_keys
from poprep_cli.engine.survey import Survey, note_missing, survey
from poprep_cli.engine.visit import Visit
from poprep_cli.errors import ConnectionFailed, RemoteProtocolError, UidlStorm
from poprep_cli.net.maildrop import Listed, Maildrop
from poprep_cli.protocol.wire import printable

if TYPE_CHECKING:
    from poprep_cli.engine.storm import Recognition, Sight


def reconcile(visit: Visit, maildrop: Maildrop, deadline: float) -> Maildrop:
    """Make the journal fit the listing of `maildrop`. Return the session to go on with: one that broke on TOP is replaced.

    Nothing is asked for after `deadline` (monotonic seconds). Raises UidlStorm if most known mail is missing and it can't
    be told whether it is listed under other UIDLs, ConnectionFailed, RemoteProtocolError, StateError.
    """
    try:
        _reconcile(visit, _Headers(maildrop, deadline), maildrop)
    except (ConnectionFailed, RemoteProtocolError):
        visit.stop.check()
        maildrop = visit.access.arrive_again()
        _reconcile(visit, None, maildrop)
    return maildrop


def meet_again(visit: Visit, maildrop: Maildrop) -> Maildrop:
    """Decide about mail that is listed again after it was away, or may have been, and about nothing else.

    Return the session to go on with, as `reconcile` does. Raises ConnectionFailed, RemoteProtocolError, StateError.
    """
    returned = survey(maildrop.listed, visit.journal.entries).returned
    try:
        _meet_again(visit, _Headers(maildrop, float("inf")), returned)
    except (ConnectionFailed, RemoteProtocolError):
        visit.stop.check()
        maildrop = visit.access.arrive_again()
    if not visit.surroundings.dry_run:
        visit.journal.flush()
    return maildrop


class _Headers:
    """The fingerprints of listed messages, by TOP."""

    def __init__(self, maildrop: Maildrop, deadline: float) -> None:
        self._maildrop = maildrop
        self._deadline = deadline

    def sights(self, messages: Sequence[Listed]) -> Iterator[Sight]:
        """Yield the messages with their fingerprints, until the time is up."""
        from poprep_cli.engine.message import block_fingerprint
        from poprep_cli.engine.storm import Sight

        by_number = {listed.number: listed for listed in messages}
        wanted = takewhile(lambda _: time.monotonic() < self._deadline, by_number)
        for number, header in self._maildrop.headers(wanted):
            yield Sight(by_number[number], block_fingerprint(header) if header is not None else "")


def _sights(headers: _Headers | None, messages: Sequence[Listed]) -> Iterable[Sight]:
    from poprep_cli.engine.storm import Sight

    return headers.sights(messages) if headers is not None else (Sight(listed, "") for listed in messages)


def _reconcile(visit: Visit, headers: _Headers | None, maildrop: Maildrop) -> None:
    journal = visit.journal
    found = survey(maildrop.listed, journal.entries)
    _meet_again(visit, headers, found.returned)
    if found.new and (found.missing or found.gone):
        _recognise(visit, headers, found)
    note_missing(journal, found, visit.began, visit.status.last_success, lambda: _stored(visit))
    _settle_mailbox(visit, maildrop)
    if not visit.surroundings.dry_run:
        journal.flush()


def _recognise(visit: Visit, headers: _Headers | None, found: Survey) -> None:
    """Adopt known mail that is listed under new UIDLs, if there is reason to suspect that some is."""
    from poprep_cli.engine.storm import recognise, suspects

    entries = visit.journal.entries
    suspected = suspects(found, entries)
    if suspected:
        sights = _complete(_sights(headers, found.new), found.new)
        recognition = recognise(sights, ((key, entries[key]) for key in suspected))
        _stop_in_doubt(visit, found, recognition)
        adopt(visit, recognition)


def _complete(sights: Iterable[Sight], messages: Sequence[Listed]) -> list[Sight]:
    """Return the sights of all messages: those for which there was no time have no fingerprint."""
    from poprep_cli.engine.storm import Sight

    seen = {sight.listed.number: sight for sight in sights}
    return [seen.get(listed.number) or Sight(listed, "") for listed in messages]


# ---------------------------------------------------------------------- mail that is back


def _meet_again(visit: Visit, headers: _Headers | None, returned: Sequence[Listed]) -> None:
    """Decide about messages that were missing for a while and are listed again: the same, or other mail.

    What can't be decided keeps its `gone`: it is fetched again and compared, and never deleted before.
    """
    entries = visit.journal.entries
    to_compare = []
    for listed in returned:
        entry = entries[listed.uidl]
        if entry.status == "seen":
            del entries[listed.uidl]  # its days count anew
        elif entry.status in ("sending", "oversize", "deleted"):
            visit.journal.update(listed.uidl, gone="")
        elif entry.fingerprint:
            to_compare.append(listed)
        elif entry.status == "ignored":
            _compare_size(visit, listed, entry)
    for sight in _sights(headers, to_compare) if to_compare else ():
        _compare(visit, sight, entries[sight.listed.uidl])


def _compare(visit: Visit, sight: Sight, entry: Entry) -> None:
    if sight.fingerprint == entry.fingerprint:
        visit.journal.update(sight.listed.uidl, gone="")
    elif sight.fingerprint:
        _take_for_new(visit, sight.listed, entry)
    elif entry.status == "ignored":
        _compare_size(visit, sight.listed, entry)


def _compare_size(visit: Visit, listed: Listed, entry: Entry) -> None:
    """Decide about an ignored message by its size alone: fetched again it would be what nobody wants."""
    if entry.octets in (0, listed.size):
        visit.journal.update(listed.uidl, gone="")
    else:
        _take_for_new(visit, listed, entry)


def _take_for_new(visit: Visit, listed: Listed, entry: Entry) -> None:
    if entry.status == "held":
        return  # one key is one message: the one that waits in the spool comes first
    visit.report.say(1, f"{named(listed.uidl)} is listed again, but is other mail: it is new")
    del visit.journal.entries[listed.uidl]


# ---------------------------------------------------------------------- mail under new UIDLs


def adopt(visit: Visit, found: Recognition) -> None:
    """Move what is known of each recognised message to its new UIDL, at once for all: the journal is replaced by rename.

    Slips in the stores come first: a crash in between leaves them with the UIDL under which the message is listed.
    """
    if not found.adopted:
        return
    _move(visit, found)
    if not visit.surroundings.dry_run:
        visit.journal.compact(force=True)
    count = len(found.adopted)
    visit.report.advice.append(
        f"{count} message{' was' if count == 1 else 's were'} recognised under new UIDLs: the server was probably migrated"
    )


def _move(visit: Visit, found: Recognition) -> None:
    entries = visit.journal.entries
    if not visit.surroundings.dry_run:
        _rename_slips(visit, found)
    for key, listed in found.adopted.items():
        entry = entries.pop(key)
        entry.gone = ""
        entries[listed.uidl] = entry


def _rename_slips(visit: Visit, found: Recognition) -> None:
    for store in (visit.held, visit.badmail):
        for item in store.items():
            listed = found.adopted.get(item.slip.message_uidl)
            if listed is None:
                continue
            item.slip.uidl, item.slip.uidl_b64, item.slip.digest = None, None, ""
            for name, value in uidl_keys(listed.uidl).items():
                setattr(item.slip, name, value)
            store.update(item)


def _stop_in_doubt(visit: Visit, found: Survey, recognition: Recognition) -> None:
    from poprep_cli.engine.storm import doubtful

    doubt = doubtful(recognition)
    if not doubt:
        return
    name = visit.connector.name
    whose = visit.journal.mailbox
    other = "" if whose == visit.mailbox else f"; its state is that of {printable(whose)}, another mailbox"
    missing = sum(not entry.gone for entry in recognition.left) + len(recognition.adopted)
    raise UidlStorm(
        f"{len(found.new)} messages are new by their UIDLs while {missing} known ones are missing, as after a migration of the "
        f"server, and {doubt} of them can't be told from known mail{other}; nothing was sent",
        hint=f"if it is known mail: poprep state adopt {name} (it is then neither forwarded nor deleted); "
        f"if all of it is new: poprep state forget {name} --all",
    )


def _stored(visit: Visit) -> set[bytes]:
    return {item.slip.message_uidl for store in (visit.held, visit.badmail) for item in store.items()}


# ---------------------------------------------------------------------- another mailbox


def _settle_mailbox(visit: Visit, maildrop: Maildrop) -> None:
    """Note whose state it is from now on, once nothing is in doubt."""
    journal = visit.journal
    if journal.mailbox == visit.mailbox or not maildrop.listed or not journal.entries:
        return
    visit.report.advice.append(f"the state of {printable(journal.mailbox)} is that of {visit.mailbox} from now on")
    journal.header["mailbox"] = visit.mailbox
    if not visit.surroundings.dry_run:
        journal.compact(force=True)


def adopt_all(visit: Visit) -> tuple[int, int]:
    """Log in, adopt what is recognised, record what else is unknown as ignored, and QUIT. Return how many of each.

    Raises what logging in and listing raise, and StateError.
    """
    maildrop = visit.access.arrive()
    try:
        return _adopt_all(visit, _Headers(maildrop, float("inf")), maildrop)
    except (ConnectionFailed, RemoteProtocolError):
        visit.stop.check()
        return _adopt_all(visit, None, visit.access.arrive_again())


def _adopt_all(visit: Visit, headers: _Headers | None, maildrop: Maildrop) -> tuple[int, int]:
    from poprep_cli.engine.storm import recognise

    journal = visit.journal
    found = survey(maildrop.listed, journal.entries)
    visit.report.listed = len(maildrop.listed)
    _meet_again(visit, headers, found.returned)
    sights = _complete(_sights(headers, found.new), found.new)
    known = [(key, journal.entries[key]) for key in (*found.missing, *found.gone)]
    recognition = recognise(sights, ((key, entry) for key, entry in known if entry.status not in ("seen", "oversize")))
    _take_over(visit, found, recognition)
    maildrop.quit()
    return len(recognition.adopted), len(recognition.strange)


def _take_over(visit: Visit, found: Survey, recognition: Recognition) -> None:
    journal = visit.journal
    _move(visit, recognition)
    now = stamp(visit.began)
    for sight in recognition.strange:
        journal.entries[sight.listed.uidl] = Entry(now, "ignored", now, sight.listed.size, packed(sight.fingerprint))
    note_missing(journal, found, visit.began, visit.status.last_success, lambda: _stored(visit))
    journal.header["mailbox"] = visit.mailbox
    journal.compact(force=True)
