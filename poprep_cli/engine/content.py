"""Content that is not as SMTP wants it: what is kept back, what is sent all the same, and what is said of it.

Canonical mail costs nothing here and passes untouched, so that signatures in it stay valid. What was noticed while a
message came in (`CanonicalCheck`) is all that is looked at, and its header.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import NamedTuple

from poprep_cli.config.model import Delivery
from poprep_cli.engine.envelope import Trace
from poprep_cli.engine.message import Message


class Objection(NamedTuple):
    """Why a message is not to be sent. A `loop` would go on if somebody had it sent again to the same recipients."""

    why: str
    loop: bool = False


def objection(message: Message, settings: Delivery, trace: Trace) -> Objection | None:
    """Return why a message is not to be sent: it goes in a loop, or the user wants none of its kind. None if it may be."""
    if trace.is_loop(message):
        return Objection("a mail loop: it has been through this connector before", loop=True)
    most = settings.max_hops
    if message.head.lower().count(b"received") > most and (count := hops(message)) > most:
        why = f"a mail loop: it has {count} Received fields, and delivery.max_hops is {most}"
        return Objection(why, loop=True)
    if not message.canonical and settings.bare_newlines == "badmail":
        return Objection('it has stray CRs or LFs, and delivery.bare_newlines is "badmail"')
    if message.long_lines and settings.long_lines == "badmail":
        return Objection('it has lines of more than 998 octets, and delivery.long_lines is "badmail"')
    if message.nul and settings.nul == "badmail":
        return Objection('it has NULs, and delivery.nul is "badmail"')
    return None


def hops(message: Message) -> int:
    """Return how many `Received` fields are in the header, in the first 256 KiB of it (RFC 5321 6.3)."""
    return sum(name == b"received" for name, _ in message.fields)


def remarks(message: Message, extensions: Container[str]) -> Iterator[str]:
    """Yield what is odd with a message that a server with these extensions has accepted."""
    if not message.canonical:
        yield "with stray CRs or LFs, each sent as a line end (delivery.bare_newlines)"
    if message.long_lines:
        yield "with lines of more than 998 octets, sent as they are (delivery.long_lines)"
    if message.nul:
        yield f"with NULs, {'which were removed' if message.without_nul else 'sent as they are'} (delivery.nul)"
    if message.eight_bit and "8BITMIME" not in extensions:
        yield "with octets over 127, sent as they are to a server that does not announce 8BITMIME"
    if not message.head.isascii() and "SMTPUTF8" not in extensions:
        yield "with a header that is not ASCII, sent as it is to a server that does not announce SMTPUTF8"
