"""What the embedded SMTP server has accepted: the envelope and content of each message, in the order of arrival."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from threading import Lock


@dataclass(frozen=True, slots=True)
class Delivered:
    """One accepted message. Paths are without < and >; `content` is without dot-stuffing; `parameters` are MAIL's.

    Where the server keeps digests only, `content` is empty; `size` (octets) and `sha256` are always those of all of it.
    """

    reverse_path: bytes
    forward_paths: tuple[bytes, ...]
    content: bytes
    size: int
    sha256: str
    parameters: tuple[bytes, ...] = ()
    tls: bool = False

    @property
    def subject(self) -> str:
        """The subject as it stands in the header, undecoded and as far as it is on the first line, in printable ASCII."""
        header, _, _ = self.content.partition(b"\r\n\r\n")
        for line in header.split(b"\r\n"):
            if line.lower().startswith(b"subject:"):
                text = line[8:].strip().decode("latin-1")
                return "".join(character if " " <= character <= "~" else "?" for character in text)
        return "(no subject)"


def without_trace(content: bytes) -> bytes:
    """Return a message without the Received: field in front of it, which may be folded over several lines."""
    if not content.startswith(b"Received:"):
        return content
    end = content.find(b"\r\n")
    while content[end + 2 : end + 3] in (b" ", b"\t"):
        end = content.find(b"\r\n", end + 2)
    return content[end + 2 :]


class Deliveries:
    """Takes messages from any thread: keeps them, writes them to a folder as 0001.eml and so on, and tells a sink."""

    def __init__(self, *, digest_only: bool, folder: Path | None, sink: Callable[[Delivered], None] | None) -> None:
        self.messages: list[Delivered] = []
        self._digest_only = digest_only
        self._folder = folder
        self._sink = sink
        self._lock = Lock()

    def add(self, envelope: Delivered, content: bytes) -> None:
        """Accept a message, once for all its recipients. Raises OSError if it can't be written."""
        digest = sha256(content).hexdigest()
        kept = b"" if self._digest_only else content
        message = replace(envelope, content=kept, size=len(content), sha256=digest)
        with self._lock:
            if self._folder is not None:
                (self._folder / f"{len(self.messages) + 1:04}.eml").write_bytes(content)
            self.messages.append(message)
            if self._sink is not None:
                self._sink(message)
