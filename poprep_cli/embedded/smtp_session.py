"""One session with the embedded SMTP server: greeting, EHLO, STARTTLS, AUTH and QUIT (RFC 5321, 3207, 4954, 2033)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from poprep_cli.embedded.channel import Channel
from poprep_cli.embedded.smtp_auth import Authentication
from poprep_cli.embedded.smtp_replies import Stages, multiline
from poprep_cli.embedded.smtp_transaction import Transactions

if TYPE_CHECKING:
    from poprep_cli.embedded.smtp import SmtpServer

_ENDLESS = b"250-X-MORE\r\n" * 1000


class SmtpSession:
    """The conversation over one channel."""

    def __init__(self, server: SmtpServer, channel: Channel) -> None:
        self._server = server
        self._channel = channel
        self._write = channel.write
        self._stages = Stages(server, channel)
        self._transactions = Transactions(server, channel, self._stages)
        self._authentication = Authentication(server, channel, self._stages)
        self._greeted = False
        self._commands: dict[str, Callable[[bytes], None]] = {
            "STARTTLS": self._starttls,
            "AUTH": self._auth,
            "NOOP": self._noop,
            "QUIT": self._quit,
        }
        self._commands |= {"LHLO": self._ehlo} if server.lmtp else {"EHLO": self._ehlo, "HELO": self._helo}

    def run(self) -> None:
        """Greet, and answer commands until QUIT. Raises LineClosedError or OSError when the line breaks."""
        faults = self._server.faults
        self._channel.latency = faults.latency
        if faults.max_connections is not None and self._server.open_sessions > faults.max_connections:
            self._write(b"421 4.7.0 too many connections\r\n")
            return
        self._stages.reply("greeting", b"", b"220 demo.invalid ESMTP ready\r\n")
        self._channel.flush()
        while not self._channel.session.quit:
            self._command()

    def _command(self) -> None:
        verb, argument = self._channel.session.add_command(self._channel.line())
        self._answer(verb)(argument)
        trouble = self._server.faults.breaks_when_pipelined if self._channel.pending else None
        if trouble == "drop":
            self._channel.drop()
        if trouble == "discard":
            self._channel.discard_input()

    def _answer(self, verb: str) -> Callable[[bytes], None]:
        if verb == "MAIL" and self._greeted and self._authentication.missing:
            return self._not_logged_in
        if verb in self._transactions.commands:
            return self._transactions.commands[verb] if self._greeted else self._too_early
        return self._commands.get(verb, self._unknown)

    def _unknown(self, _: bytes) -> None:
        self._write(b"500 5.5.2 unknown command\r\n")

    def _too_early(self, _: bytes) -> None:
        self._write(b"503 5.5.1 say hello first\r\n")

    def _not_logged_in(self, _: bytes) -> None:
        self._write(b"530 5.7.0 authentication required\r\n")

    def _auth(self, argument: bytes) -> None:
        self._authentication.run(argument, possible=self._greeted and not self._transactions.begun)

    def _noop(self, argument: bytes) -> None:
        self._stages.reply("noop", argument, b"250 2.0.0 ok\r\n")

    def _quit(self, argument: bytes) -> None:
        self._stages.reply("quit", argument, b"221 2.0.0 bye\r\n")
        self._channel.session.quit = True

    def _ehlo(self, argument: bytes) -> None:
        faults = self._server.faults
        if faults.refuse_ehlo:
            self._write(b"502 5.5.1 command not implemented\r\n")
            return
        while faults.endless_ehlo:
            self._write(_ENDLESS)
        keywords = faults.announce if faults.announce is not None else self._keywords()
        self._transactions.forget()
        self._greeted = self._stages.reply("ehlo", argument, multiline(b"250", (b"demo.invalid", *keywords)))

    def _keywords(self) -> tuple[bytes, ...]:
        size = b"SIZE %d" % self._server.size_limit
        keywords: tuple[bytes, ...] = (
            b"PIPELINING",
            size,
            b"8BITMIME",
            b"SMTPUTF8",
            *((b"CHUNKING",) if self._server.chunking else ()),
            b"ENHANCEDSTATUSCODES",
        )
        keywords += self._authentication.keywords
        if self._server.context is not None and not self._channel.session.tls:
            return (*keywords, b"STARTTLS")
        return keywords

    def _helo(self, argument: bytes) -> None:
        self._transactions.forget()
        self._greeted = self._stages.reply("helo", argument, b"250 demo.invalid\r\n")

    def _starttls(self, argument: bytes) -> None:
        context = self._server.context
        if context is None or self._channel.session.tls:
            self._write(b"502 5.5.1 no TLS here\r\n")
            return
        if not self._stages.reply("starttls", argument, b"220 2.0.0 begin TLS\r\n"):
            return
        self._write(self._server.faults.starttls_injected)
        self._transactions.forget()
        self._authentication.forget()
        self._greeted = False
        self._channel.start_tls(context)
