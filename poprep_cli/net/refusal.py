"""What a POP3 server says when it lets nobody in, for now or at all, whoever asks."""

from __future__ import annotations

from poprep_cli.errors import ReplyError, TemporaryReplyError
from poprep_cli.net.link import Link
from poprep_cli.protocol.pop3 import Reply

_FOR_NOW = ("IN-USE", "LOGIN-DELAY", "SYS/TEMP")  # RFC 2449 8.1, RFC 3206


def refuse_greeting(link: Link) -> None:
    """Raise TemporaryReplyError or ReplyError if the greeting is not +OK."""
    if not link.greeting.ok:
        raise_if_for_now(link.greeting, link.stream.server)
        raise ReplyError(f"{link.stream.server} refused the connection: {link.greeting}", reply=link.greeting)


def raise_if_for_now(reply: Reply, server: str) -> None:
    """Raise TemporaryReplyError if a refusal is not about who asks, but about the moment."""
    text = reply.text.lower()
    if reply.code in _FOR_NOW or (not reply.code and any(word in text for word in (b"lock", b"in use", b"busy"))):
        raise TemporaryReplyError(
            f"{server} can't let us in for now: {reply}", reply=reply, hint="the next pass tries again"
        )
