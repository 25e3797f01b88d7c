"""An SMTP or LMTP server on loopback that accepts everything and keeps it (RFC 5321, RFC 2033)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Self

from poprep_cli.embedded.channel import Channel
from poprep_cli.embedded.deliveries import Delivered, Deliveries
from poprep_cli.embedded.listener import HOST, Listener
from poprep_cli.embedded.sessions import Session
from poprep_cli.embedded.smtp_faults import SmtpFaults, Stage

if TYPE_CHECKING:
    from ssl import SSLContext

__all__ = ["Delivered", "SmtpFaults", "SmtpServer"]

SIZE_LIMIT = 1 << 30  # octets
MECHANISMS = ("PLAIN", "LOGIN", "CRAM-MD5")


class SmtpServer:
    """A server that stores what it accepts. A context manager: it listens inside the `with`.

    STARTTLS is offered if there is a `context`; with `ssl` every connection starts with TLS. `lmtp` replies once a
    recipient. `folder` is where messages are written as 0001.eml and so on; `sink` is called with each; with
    `digest_only` their content is not kept. With a `user` nobody else may send mail (RFC 4954): AUTH is announced with
    these `mechanisms`, inside TLS only, unless it is `auth_in_clear`. Without `chunking` BDAT is not announced. `faults` may be exchanged at any time and apply to the next command.
    """

    def __init__(
        self,
        *,
        context: SSLContext | None = None,
        ssl: bool = False,
        lmtp: bool = False,
        size_limit: int = SIZE_LIMIT,
        folder: Path | None = None,
        sink: Callable[[Delivered], None] | None = None,
        digest_only: bool = False,
        user: str | None = None,
        password: str = "demo",  # noqa: S107 - a server in memory, on loopback
        mechanisms: Sequence[str] = MECHANISMS,
        auth_in_clear: bool = False,
        chunking: bool = True,
        faults: SmtpFaults | None = None,
    ) -> None:
        self.context = context
        self.lmtp = lmtp
        self.size_limit = size_limit
        self.user = user.encode() if user is not None else None
        self.password = password.encode()
        self.mechanisms = tuple(mechanisms)
        self.auth_in_clear = auth_in_clear
        self.chunking = chunking
        self.faults = faults if faults is not None else SmtpFaults()
        self.deliveries = Deliveries(digest_only=digest_only, folder=folder, sink=sink)
        self._listener = Listener(self._converse, context=context, ssl=ssl)
        self._occurrences: Counter[str] = Counter()
        self._lock = Lock()

    @property
    def port(self) -> int:
        """The TCP port, known once it has been started."""
        return self._listener.port

    @property
    def address(self) -> str:
        """The address as 127.0.0.1:port."""
        return f"{HOST}:{self.port}"

    @property
    def delivered(self) -> list[Delivered]:
        """What was accepted so far, in the order of arrival."""
        return self.deliveries.messages

    @property
    def sessions(self) -> list[Session]:
        """The record of every connection so far, the latest last."""
        return self._listener.sessions

    @property
    def open_sessions(self) -> int:
        """How many connections there are at this moment."""
        return self._listener.open_sessions

    def start(self) -> None:
        """Listen on a free port of 127.0.0.1. Raises OSError if that is not possible."""
        self._listener.start()

    def stop(self) -> None:
        """Stop listening and break all lines."""
        self._listener.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def count(self, stage: Stage) -> int:
        """Count an occurrence of a stage, and return its number, from 1."""
        with self._lock:
            self._occurrences[stage] += 1
            return self._occurrences[stage]

    def _converse(self, channel: Channel) -> None:
        from poprep_cli.embedded.smtp_session import SmtpSession

        SmtpSession(self, channel).run()
