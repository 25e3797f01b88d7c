"""The digest by which a message is known whose UIDL does not tell it from others."""

from __future__ import annotations

import hashlib

from poprep_cli.engine.message import Message, header_fields, is_volatile

DIGESTED_OCTETS = 1 << 17  # of a header; far below what is kept of one, so that a field more or less cuts nothing off

_TELLING = frozenset((b"message-id", b"date", b"received"))  # a header with none of these may be that of many messages


def header_digest(head: bytes) -> str:
    """Return the digest of a header: the same whether it came by TOP or by RETR, before the message was read or after."""
    digest = hashlib.sha256()
    octets = 0
    for name, value in header_fields(head):
        if is_volatile(name):
            continue
        line = name + b":" + b" ".join(value.split()) + b"\n"
        octets += len(line)
        if octets > DIGESTED_OCTETS:
            break
        digest.update(line)
    return digest.hexdigest()[:32]


def tells(head: bytes) -> bool:
    """Return whether a header tells its message from others."""
    return any(name in _TELLING for name, _ in header_fields(head))


def content_digest(message: Message) -> str:
    """Return the digest of a whole message: for one whose header does not tell it from others."""
    digest = hashlib.sha256()
    for part in message.content():
        digest.update(part)
    return digest.hexdigest()[:32]
