"""A greylisting policy service as Postfix asks it (its SMTPD_POLICY_README): it defers recipients until it is told not to."""

from __future__ import annotations

import socketserver
from collections.abc import Iterable
from threading import Thread
from typing import Self

_DEFERRED = b"action=450 4.7.1 Greylisted, come back later\n\n"
_PASSED = b"action=DUNNO\n\n"


class Greylist:
    """A running service on 127.0.0.1. It defers RCPT for whom `recipients` names: addresses, as Postfix gives them.

    `asked` has every recipient that it was asked about, in order.
    """

    def __init__(self, recipients: Iterable[str] = ()) -> None:
        self.recipients = set(recipients)
        self.asked: list[str] = []
        service = self

        class Inquiry(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                service._answer(self)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Inquiry)
        self._server.daemon_threads = True
        self._thread = Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def restriction(self) -> str:
        """What asks it, as one of Postfix's smtpd_recipient_restrictions."""
        return f"check_policy_service inet:127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _answer(self, inquiry: socketserver.StreamRequestHandler) -> None:
        """Answer the requests of one connection: lines of name=value, ended by an empty one."""
        recipient = ""
        for line in inquiry.rfile:
            name, _, value = line.decode("utf-8").rstrip("\n").partition("=")
            if name == "recipient":
                recipient = value
            elif not name:
                self.asked.append(recipient)
                inquiry.wfile.write(_DEFERRED if recipient in self.recipients else _PASSED)
