"""The mail transactions of the embedded SMTP server: envelope, DATA and BDAT (RFC 5321 3.3, RFC 3030, RFC 2033)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from poprep_cli.embedded.channel import Channel
from poprep_cli.embedded.deliveries import Delivered
from poprep_cli.embedded.smtp_replies import Stages, is_reply, parse_path

if TYPE_CHECKING:
    from poprep_cli.embedded.smtp import SmtpServer

_BAD_SEQUENCE = b"503 5.5.1 bad sequence of commands\r\n"
_NO_RECIPIENTS = b"554 5.5.1 no valid recipients\r\n"
_SYNTAX = b"501 5.5.4 syntax error in the arguments\r\n"
_TOO_LARGE = b"552 5.3.4 the message is too large\r\n"
_OK = b"250 2.0.0 ok\r\n"


class Transactions:
    """The transactions of one session, one after the other."""

    def __init__(self, server: SmtpServer, channel: Channel, stages: Stages) -> None:
        self._server = server
        self._channel = channel
        self._stages = stages
        self._write = channel.write
        self._begun = 0
        self._envelope: Delivered | None = None
        self._chunks: list[bytes] = []
        self.commands: dict[str, Callable[[bytes], None]] = {
            "MAIL": self._mail,
            "RCPT": self._rcpt,
            "DATA": self._data,
            "BDAT": self._bdat,
            "RSET": self._rset,
        }

    @property
    def begun(self) -> bool:
        """Whether a transaction is open: after MAIL, before its end."""
        return self._envelope is not None

    def forget(self) -> None:
        """Give up the transaction, if there is one."""
        self._envelope = None
        self._chunks = []

    def _mail(self, argument: bytes) -> None:
        limit = self._server.faults.max_messages
        if limit is not None and self._begun >= limit:
            self._write(b"421 4.7.0 too many messages in this session\r\n")
            self._channel.drop()
        parsed = parse_path(argument, b"FROM")
        if parsed is None or self._envelope is not None:
            self._write(_SYNTAX if parsed is None else _BAD_SEQUENCE)
            return
        path, parameters = parsed
        usual = self._objection(path, parameters) or b"250 2.1.0 sender ok\r\n"
        if self._stages.reply("mail", path, usual):
            self._begun += 1
            self._envelope = Delivered(path, (), b"", 0, "", parameters, self._channel.session.tls)

    def _objection(self, path: bytes, parameters: tuple[bytes, ...]) -> bytes | None:
        names = {name: value for name, _, value in (item.upper().partition(b"=") for item in parameters)}
        size = names.get(b"SIZE", b"0")
        if not size.isdigit():
            return _SYNTAX
        if int(size) > self._server.size_limit:
            return _TOO_LARGE
        if not path.isascii() and b"SMTPUTF8" not in names:
            return b"553 5.6.7 such an address needs SMTPUTF8\r\n"
        return None

    def _rcpt(self, argument: bytes) -> None:
        parsed = parse_path(argument, b"TO")
        if parsed is None or not parsed[0] or self._envelope is None:
            self._write(_BAD_SEQUENCE if self._envelope is None else _SYNTAX)
            return
        path = parsed[0]
        if self._stages.reply("rcpt", path, b"250 2.1.5 recipient ok\r\n", recipient=path):
            self._envelope = replace(self._envelope, forward_paths=(*self._envelope.forward_paths, path))

    def _data(self, argument: bytes) -> None:
        envelope = self._envelope
        usual = b"354 go ahead\r\n"
        if envelope is None or not envelope.forward_paths or self._chunks:
            usual = _BAD_SEQUENCE if envelope is None or self._chunks else _NO_RECIPIENTS
        if not self._stages.reply("data", argument, usual, wanted=b"3") or envelope is None:
            return
        self._channel.await_input()
        self._stages.reach("mid-data")
        self._receive(envelope, _unstuffed(self._channel.block()))

    def _bdat(self, argument: bytes) -> None:
        if self._server.faults.knows_no_bdat:
            self._write(b"500 5.5.2 unknown command\r\n")
            return
        count, _, last = argument.strip().upper().partition(b" ")
        if not count.isdigit() or last not in (b"", b"LAST"):
            self._write(_SYNTAX)
            self._channel.drop()  # how many octets follow is unknown
        if int(count):
            self._channel.await_input()
            self._stages.reach("mid-data")
        chunk = self._channel.octets(int(count))
        envelope = self._envelope
        usual = b"250 2.0.0 %d octets received\r\n" % len(chunk)
        if envelope is None or not envelope.forward_paths:
            usual = _BAD_SEQUENCE if envelope is None else _NO_RECIPIENTS
        reply = self._stages.choose("bdat", argument, usual)
        if not is_reply(reply, b"2") or envelope is None or not envelope.forward_paths:
            self._write(reply)
            if self._chunks:
                self.forget()  # what is left of the content finds no transaction
            return
        self._chunks.append(chunk)
        if last:
            self._receive(envelope, b"".join(self._chunks))
        else:
            self._write(reply)

    def _receive(self, envelope: Delivered, content: bytes) -> None:
        """Accept a whole message, as far as the faults let it, and reply: in LMTP mode once for each recipient."""
        self.forget()
        usual = _TOO_LARGE if len(content) > self._server.size_limit else _OK
        paths = envelope.forward_paths
        if not self._server.lmtp:
            replies = [self._stages.choose("end-of-data", content, usual)]
            accepted = paths if is_reply(replies[0], b"2") else ()
        else:
            replies = [self._stages.choose("end-of-data", content, usual, recipient=path) for path in paths]
            accepted = tuple(path for path, reply in zip(paths, replies, strict=True) if is_reply(reply, b"2"))
        if accepted:
            self._server.deliveries.add(replace(envelope, forward_paths=accepted), content)
            self._stages.reach("after-accept")
        for reply in replies:
            self._write(reply)

    def _rset(self, argument: bytes) -> None:
        if self._stages.reply("rset", argument, _OK):
            self.forget()


def _unstuffed(block: bytes) -> bytes:
    """Return the exact content of a dot-stuffed block with its terminator (RFC 5321 4.5.2)."""
    content = block[:-3].removeprefix(b".")
    return content.replace(b"\r\n.", b"\r\n") if b"\r\n." in content else content
