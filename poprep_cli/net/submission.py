"""A session with an SMTP or LMTP server that takes letters, one after the other or several at once (RFC 5321, RFC 2033).

With PIPELINING (RFC 2920) a letter costs one round trip, with CHUNKING (RFC 3030) as well a part of one.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress

from poprep_cli.config.model import Address, Smtp
from poprep_cli.errors import (
    ConnectionFailed,
    LocalProtocolError,
    PoprepError,
    RemoteProtocolError,
    TemporaryReplyError,
    TlsError,
)
from poprep_cli.net.authenticate import Trial
from poprep_cli.net.bdat_transfer import BdatTransfer
from poprep_cli.net.data_transfer import DataTransfer
from poprep_cli.net.dialogue import SILENT, Dialogue
from poprep_cli.net.passage import Passages
from poprep_cli.net.proof import NO_PROOF, Proof
from poprep_cli.net.smtp_hello import hello, start_tls
from poprep_cli.net.smtp_link import SmtpLink
from poprep_cli.net.smtp_login import log_in
from poprep_cli.net.stop import Stop
from poprep_cli.net.stream import Stream
from poprep_cli.net.tls import add_fingerprint, remind
from poprep_cli.net.transaction import Letter, Outcome
from poprep_cli.protocol import smtp as core
from poprep_cli.protocol.sasl.mechanism import Credentials

BEHIND = 0.010  # seconds for the quickest answer, above which the server is far, whoever took the connection
ANNOUNCED = 1000  # characters of a proof that are worth keeping
FAREWELL = 5.0  # seconds for the reply to QUIT, which changes nothing


class Submission:
    """One open session. It is made by `open`, used by one thread, and ends with `quit` or `close`.

    `alive` says whether another letter may be sent; `extensions` is what the server announces, by keyword in capitals;
    `server` is its address for messages; `tls`, `pipelining` and `chunking` say what is in use; `warnings` says why
    there is no TLS where it was wanted.

    Letters go by `send`, and their outcomes come by `collect` in the same order:

        for letter in letters:
            while not session.room(letter, limit):
                file(session.collect())
            session.send(letter, record)
        while session.pending:
            file(session.collect())

    Who has several sessions opens them as `overlapping`, so that `send` and `flush` wait for nothing where that is
    possible, lets the ones advance that `stream.readable` tells, and collects from those that are `settled`.
    """

    __slots__ = (
        "_leaving",
        "_link",
        "_passages",
        "_smtp",
        "_stream",
        "_transfer",
        "chunking",
        "extensions",
        "overlapping",
        "pipelining",
        "server",
        "warnings",
    )

    def __init__(self, stream: Stream, smtp: Smtp, dialogue: Dialogue = SILENT) -> None:
        self._stream = stream
        self._smtp = smtp
        self._link = SmtpLink(stream, dialogue)
        self._passages = Passages()
        self.extensions: dict[str, str] = {}
        self._transfer: DataTransfer | BdatTransfer = DataTransfer(
            self._link, smtp, {}, self._passages, pipelining=False
        )
        self._leaving = False  # whether QUIT was sent
        self.pipelining = False
        self.chunking = False
        self.overlapping = False
        self.server = stream.server
        self.warnings: list[str] = []

    @classmethod
    def open(
        cls,
        smtp: Smtp,
        stop: Stop,
        credentials: Credentials | None = None,
        *,
        pipelining: bool = True,
        chunking: bool = False,
        overlapping: bool = False,
        proof: Proof = NO_PROOF,
        dialogue: Dialogue = SILENT,
    ) -> Submission:
        """Connect to the first of the addresses that has a server which is ready, agree on extensions and TLS, log in.

        `pipelining` and `chunking` are used if they are wanted here and announced there, `chunking` only with both and not
        in LMTP. `overlapping` is for one of several sessions. With the `proof` of an earlier one the first letter need not
        go alone.

        Raises ConnectionFailed or TemporaryReplyError if none is ready now; ReplyError if a server refuses for good;
        TlsError if TLS is required and can't be had; AuthenticationFailed; RemoteProtocolError; Stopped.
        """
        failure: ConnectionFailed | TemporaryReplyError | None = None
        for address in smtp.addresses:
            stop.check()
            try:
                session = cls._open_at(address, smtp, stop, credentials, dialogue)
                session.use(pipelining=pipelining, chunking=chunking, overlapping=overlapping, proof=proof)
                return session
            except (ConnectionFailed, TemporaryReplyError) as error:
                # What a server said tells more than that another one said nothing.
                if isinstance(error, TemporaryReplyError) or not isinstance(failure, TemporaryReplyError):
                    failure = error
        raise failure or ConnectionFailed("no SMTP server is configured")

    @classmethod
    def _open_at(
        cls,
        address: Address,
        smtp: Smtp,
        stop: Stop,
        credentials: Credentials | None,
        dialogue: Dialogue,
    ) -> Submission:
        session = cls._connected(address, smtp, stop, dialogue)
        try:
            if credentials is not None:
                session.log_in(credentials, address)
        except PoprepError as error:
            session.close()
            remind(error, session.warnings)
            raise
        except BaseException:
            session.close()
            raise
        return session

    @classmethod
    def _connected(cls, address: Address, smtp: Smtp, stop: Stop, dialogue: Dialogue) -> Submission:
        """Connect, agree on extensions and TLS. Where TLS is wanted and fails, do without it, and keep why in `warnings`."""
        try:
            return cls._begin(address, smtp, stop, dialogue, tls=smtp.tls != "off")
        except TlsError as error:
            if smtp.tls != "wanted" or smtp.ssl:
                from poprep_cli.net.untrusted import certificate_of_smtp

                add_fingerprint(error, lambda: certificate_of_smtp(address, smtp, stop, dialogue))
                raise
            why = f"no TLS with {address}, going on in the clear: {error}"
            dialogue.tell(why)
        stop.check()
        # A stream on which TLS failed is in an unknown state.
        try:
            session = cls._begin(address, smtp, stop, dialogue, tls=False)
        except PoprepError as error:
            remind(error, [why])
            raise
        session.warnings.append(why)
        return session

    @classmethod
    def _begin(cls, address: Address, smtp: Smtp, stop: Stop, dialogue: Dialogue, *, tls: bool) -> Submission:
        session = cls(Stream.connect(address, smtp.timeout, stop), smtp, dialogue)
        try:
            if smtp.ssl:
                session._link.encrypt(smtp.tls_settings, smtp.timeout)
            session._greet()
            if tls and not smtp.ssl:
                session._start_tls()
        except BaseException:
            session.close()
            raise
        return session

    def use(self, *, pipelining: bool, chunking: bool, overlapping: bool = False, proof: Proof = NO_PROOF) -> None:
        """Choose how letters are sent, as far as the server announces it. Only before the first one."""
        self.pipelining = pipelining and "PIPELINING" in self.extensions
        # RFC 2033 has no word on BDAT and its refusals, and few LMTP servers know it.
        self.chunking = chunking and self.pipelining and "CHUNKING" in self.extensions and self._smtp.protocol == "smtp"
        self.overlapping = overlapping
        if self.chunking:
            longest = proof.longest if proof.server == self._announces else 0
            self._transfer = BdatTransfer(self._link, self._smtp, self.extensions, self._passages, longest)
        else:
            self._transfer = DataTransfer(
                self._link,
                self._smtp,
                self.extensions,
                self._passages,
                pipelining=self.pipelining,
                overlapping=overlapping,
            )

    @property
    def _announces(self) -> str:
        return f"{self.server} {' '.join(sorted(self.extensions))}"

    @property
    def proof(self) -> Proof:
        """What this session teaches the next one with this server about its BDAT."""
        longest = self._transfer.proof if isinstance(self._transfer, BdatTransfer) else 0
        announces = self._announces
        return Proof(announces, longest) if longest and len(announces) <= ANNOUNCED else NO_PROOF

    @property
    def alive(self) -> bool:
        """Whether another letter may be sent. Outcomes may be collected all the same."""
        return self._link.alive

    @property
    def tls(self) -> bool:
        """Whether the stream is encrypted."""
        return self._stream.tls

    @property
    def round_trip(self) -> float:
        """How far away the server is, in seconds: as long as the connection took to stand; 0.0 on this machine.

        Where something near takes the connection for a server that is far, a tunnel or a proxy, answers tell.
        """
        if BEHIND < self._link.quickest < float("inf"):
            return self._link.quickest
        return 0.0 if self._stream.is_loopback else self._stream.seconds

    @property
    def pending(self) -> int:
        """How many letters were sent and their outcomes not collected."""
        return len(self._passages)

    @property
    def in_flight(self) -> int:
        """How many of the pending letters' ends have left, or may have: so many a crash leaves in doubt."""
        return self._passages.in_flight

    @property
    def settled(self) -> bool:
        """Whether `collect` has an outcome without waiting."""
        oldest = self._passages.oldest
        return oldest is not None and oldest.settled

    def fileno(self) -> int:
        """Return the number by which the system knows the connection, -1 if it is closed."""
        return self._stream.fileno()

    @property
    def has_received(self) -> bool:
        """Whether a reply, or a part of one, was read already, or nothing more can come."""
        return self._link.buffered or self._stream.has_received

    def room(self, letter: Letter, limit: int) -> bool:
        """Return whether `letter` may be sent now, with at most `limit` in flight; else an outcome must be collected.

        With nothing pending there is room. By DATA there is none while an outcome is known and not collected: it wants to be
        recorded. By BDAT it counts as in flight.
        """
        oldest = self._passages.oldest
        if oldest is None:
            return True
        return self.alive and (self.chunking or not oldest.settled) and self._transfer.room(letter, limit)

    def waits_to_send(self, letter: Letter) -> bool:
        """Whether `send` waits for replies."""
        if isinstance(self._transfer, BdatTransfer):
            return self._transfer.waits_to_send(letter)
        return not self.overlapping

    def send(self, letter: Letter, before_end: Callable[[Letter], None]) -> None:
        """Put a letter on its way, as far as it goes without waiting more than needed.

        `before_end` is called once, before any octet leaves that could complete the letter, be it in this call or in a
        later one; and not at all if its end never leaves. It never does if `before_end` raises.

        Raises ConnectionFailed if the session has ended before; Stopped; and whatever `before_end` and the letter raise,
        then the session is closed. That the session breaks now is told by `collect`.
        """
        if not self.alive:
            raise ConnectionFailed(f"the session with {self.server} has ended")
        self._guarded(lambda: self._transfer.send(letter, before_end))

    def flush(self) -> None:
        """Send what `send` has kept back, without waiting for an answer where the protocol allows that. Raises as `send`.

        By DATA the end of the last letter is sent, and its replies are waited for unless the session is `overlapping`.
        """
        if self.alive:
            self._guarded(self._transfer.finish)

    def advance(self) -> bool:
        """Wait for the replies that come next, and go on as far as they allow. Return whether more replies are to come then.

        The oldest letter may be `settled` then; it is by BDAT, and without `overlapping`. Raises as `send`.
        """
        if self.overlapping and isinstance(self._transfer, DataTransfer):
            return self._guarded(self._transfer.advance)
        return self._guarded(self._transfer.settle_oldest)

    def collect(self) -> tuple[Letter, Outcome]:
        """Return the oldest pending letter and what became of it; wait for it if that is not known.

        Raises ConnectionFailed or RemoteProtocolError if the session broke before the end of this letter had left:
        nothing was delivered then, and it is pending no longer. Stopped, and what `before_end` raises, leave it pending.
        LocalProtocolError if nothing is.
        """
        oldest = self._passages.oldest
        if oldest is None:
            raise LocalProtocolError("no letter is on its way")
        if not oldest.settled:
            self._guarded(self._transfer.settle_oldest)
        self._passages.take()
        if oldest.outcome is not None:
            return oldest.letter, oldest.outcome
        raise oldest.failure or LocalProtocolError("a letter has no outcome")

    def deliver(self, letter: Letter, before_end: Callable[[], None], following: Letter | None = None) -> Outcome:
        """Deliver one letter and return what became of it. Raises as `send` and `collect`.

        `following` is the very letter of the next call, if that is known: by DATA its envelope goes with the end of this one.
        """
        try:
            self.send(letter, lambda _: before_end())
            if self.alive:
                self._guarded(lambda: self._transfer.finish(following))
            return self.collect()[1]
        except BaseException:
            self._passages.clear()
            raise

    def _guarded(self, step: Callable[[], bool | None]) -> bool:
        """Do a step. Half a conversation can't be continued: what goes wrong closes the session and settles the letters."""
        try:
            return bool(step())
        except (ConnectionFailed, RemoteProtocolError) as error:
            self._passages.give_up(error)
            self.close()
            return False
        except BaseException as error:
            failure = (
                error if isinstance(error, PoprepError) else ConnectionFailed(f"the session was given up: {error}")
            )
            self._passages.give_up(failure)
            self.close()
            raise

    def leave(self) -> None:
        """Say QUIT; `quit` waits for the reply. Who has several sessions leaves them all first. Raises nothing but Stopped."""
        if self.alive and self._transfer.idle and not self._leaving:
            self._leaving = True
            with suppress(ConnectionFailed, RemoteProtocolError):
                self._stream.write(self._link.group(core.quit()), min(FAREWELL, self._smtp.timeout))

    def quit(self) -> None:
        """Take leave politely but briefly, and close. Raises nothing but Stopped."""
        try:
            self.leave()
            if self._leaving:
                with suppress(ConnectionFailed, RemoteProtocolError):
                    self._link.reply(min(FAREWELL, self._smtp.timeout))
        finally:
            self.close()

    def close(self) -> None:
        """Close the connection without a word. Never fails, may be called twice.

        What is pending is settled by that: not sent, or in doubt if its end has left.
        """
        self._link.close()
        self._passages.give_up(ConnectionFailed(f"the session with {self.server} has ended"))

    # The beginning of a session

    def _greet(self) -> None:
        self._link.require(self._link.reply(self._smtp.timeout), "refuses the connection")
        self.extensions = hello(self._link, self._smtp)

    def _start_tls(self) -> None:
        extensions = start_tls(self._link, self._smtp, self.extensions)
        if extensions is None:
            self.warnings.append(f"{self.server} does not offer STARTTLS; going on in the clear")
        else:
            self.extensions = extensions

    def log_in(self, credentials: Credentials, address: Address, trial: Trial | None = None) -> None:
        """Log in on a session that `open` made without credentials; with a `trial` by its method alone."""
        password = credentials.password.encode()
        self._link.mask(password, b64encode(password))
        dialogue, announces = self._link.dialogue, self.extensions.get("AUTH")
        log_in(self._smtp, credentials, address, self._stream, announces, self._link.ask, trial, dialogue)
        self._link.forget_secrets()
