"""What one SMTP session teaches the next one: that the server knows the BDAT which it announces."""

from __future__ import annotations

import msgspec


class Proof(msgspec.Struct, frozen=True, omit_defaults=True):
    """A server that has taken mail by BDAT: its address and all that it announces, and its longest reply in octets.

    `since` is when it was seen (RFC 3339), for who keeps it.
    """

    server: str = ""
    longest: int = 0
    since: str = ""


NO_PROOF = Proof()
