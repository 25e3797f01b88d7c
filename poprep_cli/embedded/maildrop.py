"""A maildrop in memory: mail with unique-ids, an exclusive lock (RFC 1939 4), and what has been read and removed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from threading import Lock


@dataclass(frozen=True, slots=True)
class Mail:
    """One message: its unique-id and its exact octets, without dot-stuffing."""

    uidl: bytes
    content: bytes


class Maildrop:
    """Mail in the order of its arrival. All methods may be called from any thread.

    Mail is told apart by identity, as two messages may have the same octets and, on a bad server, the same unique-id.
    """

    def __init__(self, mail: Iterable[Mail] = ()) -> None:
        self._mail = list(mail)
        self._read: set[int] = set()  # identities; what is in there is in _mail too, so they stay valid
        self._lock = Lock()
        self._session = Lock()
        self._added = 0

    def add(self, content: bytes, uidl: bytes | None = None) -> Mail:
        """Put a message at the end and return it. The unique-id is made from a counter and the content, if not given."""
        with self._lock:
            self._added += 1
            mail = Mail(uidl or b"%d.%s" % (self._added, sha256(content).hexdigest()[:24].encode()), content)
            self._mail.append(mail)
        return mail

    def mail(self, *, unread: bool = False) -> tuple[Mail, ...]:
        """Return all mail, or what was never marked as read."""
        with self._lock:
            return tuple(mail for mail in self._mail if not (unread and id(mail) in self._read))

    def replace(self, mail: Iterable[Mail]) -> None:
        """Make this the whole content of the maildrop, nothing of it read."""
        with self._lock:
            self._mail = list(mail)
            self._read.clear()

    def remove(self, mail: Iterable[Mail]) -> None:
        """Remove these messages, as far as they are still there."""
        gone = {id(message) for message in mail}
        if not gone:
            return
        with self._lock:
            self._mail = [message for message in self._mail if id(message) not in gone]
            self._read -= gone

    def mark_read(self, mail: Iterable[Mail]) -> None:
        """Remember that these messages were read, as far as they are still there."""
        with self._lock:
            present = {id(message) for message in self._mail}
            self._read |= present & {id(message) for message in mail}

    def acquire(self) -> bool:
        """Take the exclusive lock of a session and return True, or return False if another session has it."""
        return self._session.acquire(blocking=False)

    def release(self) -> None:
        """Give the exclusive lock back."""
        self._session.release()
