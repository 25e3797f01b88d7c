"""The transcript of a connection: what either side said, line by line, for the levels 3 (the negotiation) and 4 (all).

Secrets and what they could be guessed from come masked: commands carry a form of their own for it, challenges of a login
are left out, and so is the content of mail. Who listens masks once more what servers echo.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from poprep_cli.protocol.wire import CRLF, printable

VERBOSE = 3
LINES = 4
BLOCK_LINES = 40  # shown of a multi-line reply: a listing may have 200,000
_GUESSABLE = 12  # octets: what is shorter is masked only as a whole, or every text would be full of masks
_PARTS = rb"[ ,\0]"
_LINE = 300  # characters shown of one line


class Dialogue:
    """Says what happens on one connection through `say(level, text)`; `level` is the highest that anybody listens to."""

    __slots__ = ("_protocol", "_say", "lines", "verbose")

    def __init__(self, protocol: str, say: Callable[[int, str], None], level: int) -> None:
        self._protocol = protocol
        self._say = say
        self.verbose = level >= VERBOSE
        self.lines = level >= LINES

    def tell(self, text: str) -> None:
        """Tell a step of the negotiation."""
        if self.verbose:
            self._say(VERBOSE, f"{self._protocol} {text}")

    def client(self, shown: str) -> None:
        """Show a line that we sent, its secrets masked by the caller."""
        if self.lines:
            self._say(LINES, f"{self._protocol} C: {shown}")

    def server(self, line: bytes | str) -> None:
        """Show a line of the server's."""
        if self.lines:
            self._say(LINES, f"{self._protocol} S: {printable(line, _LINE)}")

    def block(self, block: bytes, *, whole: bool) -> None:
        """Show the beginning of a multi-line reply's block."""
        if not self.lines:
            return
        found = block.split(CRLF, BLOCK_LINES)
        rest = found.pop() if len(found) > BLOCK_LINES else b""
        for line in found:
            if line:
                self.server(line)
        if rest or not whole:
            self._say(LINES, f"{self._protocol} S: … more lines, left out")

    def content(self, side: str, octets: int) -> None:
        """Show that the content of a message went over the line, `side` being C or S."""
        if self.lines:
            self._say(LINES, f"{self._protocol} {side}: [{octets:,} octets of mail, left out]")


def forms(secret: bytes) -> set[bytes]:
    """Return the forms in which a server may echo a secret that it was sent: as it is, and decoded from base64 (RFC 4648).

    Of a decoded response that is also each part of some length, such as CRAM-MD5's digest or SCRAM's proof.
    """
    found = {secret} - {b""}
    if len(secret) >= _GUESSABLE:
        from base64 import b64decode

        try:
            decoded = b64decode(secret, validate=True)
        except ValueError:
            return found
        found |= {decoded, *(part for part in re.split(_PARTS, decoded) if len(part) >= _GUESSABLE)}
    return found


SILENT = Dialogue("", lambda _level, _text: None, 0)
