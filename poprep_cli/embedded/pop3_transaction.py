"""The TRANSACTION state of the embedded POP3 server (RFC 1939 5 and 7): one view of the maildrop and what is marked in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from poprep_cli.embedded.channel import Channel
from poprep_cli.embedded.maildrop import Mail, Maildrop
from poprep_cli.embedded.pop3_faults import Pop3Faults
from poprep_cli.embedded.pop3_replies import CRLF, block, lines, scan_number, top

if TYPE_CHECKING:
    from poprep_cli.embedded.pop3 import Pop3Server

_OK = b"+OK\r\n"


class Transaction:
    """What a session sees of a maildrop that it has locked, and its commands."""

    def __init__(self, server: Pop3Server, maildrop: Maildrop, faults: Pop3Faults, channel: Channel) -> None:
        self._server = server
        self._maildrop = maildrop
        self._faults = faults
        self._channel = channel
        self._write = channel.write
        self._mail: tuple[Mail, ...] = maildrop.mail(unread=faults.hide_read)[: faults.list_limit]
        self._deleted: set[int] = set()
        self._read: set[int] = set()
        self.commands: dict[str, Callable[[bytes], None]] = {
            "STAT": self._stat,
            "LIST": self._list,
            "UIDL": self._uidl,
            "RETR": self._retr,
            "TOP": self._top,
            "DELE": self._dele,
            "RSET": self._rset,
            "NOOP": self._noop,
        }

    def __len__(self) -> int:
        return len(self._mail)

    def commit(self) -> None:
        """Enter the UPDATE state: remove what is marked as deleted (RFC 1939 6)."""
        self._maildrop.remove(self._mail[number - 1] for number in self._deleted)
        if self._faults.hide_read:
            self._maildrop.mark_read(self._mail[number - 1] for number in self._read)

    def _message(self, argument: bytes) -> tuple[int, Mail] | None:
        """Return the message that the argument names and its number, or answer -ERR and return None."""
        number = scan_number(argument)
        if number is None or not 1 <= number <= len(self._mail) or number in self._deleted:
            self._write(b"-ERR no such message\r\n")
            return None
        return number, self._mail[number - 1]

    def _stat(self, _: bytes) -> None:
        sizes = [self._size(number, mail) for number, mail in self._listed()]
        self._write(b"+OK %d %d\r\n" % (len(sizes), sum(sizes)))

    def _listed(self) -> list[tuple[int, Mail]]:
        return [(number, mail) for number, mail in enumerate(self._mail, 1) if number not in self._deleted]

    def _list(self, argument: bytes) -> None:
        self._answer_per_message(argument, lambda number, mail: b"%d" % self._size(number, mail))

    def _size(self, number: int, mail: Mail) -> int:
        return self._faults.size(number, len(mail.content))

    def _uidl(self, argument: bytes) -> None:
        override = self._faults.uidl or {}
        if override == "err":
            self._write(b"-ERR unknown command\r\n")
            return
        self._answer_per_message(argument, lambda number, mail: override.get(number, mail.uidl))

    def _answer_per_message(self, argument: bytes, value: Callable[[int, Mail], bytes]) -> None:
        if not argument.strip():
            listing = lines(b"%d %s" % (number, value(number, mail)) for number, mail in self._listed())
            self._write(b"+OK listing follows\r\n" + listing)
            return
        message = self._message(argument)
        if message is not None:
            self._write(b"+OK %d %s\r\n" % (message[0], value(*message)))

    def _retr(self, argument: bytes) -> None:
        message = self._message(argument)
        if message is None:
            return
        limit = self._faults.retr_drop_after
        if limit is not None and self._server.retrieved >= limit:
            self._channel.drop()
        number, mail = message
        if self._faults.retr.get(number) == "err":
            self._write(b"-ERR message can not load\r\n")
            return
        self._server.count_retrieval()
        self._send(number, mail)
        self._read.add(number)
        if self._faults.delete_on_retr:
            self._maildrop.remove([mail])

    def _send(self, number: int, mail: Mail) -> None:
        content = mail.content
        fault = self._faults.retr.get(number)
        self._write(b"+OK %d octets\r\n" % len(content))
        if fault == "drip":
            self._drip(block(content))
        elif fault == "cut":
            self._write(block(_half_of_the_lines(content)))
        elif fault is None:
            self._write(block(content))
        else:
            self._write(block(content)[: len(content) // 2])
            if fault == "hang-mid":
                self._channel.hang()
            self._channel.drop()

    def _drip(self, octets: bytes) -> None:
        for place in range(len(octets)):
            self._write(octets[place : place + 1])
            self._channel.flush()
            self._channel.wait(self._faults.drip_seconds)

    def _top(self, argument: bytes) -> None:
        first, _, second = argument.strip().partition(b" ")
        count = scan_number(second)
        if self._faults.top_refused or count is None:
            self._write(b"-ERR TOP is not possible\r\n")
            return
        message = self._message(first)
        if message is not None:
            content = top(message[1].content, count)[: self._faults.truncate_top]
            self._write(b"+OK top of message follows\r\n" + block(content))

    def _dele(self, argument: bytes) -> None:
        fault = self._faults.dele
        if fault == "empty-line":
            self._write(CRLF)
        if fault in ("empty-line", "drop"):
            self._channel.drop()
        message = self._message(argument)
        if message is None:
            return
        if fault == "err":
            self._write(b"-ERR can't delete\r\n")
            return
        if fault != "ignore":
            self._deleted.add(message[0])
        self._write(b"+OK deleted\r\n")

    def _rset(self, _: bytes) -> None:
        self._deleted.clear()
        self._write(_OK)

    def _noop(self, _: bytes) -> None:
        self._write(_OK)


def _half_of_the_lines(content: bytes) -> bytes:
    end = content.find(CRLF, len(content) // 2)
    return content[: len(content) // 2] if end < 0 or end + 2 >= len(content) else content[: end + 2]
