"""One session with the embedded POP3 server: greeting, the AUTHORIZATION state, and QUIT (RFC 1939 4, 6 and 7)."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import md5
from hmac import compare_digest
from secrets import token_hex
from typing import TYPE_CHECKING

from poprep_cli.embedded.channel import Channel
from poprep_cli.embedded.pop3_replies import lines
from poprep_cli.embedded.pop3_transaction import Transaction

if TYPE_CHECKING:
    from poprep_cli.embedded.pop3 import Pop3Server


class Pop3Session:
    """The conversation over one channel. The maildrop is locked from login until QUIT or the end of the line."""

    def __init__(self, server: Pop3Server, channel: Channel) -> None:
        self._server = server
        self._maildrop = server.maildrop
        self._faults = server.faults
        self._channel = channel
        self._write = channel.write
        self._timestamp = b"<%s@demo.invalid>" % token_hex(12).encode()
        self._user = b""
        self._transaction: Transaction | None = None
        self._always = {"CAPA": self._capa, "QUIT": self._quit}
        self._authorization = {"STLS": self._stls, "USER": self._name, "PASS": self._pass, "APOP": self._apop}

    def run(self) -> None:
        """Greet, and answer commands until QUIT. Raises LineClosedError or OSError when the line breaks."""
        self._channel.latency = self._faults.latency
        try:
            self._greet()
            while not self._channel.session.quit:
                self._command()
        finally:
            self._release()

    def _greet(self) -> None:
        faults = self._faults
        if faults.no_greeting:
            self._channel.hang()
        self._channel.wait(faults.greeting_delay)
        usual = b"+OK POP3 ready {timestamp}\r\n" if faults.apop else b"+OK POP3 ready\r\n"
        greeting = faults.greeting if faults.greeting is not None else usual
        self._write(greeting.replace(b"{timestamp}", self._timestamp))
        self._channel.flush()

    def _command(self) -> None:
        line = self._channel.line()
        verb, argument = self._channel.session.add_command(line)
        trouble = self._faults.breaks_when_pipelined if self._channel.pending else None
        if not self._replied_by_fault(verb, argument):
            self._answer(verb)(argument)
        if trouble == "drop":
            self._channel.drop()
        if trouble == "discard":
            self._channel.discard_input()

    def _replied_by_fault(self, verb: str, argument: bytes) -> bool:
        rule = self._faults.replies.get(verb)
        if rule == "hang":
            self._channel.hang()
        if rule == "drop":
            self._channel.drop()
        reply = rule(argument) if callable(rule) else rule
        if not isinstance(reply, bytes):
            return False
        self._write(reply)
        return True

    def _answer(self, verb: str) -> Callable[[bytes], None]:
        now = self._authorization if self._transaction is None else self._transaction.commands
        return self._always.get(verb) or now.get(verb) or self._unknown

    def _unknown(self, _: bytes) -> None:
        self._write(b"-ERR unknown command, or not now\r\n")

    def _capa(self, argument: bytes) -> None:
        capa = self._faults.capa
        if capa == "hang":
            self._channel.hang()
        if capa == "drop":
            self._channel.drop()
        if capa == "err":
            self._unknown(argument)
            return
        self._write(b"+OK capabilities follow\r\n" + lines(capa if isinstance(capa, tuple) else self._capabilities()))

    def _capabilities(self) -> tuple[bytes, ...]:
        capabilities = [b"TOP", b"UIDL", b"USER", b"RESP-CODES", b"AUTH-RESP-CODE"]
        if self._faults.announce_pipelining:
            capabilities.append(b"PIPELINING")
        if self._faults.hide_read or self._faults.delete_on_retr:
            capabilities.append(b"EXPIRE 0")
        if self._server.context is not None and not self._channel.session.tls:
            capabilities.append(b"STLS")
        return tuple(capabilities)

    def _stls(self, _: bytes) -> None:
        context, fault = self._server.context, self._faults.stls
        if context is None or self._channel.session.tls or fault == "refuse":
            self._write(b"-ERR no TLS here\r\n")
            return
        self._write(b"+OK begin TLS\r\n" + self._faults.stls_injected)
        if fault == "hang":
            self._channel.hang()
        if fault == "drop":
            self._channel.drop()
        self._user = b""
        self._channel.start_tls(context)

    def _name(self, argument: bytes) -> None:
        self._user = argument
        self._write(b"+OK password, please\r\n")

    def _pass(self, password: bytes) -> None:
        right = self._user == self._server.user and compare_digest(password, self._server.password)
        self._log_in(password, right=right, refusal=self._faults.refuse_user)

    def _apop(self, argument: bytes) -> None:
        if not self._faults.apop:
            self._unknown(argument)
            return
        user, _, digest = argument.rpartition(b" ")
        wanted = md5(self._timestamp + self._server.password, usedforsecurity=False).hexdigest().encode()
        right = user == self._server.user and compare_digest(digest.lower(), wanted)
        self._log_in(digest, right=right, refusal=self._faults.refuse_apop)

    def _log_in(self, secret: bytes, *, right: bool, refusal: bytes | None) -> None:
        if right and refusal is None:
            self._enter()
            return
        echo = b": " + secret if self._faults.echo_password_in_error else b""
        self._write(refusal or b"-ERR [AUTH] user name or password is wrong%s\r\n" % echo)
        if self._faults.drop_after_failed_login:
            self._channel.drop()

    def _enter(self) -> None:
        if not self._maildrop.acquire():
            self._write(b"-ERR [IN-USE] another session has the maildrop\r\n")
            return
        self._transaction = Transaction(self._server, self._maildrop, self._faults, self._channel)
        self._write(b"+OK %d messages\r\n" % len(self._transaction))

    def _quit(self, _: bytes) -> None:
        fault = self._faults.quit if self._transaction is not None else None
        if fault == "hang":
            self._channel.hang()
        if fault == "drop-before-commit":
            self._channel.drop()
        if self._transaction is not None and fault != "err":
            self._transaction.commit()
        self._release()  # before the reply, so that the next session finds the maildrop free
        if fault == "drop-after-commit":
            self._channel.drop()
        self._channel.session.quit = True
        self._write(b"-ERR some deleted messages not removed\r\n" if fault == "err" else b"+OK bye\r\n")

    def _release(self) -> None:
        if self._transaction is not None:
            self._transaction = None
            self._maildrop.release()
