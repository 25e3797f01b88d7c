"""A POP3 server on loopback over a maildrop in memory (RFC 1939, CAPA and PIPELINING of RFC 2449, STLS of RFC 2595)."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, Self

from poprep_cli.embedded.channel import Channel
from poprep_cli.embedded.listener import HOST, Listener
from poprep_cli.embedded.maildrop import Mail, Maildrop
from poprep_cli.embedded.pop3_faults import Pop3Faults
from poprep_cli.embedded.sessions import Session

if TYPE_CHECKING:
    from ssl import SSLContext

__all__ = ["Mail", "Maildrop", "Pop3Faults", "Pop3Server"]


class Pop3Server:
    """One mailbox with one user. A context manager: it listens inside the `with`.

    STLS is offered if there is a `context`; with `ssl` every connection starts with TLS. `maildrop` and `faults` may be
    exchanged at any time; a session keeps those that it began with.
    """

    def __init__(
        self,
        maildrop: Maildrop | None = None,
        *,
        user: str = "demo",
        password: str = "demo",  # noqa: S107 - a mailbox in memory, on loopback
        context: SSLContext | None = None,
        ssl: bool = False,
        faults: Pop3Faults | None = None,
    ) -> None:
        self.maildrop = maildrop if maildrop is not None else Maildrop()
        self.user = user.encode()
        self.password = password.encode()
        self.context = context
        self.faults = faults if faults is not None else Pop3Faults()
        self._listener = Listener(self._converse, context=context, ssl=ssl)
        self._retrieved = 0
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
    def sessions(self) -> list[Session]:
        """The record of every connection so far, the latest last."""
        return self._listener.sessions

    @property
    def retrieved(self) -> int:
        """How many RETR commands were served so far, in all sessions."""
        return self._retrieved

    def start(self) -> None:
        """Listen on a free port of 127.0.0.1. Raises OSError if that is not possible."""
        self._listener.start()

    def stop(self) -> None:
        """Stop listening and break all lines; what a session has not committed by QUIT is not removed."""
        self._listener.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def count_retrieval(self) -> int:
        """Count one RETR, and return how many there were before it."""
        with self._lock:
            self._retrieved += 1
            return self._retrieved - 1

    def _converse(self, channel: Channel) -> None:
        from poprep_cli.embedded.pop3_session import Pop3Session

        Pop3Session(self, channel).run()
