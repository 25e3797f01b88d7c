"""TOP in place of RETR: whether it is used, whether what it gave is the whole message, and what is remembered of a failure.

Some servers hide or delete what RETR has read; TOP leaves it as it is. Other servers refuse TOP, or cut what it gives.
"""

from __future__ import annotations

import re

from poprep_cli.engine.message import Message, field
from poprep_cli.net.maildrop import Listed

REFUSED = "refused"
SHORT = "short"

_MULTIPART = re.compile(rb"\s*multipart/", re.IGNORECASE)
_BOUNDARY = re.compile(rb";\s*boundary\s*=\s*(?:\"([^\"\r\n]{1,200})\"|([^\s;\"]{1,200}))", re.IGNORECASE)


class Top:
    """Decides for one pass, message by message. `trouble` is REFUSED or SHORT once the server was found out, else ""."""

    def __init__(self, *, use: bool, trouble: str = "") -> None:
        """Prepare. `use` is the setting; `trouble` is what an earlier pass found."""
        self._use = use
        self.trouble = trouble
        self._offered = True
        self._tried: dict[int, int] = {}  # by message number: what TOP gave in octets, -1 if it was refused

    def begin(self, *, offered: bool) -> None:
        """Begin a session: its message numbers are others. `offered` is false if CAPA was answered without TOP."""
        self._tried.clear()
        self._offered = offered

    @property
    def advice(self) -> str:
        """What to tell people, "" if all is well."""
        if not self._use or (self._offered and not self.trouble):
            return ""
        why = {REFUSED: "the server refuses TOP", SHORT: "TOP gives less than the whole message"}.get(self.trouble)
        return (
            f"pop3.use_top has no effect: {why or 'the server does not announce TOP'}; "
            f"mail is read by RETR{', and TOP is tried again after a week' if why else ''}"
        )

    def asks(self, listed: Listed) -> bool:
        """Return whether this message is to be had by TOP."""
        return self._use and self._offered and not self.trouble and listed.number not in self._tried

    def refused(self, listed: Listed) -> None:
        """Take note that TOP was refused; RETR shows whether that is the message's matter."""
        self._tried[listed.number] = -1

    def incomplete(self, listed: Listed, message: Message) -> None:
        """Take note that TOP gave something that may not be the whole message; RETR shows what is the whole."""
        self._tried[listed.number] = message.octets

    def compare(self, listed: Listed, message: Message) -> None:
        """Compare what RETR gave with what TOP did: only more of it convicts the server, for LIST may be wrong as well."""
        octets = self._tried.get(listed.number)
        if octets is None or self.trouble:
            return
        if octets < 0:
            self.trouble = REFUSED
        elif octets < message.octets:
            self.trouble = SHORT


def is_whole(message: Message, listed_octets: int) -> bool:
    """Return whether what TOP gave is certainly the whole message: LIST's size, and where one is declared the last boundary.

    Where LIST has no size for it, only the boundary tells.
    """
    if message.octets < listed_octets or message.head.startswith(b"+OK"):
        return False
    closing = closing_delimiter(message.head)
    if closing is None:
        return listed_octets > 0
    tail = b""
    for part in message.content():
        window = tail + part
        if closing in window:
            return True
        tail = window[-len(closing) :]
    return False


def closing_delimiter(head: bytes) -> bytes | None:
    """Return what ends the body of a multipart message (RFC 2046 5.1.1), LF in front; None if the header declares none."""
    value = field(head, b"content-type")
    if value is None or not _MULTIPART.match(value):
        return None
    found = _BOUNDARY.search(value)
    return b"\n--" + (found[1] or found[2]).rstrip() + b"--" if found else None
