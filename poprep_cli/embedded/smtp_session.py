"""One session with the embedded SMTP server: greeting, EHLO, STARTTLS, and the envelope (RFC 5321, 1870, 3207, 6531)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from poprep_cli.embedded.channel import Channel
from poprep_cli.embedded.deliveries import Delivered
from poprep_cli.embedded.smtp_faults import Stage
from poprep_cli.embedded.smtp_replies import is_reply, multiline, parse_path

if TYPE_CHECKING:
    from poprep_cli.embedded.smtp import SmtpServer

_BAD_SEQUENCE = b"503 5.5.1 bad sequence of commands\r\n"
_SYNTAX = b"501 5.5.4 syntax error in the arguments\r\n"
_TOO_LARGE = b"552 5.3.4 the message is too large\r\n"
_OK = b"250 2.0.0 ok\r\n"


class SmtpSession:
    """The conversation over one channel, with at most one mail transaction at a time (RFC 5321 3.3)."""

    def __init__(self, server: SmtpServer, channel: Channel) -> None:
        self._server = server
        self._channel = channel
        self._write = channel.write
        self._greeted = False
        self._messages = 0
        self._envelope: Delivered | None = None
        self._chunks: list[bytes] | None = None
        self._commands: dict[str, Callable[[bytes], None]] = {
            "LHLO" if server.lmtp else "EHLO": self._ehlo,
            "STARTTLS": self._starttls,
            "MAIL": self._mail,
            "RCPT": self._rcpt,
            "DATA": self._data,
            "BDAT": self._bdat,
            "RSET": self._rset,
            "NOOP": lambda _: self._reply("noop", b"", _OK, b"2") and None,
            "VRFY": lambda _: self._write(b"252 2.5.0 send some mail, I'll try my best\r\n"),
            "QUIT": self._quit,
        }
        if not server.lmtp:
            self._commands["HELO"] = self._helo

    def run(self) -> None:
        """Greet, and answer commands until QUIT. Raises LineClosedError or OSError when the line breaks."""
        limit = self._server.faults.max_connections
        if limit is not None and self._server.open_sessions > limit:
            self._write(b"421 4.7.0 too many connections\r\n")
            self._channel.discard_input()
            return
        if not self._reply("greeting", b"", b"220 demo.invalid ESMTP ready\r\n", b"2"):
            self._commands = {"QUIT": self._quit}  # RFC 5321 3.1: after 554, only QUIT
        self._channel.flush()
        while not self._channel.session.quit:
            self._command()

    def _command(self) -> None:
        self._channel.latency = self._server.faults.latency
        verb, argument = self._channel.session.add_command(self._channel.line())
        self._commands.get(verb, self._unknown)(argument)
        if self._channel.pending and not self._channel.session.quit:
            self._suffer_pipelining()

    def _suffer_pipelining(self) -> None:
        trouble = self._server.faults.breaks_when_pipelined
        if trouble == "drop":
            self._channel.drop()
        if trouble == "discard":
            self._channel.discard_input()

    def _unknown(self, _: bytes) -> None:
        self._write(b"500 5.5.2 unknown command\r\n")

    def _reply(self, stage: Stage, argument: bytes, usual: bytes, wanted: bytes, *, recipient: bytes | None = None) -> bool:
        """Reply as the faults say, else as usual, and return whether the code begins with what is wanted."""
        reply = self._fault(stage, argument, recipient) or usual
        self._write(reply)
        return is_reply(reply, wanted)

    def _fault(self, stage: Stage, argument: bytes, recipient: bytes | None) -> bytes | None:
        faults = self._server.faults
        if not faults.concerns(stage, self._server.count(stage)):
            return None
        if stage in faults.delay:
            self._channel.flush()
            self._channel.wait(faults.delay[stage])
        if faults.hang == stage:
            self._channel.hang()
        if faults.drop == stage:
            self._channel.drop()
        table = faults.recipients_after_data if stage == "end-of-data" else faults.recipients
        if recipient is not None and recipient in table:
            return table[recipient]
        rule = faults.replies.get(stage)
        return rule(argument) if callable(rule) else rule

    def _ehlo(self, argument: bytes) -> None:
        faults = self._server.faults
        if faults.refuse_ehlo:
            self._write(b"502 5.5.1 command not implemented\r\n")
            return
        while faults.endless_ehlo:
            self._write(b"250-X-MORE\r\n" * 1000)
        keywords = faults.announce if faults.announce is not None else self._keywords()
        usual = multiline(b"250", (b"demo.invalid", *keywords))
        self._greeted = self._reply("ehlo", argument, usual, b"2")
        self._forget()

    def _keywords(self) -> tuple[bytes, ...]:
        size = b"SIZE %d" % self._server.size_limit
        keywords = (b"PIPELINING", size, b"8BITMIME", b"SMTPUTF8", b"CHUNKING", b"ENHANCEDSTATUSCODES")
        if self._server.context is not None and not self._channel.session.tls:
            return (*keywords, b"STARTTLS")
        return keywords

    def _helo(self, argument: bytes) -> None:
        self._greeted = self._reply("helo", argument, b"250 demo.invalid\r\n", b"2")
        self._forget()

    def _starttls(self, argument: bytes) -> None:
        context = self._server.context
        if context is None or self._channel.session.tls:
            self._write(b"502 5.5.1 no TLS here\r\n")
            return
        if not self._reply("starttls", argument, b"220 2.0.0 begin TLS\r\n", b"2"):
            return
        self._write(self._server.faults.starttls_injected)
        self._greeted = False
        self._forget()
        self._channel.start_tls(context)

    def _forget(self) -> None:
        self._envelope = None
        self._chunks = None

    def _mail(self, argument: bytes) -> None:
        limit = self._server.faults.max_messages
        if limit is not None and self._messages >= limit:
            self._write(b"421 4.7.0 too many messages in this session\r\n")
            self._channel.drop()
        parsed = parse_path(argument, b"FROM:")
        if parsed is None or self._envelope is not None or not self._greeted:
            self._write(_SYNTAX if parsed is None else _BAD_SEQUENCE)
            return
        path, parameters = parsed
        usual = self._objection(path, parameters) or b"250 2.1.0 sender ok\r\n"
        if self._reply("mail", path, usual, b"2"):
            self._messages += 1
            self._envelope = Delivered(path, (), b"", 0, "", parameters, self._channel.session.tls)

    def _objection(self, path: bytes, parameters: tuple[bytes, ...]) -> bytes | None:
        names = dict(parameter.upper().partition(b"=")[::2] for parameter in parameters)
        size = names.get(b"SIZE", b"0")
        if not size.isdigit():
            return _SYNTAX
        if int(size) > self._server.size_limit:
            return _TOO_LARGE
        if not path.isascii() and b"SMTPUTF8" not in names:
            return b"553 5.6.7 such an address needs SMTPUTF8\r\n"
        return None

    def _rcpt(self, argument: bytes) -> None:
        parsed = parse_path(argument, b"TO:")
        if parsed is None or not parsed[0] or self._envelope is None:
            self._write(_BAD_SEQUENCE if self._envelope is None else _SYNTAX)
            return
        path = parsed[0]
        if self._reply("rcpt", path, b"250 2.1.5 recipient ok\r\n", b"2", recipient=path):
            self._add_recipient(path)
