"""What the server itself deletes, as EXPIRE announces it (RFC 2449 6.7), against what the configuration wants kept."""

from __future__ import annotations

from collections.abc import Sequence

from poprep_cli.config.model import ServerCopy
from poprep_cli.engine.visit import Visit
from poprep_cli.net.maildrop import Maildrop


def tell_expiry(visit: Visit, maildrop: Maildrop) -> None:
    """Advise once, and again when either side changes, that the server deletes mail sooner than the configuration does."""
    if not maildrop.capabilities:
        return  # it was not asked, or did not answer: nothing is known to have changed
    words = maildrop.capabilities.get("EXPIRE", ())
    conflict = expires_sooner(words, visit.connector.server_copy)
    if conflict and conflict != visit.status.told_expiry:
        visit.report.advice.append(f"{maildrop.server} {conflict}")
    visit.status.told_expiry = conflict


def expires_sooner(words: Sequence[str], server_copy: ServerCopy) -> str:
    """Return what to say of the arguments of EXPIRE, "" if the server keeps mail for as long as it is wanted there."""
    if not words or not words[0].isdecimal():
        return ""  # NEVER, or what RFC 2449 does not know
    if not server_copy.leave_copy or server_copy.remove_after_delivered:
        return ""
    days, wanted = int(words[0][:9]), server_copy.remove_after_days
    if wanted is not None and days >= wanted:
        return ""
    announced = " ".join(["EXPIRE", words[0][:9], *("USER" for word in words[1:2] if word.upper() == "USER")])
    rule = "leave_copy = true" if wanted is None else f"remove_after_days = {wanted}"
    if not days:
        return f"may delete mail as soon as it was read ({announced}), whatever {rule} says"
    others = ", for some users later" if announced.endswith("USER") else ""
    return f"deletes mail by itself after {days} days{others} ({announced}), sooner than {rule} does"
