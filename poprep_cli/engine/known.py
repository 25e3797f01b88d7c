"""Whether a message that was read is mail that is known by its key: deleted in vain, back again, or read to see what it is."""

from __future__ import annotations

from poprep_cli.engine import clock
from poprep_cli.engine.message import Message
from poprep_cli.engine.report import ConnectorReport
from poprep_cli.engine.state import Entry, Journal

_SETTLED = frozenset(("delivered", "discarded", "held", "badmail", "ignored"))


def is_known(journal: Journal, message: Message) -> bool:
    """Whether it is mail that is done with or waits here, and not other mail under the same UIDL."""
    entry = journal.entries.get(message.uidl)
    if entry is None:
        return False
    if _had_to_be_read(message, entry):
        return True
    if not _is_in_question(entry) or not entry.fingerprint:
        return False
    return (message.octets, message.fingerprint) == (entry.octets, entry.fingerprint)


def met_before(journal: Journal, report: ConnectorReport, message: Message) -> bool:
    """Note that a message is known, drop its content and return true; or forget what is known of its UIDL by mistake."""
    entry = journal.entries.get(message.uidl)
    if entry is None:
        return False
    if not is_known(journal, message):
        if _is_in_question(entry):
            del journal.entries[message.uidl]  # the UIDL is used again, for other mail
        return False
    if _had_to_be_read(message, entry):
        report.new = max(0, report.new - 1)
        if entry.short and (message.octets, message.fingerprint) == (entry.octets, entry.fingerprint):
            journal.update(message.uidl, short=False)  # a second read agrees
    elif entry.status == "deleted":
        journal.record(message.uidl, "delivered", clock.stamp(clock.now()), gone="")
        why = "the server lists it still, although it confirmed its deletion"
        report.note(message.uidl, "not sent again", why)
    else:
        journal.update(message.uidl, gone="")
        report.note(message.uidl, "not sent again", "it is listed again after it was missing, and is the same mail")
    message.discard()
    return True


def _had_to_be_read(message: Message, entry: Entry) -> bool:
    return message.late and entry.status in _SETTLED


def _is_in_question(entry: Entry) -> bool:
    """Whether the UIDL alone does not say that it is the same mail: that was deleted, or missing for a while."""
    return entry.status == "deleted" or bool(entry.gone)
