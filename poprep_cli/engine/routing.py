"""Routing: who gets a message, from the rules of the connector and the header of the message. Pure, no I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

from poprep_cli.config.model import Routing
from poprep_cli.engine.addresses import a_label, addresses, local_part

Action = Literal["deliver", "badmail", "discard", "hold"]

MAX_RECIPIENTS = 1_000  # above that nobody was meant: the message goes to badmail
MAX_FIELD_OCTETS = 1 << 18  # of all the fields that are read; more goes to badmail, as recipients could be missed
MAX_ADDRESS = 254  # characters, as for the addresses in the configuration

_END = re.compile(rb"(?:\A|\n)\r?\n")
_TRUSTED = re.compile(r"(?P<name>[!-9;-~]+)(?::(?P<number>[1-9][0-9]{0,3}))?")
_WRITTEN_BY_THE_SENDER = frozenset({"to", "cc", "bcc", "resent-to", "resent-cc", "resent-bcc", "apparently-to"})


@dataclass(frozen=True, slots=True)
class Routed:
    """What becomes of a message. `recipients` is not empty exactly if `action` is "deliver".

    `matched` says that the header named them; `why` says for people how it came about, without a word of the message.
    """

    recipients: tuple[str, ...]
    matched: bool
    action: Action
    why: str


def trusted(text: str) -> tuple[str, int]:
    """Return the field name and the number that `trusted_header` means; raises ValueError if it is none."""
    found = _TRUSTED.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} is not a header name with a number, such as Delivered-To:1")
    return found["name"], int(found["number"] or 1)


def route(rules: Routing, header: bytes) -> Routed:
    """Return who gets the message whose raw octets begin with `header`; what follows the first empty line is not read.

    Recipients are unique without regard to case, in the order and the spelling of their first mention. Each one found in
    the header is a safe forward path in the target domain. Never raises for any header.
    """
    if not rules.source_domain:
        return _deliver(rules.send_to, matched=False, why="routing.send_to gets all mail")
    where = rules.trusted_header or "the header"
    values = list(_values(rules, header))
    if not values and rules.trusted_header:
        return _no_match(rules, f"there is no {where}")
    if sum(len(value) for _, value in values) > MAX_FIELD_OCTETS:
        return Routed((), False, "badmail", f"its recipients take more than {MAX_FIELD_OCTETS:,} octets of the header")
    source = a_label(rules.source_domain)
    target = _target(rules)
    found: dict[str, str] = {}
    unusable = 0
    for name, value in values:
        for spec in addresses(value):
            if a_label(spec.domain) != source:
                continue
            local = local_part(_without_prefix(rules, name, spec.local))
            if local is None or len(local) + 1 + len(target) > MAX_ADDRESS:
                unusable += 1
                continue
            found.setdefault(local.lower(), f"{local}@{target}")
            if len(found) > MAX_RECIPIENTS:
                return Routed((), False, "badmail", f"its header names more than {MAX_RECIPIENTS:,} recipients")
    if found:
        return _deliver(found.values(), matched=True, why=f"named in {where} within {rules.source_domain}")
    if unusable:
        return _no_match(rules, f"no safe recipient within {rules.source_domain} in {where}, {unusable} unsafe")
    return _no_match(rules, f"no recipient within {rules.source_domain} in {where}")


def _deliver(recipients: Iterable[str], *, matched: bool, why: str) -> Routed:
    unique: dict[str, str] = {}
    for recipient in recipients:
        unique.setdefault(recipient.lower(), recipient)
    return Routed(tuple(unique.values()), matched, "deliver", why)


def _no_match(rules: Routing, why: str) -> Routed:
    if rules.no_match != "send_to":
        return Routed((), False, rules.no_match, why)
    return _deliver(rules.send_to, matched=False, why=f"{why}: it goes to routing.send_to")


def _target(rules: Routing) -> str:
    domain = (rules.target_domain or rules.source_domain).removesuffix(".")
    return domain if domain.isascii() else a_label(domain) or domain


def _values(rules: Routing, header: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield name (in small letters) and value of the fields in which recipients are looked for, from the top."""
    names, number = rules.headers, 0
    if rules.trusted_header:
        name, number = trusted(rules.trusted_header)
        names = (name,)
    if not names:
        return
    end = _END.search(header)
    fields = _field_pattern(names).finditer(header, 0, end.start() + 1 if end else len(header))
    for place, found in enumerate(fields, 1):
        if number in (0, place):
            yield found[1].decode("ascii").lower(), found[2]
        if place == number:
            return


@cache
def _field_pattern(names: tuple[str, ...]) -> re.Pattern[bytes]:
    alternatives = "|".join(re.escape(name) for name in names).encode("ascii")
    return re.compile(
        rb"^(" + alternatives + rb")[ \t]*+:([^\n]*+(?:\n[ \t][^\n]*+)*+)",
        re.MULTILINE | re.IGNORECASE,
    )


def _without_prefix(rules: Routing, name: str, local: str) -> str:
    if rules.prefix and name not in _WRITTEN_BY_THE_SENDER and local.lower().startswith(rules.prefix.lower()):
        return local[len(rules.prefix) :]
    return local
