"""A session with an SMTP or LMTP server that takes letters one after the other (RFC 5321, RFC 2033, RFC 2920).

With PIPELINING the end of one letter and the envelope of the following one leave in one write, so that a letter costs
one round trip.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from poprep_cli.config.model import Address, Smtp
from poprep_cli.errors import (
    ConnectionFailed,
    LocalProtocolError,
    RemoteProtocolError,
    ReplyError,
    TemporaryReplyError,
    TlsError,
)
from poprep_cli.net.smtp_login import log_in
from poprep_cli.net.stop import Stop
from poprep_cli.net.stream import Stream, local_name, refuse_early
from poprep_cli.net.transaction import Letter, Outcome, Transaction
from poprep_cli.protocol import smtp as core
from poprep_cli.protocol.sasl.mechanism import Credentials
from poprep_cli.protocol.smtp import Command, Reply, SmtpClient
from poprep_cli.protocol.wire import TERMINATOR

WINDOW = 100  # commands in one group: more could fill both directions while neither side reads (RFC 2920 3.1)
FAREWELL = 5.0  # seconds for the reply to QUIT, which changes nothing
LAST_WORDS = 1.0  # seconds for what a server has to say that stopped reading


class Submission:
    """One open session. It is made by `open`, used by one thread, and ends with `quit` or `close`.

    `alive` says whether another letter may be delivered; `extensions` is what the server announces, by keyword in
    capitals; `server` is its address for messages; `tls` and `pipelining` say what is in use.
    """

    __slots__ = ("_client", "_ready", "_reset", "_smtp", "_stream", "alive", "extensions", "pipelining", "server")

    def __init__(self, stream: Stream, smtp: Smtp) -> None:
        self._stream = stream
        self._smtp = smtp
        self._client = SmtpClient()
        self._ready: Transaction | None = None  # whose group was sent with the end of the letter before
        self._reset = False  # whether a transaction failed half-way, so that RSET goes before the next one
        self.alive = True
        self.extensions: dict[str, str] = {}
        self.pipelining = False
        self.server = stream.server

    @classmethod
    def open(
        cls, smtp: Smtp, stop: Stop, credentials: Credentials | None = None, *, pipelining: bool = True
    ) -> Submission:
        """Connect to the first of the addresses that has a server which is ready, agree on extensions and TLS, log in.

        Raises ConnectionFailed or TemporaryReplyError if none is ready now; ReplyError if a server refuses for good;
        TlsError if TLS is required and can't be had; AuthenticationFailed; RemoteProtocolError; Stopped.
        """
        failure: ConnectionFailed | TemporaryReplyError | None = None
        for address in smtp.addresses:
            stop.check()
            try:
                return cls._open_at(address, smtp, stop, credentials, pipelining=pipelining)
            except (ConnectionFailed, TemporaryReplyError) as error:
                # What a server said tells more than that another one said nothing.
                if isinstance(error, TemporaryReplyError) or not isinstance(failure, TemporaryReplyError):
                    failure = error
        raise failure or ConnectionFailed("no SMTP server is configured")

    @classmethod
    def _open_at(
        cls, address: Address, smtp: Smtp, stop: Stop, credentials: Credentials | None, *, pipelining: bool
    ) -> Submission:
        lax = smtp.tls == "wanted" and not smtp.ssl
        try:
            return cls._begin(address, smtp, stop, credentials, pipelining=pipelining, tls=smtp.tls != "off")
        except TlsError:
            if not lax:
                raise
        stop.check()
        # A stream on which TLS failed is in an unknown state.
        return cls._begin(address, smtp, stop, credentials, pipelining=pipelining, tls=False)

    @classmethod
    def _begin(
        cls, address: Address, smtp: Smtp, stop: Stop, credentials: Credentials | None, *, pipelining: bool, tls: bool
    ) -> Submission:
        session = cls(Stream.connect(address, smtp.timeout, stop), smtp)
        try:
            if smtp.ssl:
                session._stream.start_tls(smtp.tls_settings, smtp.timeout)
            session._require(session._reply(smtp.timeout), "refuses the connection")
            session._hello()
            if tls and not smtp.ssl:
                session._start_tls()
            if credentials is not None:
                announces = session.extensions.get("AUTH")
                log_in(smtp, credentials, address, session._stream, announces, session._ask)
            session.pipelining = pipelining and "PIPELINING" in session.extensions
        except BaseException:
            session.close()
            raise
        return session

    @property
    def tls(self) -> bool:
        """Whether the stream is encrypted."""
        return self._stream.tls

    def deliver(self, letter: Letter, before_end: Callable[[], None], following: Letter | None = None) -> Outcome:
        """Deliver one letter and return what became of it.

        `before_end` is called before the last octets of the mail data leave, and not at all if they never do. `following`
        is the letter of the next call, if that is known: its envelope goes out with the end of this one; the next call
        must be for the very same object.

        Raises ConnectionFailed or RemoteProtocolError if the session broke before the end of data: nothing was delivered
        then, and a new session is needed; Stopped at any point; and whatever `before_end` and the letter raise.
        """
        transaction, self._ready = self._ready, None
        if transaction is not None and transaction.letter is not letter:
            self.close()
            raise LocalProtocolError("the letter announced as the following one is not the next one")
        transaction = transaction or self._transaction(letter)
        if not transaction.commands:
            return transaction.outcome()
        if not self.alive:
            raise ConnectionFailed(f"the session with {self.server} has ended")
        try:
            if not self._envelope(transaction):
                return transaction.outcome()
            return self._content(transaction, before_end, following)
        except BaseException:
            # Half a conversation can't be continued, and mail data without its end was never sent.
            self.close()
            raise

    def quit(self) -> None:
        """Take leave politely but briefly, and close. Raises nothing but Stopped."""
        try:
            if self.alive and self._ready is None:
                patience = min(FAREWELL, self._smtp.timeout)
                with suppress(ConnectionFailed, RemoteProtocolError):
                    self._ask(core.quit(), patience)
        finally:
            self.close()

    def close(self) -> None:
        """Close the connection without a word. Never fails, may be called twice."""
        self.alive = False
        self._stream.close()

    # The beginning of a session

    def _hello(self) -> None:
        """Introduce ourselves and learn the extensions; HELO where there are none. LMTP has no such way out."""
        name = self._name()
        lmtp = self._smtp.protocol == "lmtp"
        self.extensions = {}
        reply = self._ask(core.ehlo(name, lmtp=lmtp), self._smtp.timeout)
        if reply.permanent and not lmtp:
            self._require(self._ask(core.helo(name), self._smtp.timeout), "refuses EHLO and HELO")
            return
        self._require(reply, f"refuses {reply.command.verb}")
        self.extensions = core.parse_extensions(reply)

    def _name(self) -> str:
        if self._smtp.helo is not None:
            return self._smtp.helo
        name = local_name()
        if "." in name and core.is_host(name):
            return name
        address = self._stream.local_address() or "127.0.0.1"
        return f"[IPv6:{address}]" if ":" in address else f"[{address}]"

    def _start_tls(self) -> None:
        """Do STARTTLS (RFC 3207) and learn the extensions again. With "wanted", a server that offers none is left alone."""
        if "STARTTLS" not in self.extensions:
            if self._smtp.tls == "wanted":
                return
            raise TlsError(
                f"{self.server} doesn't offer STARTTLS, and TLS is required",
                hint='ssl = true if it is a TLS port (465); tls = "wanted" sends mail in the clear',
            )
        reply = self._ask(core.starttls(), self._smtp.timeout)
        if not reply.positive:
            raise TlsError(f"{self.server} refuses STARTTLS: {reply}", hint='tls = "wanted" sends mail in the clear')
        refuse_early(self._client.forget(), self.server)
        self._stream.start_tls(self._smtp.tls_settings, self._smtp.timeout)
        self._hello()

    def _require(self, reply: Reply, what: str) -> None:
        """Return if `reply` is positive. Raises the error that says `what` the server does, and its words."""
        if reply.positive:
            return
        message = f"{self.server} {what}: {reply}"
        if reply.transient:
            raise TemporaryReplyError(message, reply=reply)
        if reply.permanent:
            raise ReplyError(message, reply=reply)
        raise self._out_of_step(reply)

    # One letter

    def _transaction(self, letter: Letter) -> Transaction:
        return Transaction(letter, self.extensions, reset=self._reset)

    def _envelope(self, transaction: Transaction) -> bool:
        """Bring the envelope to its end and return whether the server waits for the mail data."""
        while not transaction.finished:
            reply = self._next(transaction)
            if reply.code == 421:
                transaction.cut_short(reply)
                self.close()
                return False
            if not transaction.take(reply):
                raise self._out_of_step(reply)
        self._reset = not transaction.go_ahead
        if transaction.go_ahead and not transaction.paths:
            self._send_nothing(transaction)
            return False
        return transaction.go_ahead

    def _next(self, transaction: Transaction) -> Reply:
        """Return the reply to the transaction's next command; send the next window of commands if none is outstanding."""
        if transaction.sent == transaction.answered:
            self._stream.write(self._client.send(*transaction.window(self._window)), self._smtp.timeout)
        return self._reply(self._smtp.timeout)

    @property
    def _window(self) -> int:
        return WINDOW if self.pipelining else 1

    def _send_nothing(self, transaction: Transaction) -> None:
        """End mail data that is for nobody, which the server has asked for all the same (RFC 2920 3.1)."""
        self._reset = True
        if transaction.refused is not None or self._smtp.protocol == "lmtp":
            self.close()  # who could it be for? RFC 2033 4.2 doesn't know this case
            return
        self._client.expect_end_of_data()
        # The letter's verdicts stand, whatever becomes of the line.
        try:
            self._stream.write(b".\r\n", self._smtp.timeout)
            reply = self._reply(self._smtp.data_timeout)
        except (ConnectionFailed, RemoteProtocolError):
            self.close()
            return
        if reply.code == 421:
            self.close()

    def _content(self, transaction: Transaction, before_end: Callable[[], None], following: Letter | None) -> Outcome:
        """Send the mail data, the following group with its end, and take the replies to that end."""
        last = b""
        self._client.expect_end_of_data(self._ends(transaction))
        try:
            for part in transaction.letter.wire():
                if last:
                    self._stream.write(last, self._smtp.timeout)
                last = part
        except ConnectionFailed as error:
            return self._last_words(transaction, error, ended=False)
        if not last.endswith(TERMINATOR) and last != TERMINATOR[2:]:
            raise LocalProtocolError("the mail data of a letter has no end")
        group = self._group(following)
        before_end()
        try:
            self._stream.write(last + group if group else last, self._smtp.timeout)
        except ConnectionFailed as error:
            return self._last_words(transaction, error, ended=True)
        return self._verdicts(transaction)

    def _ends(self, transaction: Transaction) -> int:
        return len(transaction.paths) if self._smtp.protocol == "lmtp" else 1

    def _group(self, following: Letter | None) -> bytes:
        """Return the whole envelope of the following letter if it may be sent ahead, else nothing."""
        if following is None or not self.pipelining:
            return b""
        transaction = self._transaction(following)
        if not 0 < len(transaction.commands) <= WINDOW:
            return b""
        self._ready = transaction
        return self._client.send(*transaction.window(WINDOW))

    def _verdicts(self, transaction: Transaction) -> Outcome:
        """Take the replies to the end of data: 2yz, 4yz and 5yz settle it, everything else leaves it in doubt."""
        paths = transaction.paths
        groups = [(path,) for path in paths] if self._smtp.protocol == "lmtp" else [tuple(paths)]
        ending = False
        for group in groups:
            try:
                reply = self._reply(self._smtp.data_timeout)
            except (ConnectionFailed, RemoteProtocolError) as error:
                self.close()
                return transaction.outcome(f"the end of the message was sent, then: {error}")
            if not transaction.settle(group, reply, "end-of-data"):
                self.close()
                return transaction.outcome(f"{self.server} answered {reply} to the end of the message")
            ending = ending or reply.code == 421
        if ending:
            self.close()
        return transaction.outcome()

    def _last_words(self, transaction: Transaction, error: ConnectionFailed, *, ended: bool) -> Outcome:
        """Return what a server said that stopped reading, such as 552. Else raise, or say that the end is in doubt."""
        reply = None
        with suppress(ConnectionFailed, RemoteProtocolError):
            reply = self._reply(min(LAST_WORDS, self._smtp.timeout))
        self.close()
        if reply is not None and (reply.transient or reply.permanent):
            transaction.settle(tuple(transaction.paths), reply, "end-of-data")
            return transaction.outcome()
        if ended:
            return transaction.outcome(f"the line broke while the end of the message was being sent: {error}")
        raise error

    # Commands and replies

    def _ask(self, command: Command, timeout: float) -> Reply:
        self._stream.write(self._client.send(command), timeout)
        return self._reply(timeout)

    def _reply(self, timeout: float) -> Reply:
        """Return the next reply, all of which must be here in `timeout` seconds."""
        deadline = time.monotonic() + timeout
        try:
            while (reply := self._client.next_reply()) is None:
                self._client.receive(self._stream.read(deadline))
        except RemoteProtocolError as error:
            raise RemoteProtocolError(f"{self.server}: {error}") from error
        return reply

    def _out_of_step(self, reply: Reply) -> RemoteProtocolError:
        return RemoteProtocolError(f"{self.server} answered {reply} to {reply.command.verb}, which makes no sense")
