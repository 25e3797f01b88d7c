"""The forms of SMTP commands and replies (RFC 5321 4.1.2 and 4.2.1), and the reply that a stage gets from the faults."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from poprep_cli.embedded.channel import Channel
from poprep_cli.embedded.smtp_faults import Stage

if TYPE_CHECKING:
    from poprep_cli.embedded.smtp import SmtpServer

_REPLY = re.compile(rb"(?:\d{3}-[^\r\n]*\r\n)*(\d)\d\d(?: [^\r\n]*)?\r\n")
_PATH = re.compile(rb"(FROM|TO): ?<([^>]*)>((?: [^ ]+)*) *", re.IGNORECASE)


def is_reply(reply: bytes, first_digit: bytes) -> bool:
    """Return whether this is one whole reply, and its code begins with this digit."""
    match = _REPLY.fullmatch(reply)
    return match is not None and match[1] == first_digit


def multiline(code: bytes, texts: Iterable[bytes]) -> bytes:
    """Return a reply of one line or more."""
    *first, last = texts
    return b"".join(b"%s-%s\r\n" % (code, text) for text in first) + b"%s %s\r\n" % (code, last)


def parse_path(argument: bytes, keyword: bytes) -> tuple[bytes, tuple[bytes, ...]] | None:
    """Return the path, without < and >, and the parameters of MAIL (keyword FROM) or RCPT (TO); None if it is neither."""
    match = _PATH.fullmatch(argument)
    if match is None or match[1].upper() != keyword:
        return None
    return match[2], tuple(match[3].split())


class Stages:
    """Where a session stands in the dialogue, and what the server's faults do about it."""

    def __init__(self, server: SmtpServer, channel: Channel) -> None:
        self._server = server
        self._channel = channel

    def reply(
        self, stage: Stage, argument: bytes, usual: bytes, *, wanted: bytes = b"2", recipient: bytes | None = None
    ) -> bool:
        """Reply as the faults say, else as usual, and return whether it is a whole reply with the wanted first digit."""
        reply = self.choose(stage, argument, usual, recipient=recipient)
        self._channel.write(reply)
        return is_reply(reply, wanted)

    def reach(self, stage: Stage) -> None:
        """Suffer what happens at a stage that has no reply."""
        self.choose(stage, b"", b"")

    def choose(self, stage: Stage, argument: bytes, usual: bytes, *, recipient: bytes | None = None) -> bytes:
        """Return what is to be said, after the delay, or raise LineClosedError if the line is to break."""
        faults = self._server.faults
        if not faults.concerns(stage, self._server.count(stage)):
            return usual
        if stage in faults.delay:
            self._channel.flush()
            self._channel.wait(faults.delay[stage])
        if faults.hang == stage:
            self._channel.hang()
        if faults.drop == stage:
            self._channel.drop()
        by_recipient = faults.recipients_after_data if stage == "end-of-data" else faults.recipients
        if recipient is not None and recipient in by_recipient:
            return by_recipient[recipient]
        rule = faults.replies.get(stage)
        reply = rule(argument) if callable(rule) else rule
        return usual if reply is None else reply
