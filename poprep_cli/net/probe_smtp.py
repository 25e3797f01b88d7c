"""A look at an SMTP or LMTP server: greeting, EHLO before and after STARTTLS, AUTH, SIZE. Nothing is sent but these."""

from __future__ import annotations

from contextlib import suppress
from typing import get_args

from msgspec.structs import replace

from poprep_cli.config.model import Address, Smtp
from poprep_cli.errors import (
    ConnectionFailed,
    ExitCode,
    PoprepError,
    RemoteProtocolError,
    ReplyError,
    Stopped,
    TemporaryReplyError,
    TlsError,
)
from poprep_cli.net import tls
from poprep_cli.net.authenticate import is_bindable
from poprep_cli.net.dialogue import SILENT, Dialogue
from poprep_cli.net.helo import helo_name
from poprep_cli.net.probe import tls_found
from poprep_cli.net.probe_found import SmtpFound, methods_of
from poprep_cli.net.probe_login import warn_of_tls
from poprep_cli.net.smtp_link import SmtpLink
from poprep_cli.net.stop import Stop
from poprep_cli.net.stream import Stream
from poprep_cli.protocol import smtp as core
from poprep_cli.protocol.sasl.methods import SASL, SmtpMethod, Surroundings, announced, candidates, described
from poprep_cli.protocol.smtp import Command, Reply
from poprep_cli.protocol.wire import printable


def probe_smtp(smtp: Smtp, stop: Stop, found: list[SmtpFound], dialogue: Dialogue = SILENT) -> None:
    """Look at each of the addresses, the first one first, and append what there is to `found`. User and password are not used.

    `dialogue` gets the transcript.
    """
    for address in smtp.addresses:
        one = SmtpFound(str(address), smtp.protocol, ssl=smtp.ssl, login_needed=smtp.user is not None)
        found.append(one)
        try:
            _Probe(address, smtp, stop, one, dialogue).run()
        except Stopped as stopped:
            one.problem = one.problem or stopped
            return


def smtp_exit_code(found: list[SmtpFound]) -> ExitCode:
    """Return what a pass would make of the addresses: one that is not there, or not now, is passed over."""
    code = ExitCode.OK
    for one in found:
        code = one.exit_code
        if not isinstance(one.problem, ConnectionFailed | TemporaryReplyError):
            return code
    return code


class _Probe:
    """A probe of one address, over as many connections as it takes."""

    def __init__(self, address: Address, smtp: Smtp, stop: Stop, found: SmtpFound, dialogue: Dialogue) -> None:
        self._dialogue = dialogue
        self._address = address
        self._smtp = smtp
        self._stop = stop
        self._found = found

    def run(self) -> None:
        """Go the way of a submission, and look closer if TLS ends it. Raises Stopped."""
        found, smtp = self._found, self._smtp
        lax = smtp.tls == "wanted" and not smtp.ssl
        try:
            self._look(smtp, encrypt=smtp.tls != "off")
        except Stopped:
            raise
        except TlsError as error:
            found.problem = None if lax else error
            found.starttls = found.starttls and "accepted, but TLS failed"
            self._look_closer(error)
            if lax:
                found.warnings.append(f'no TLS, and with tls = "wanted" mail goes on in the clear: {error}')
        except PoprepError as error:
            found.problem = error
        warn_of_tls(found)

    def _look_closer(self, error: TlsError) -> None:
        settings = replace(self._smtp, tls_settings=tls.unverified(self._smtp.tls_settings))
        lax = self._found.problem is None
        for each, encrypt in ((settings, True), (replace(self._smtp, ssl=False), False)):
            if encrypt or lax or self._found.extensions is None:
                with suppress(ConnectionFailed, TlsError, RemoteProtocolError, ReplyError):
                    self._look(each, encrypt=encrypt, refused=str(error))

    def _look(self, smtp: Smtp, *, encrypt: bool, refused: str = "") -> None:
        stream = Stream.connect(self._address, smtp.timeout, self._stop)
        self._found.peer, self._found.connect_seconds = stream.peer, stream.seconds
        try:
            self._converse(stream, smtp, encrypt=encrypt, refused=refused)
        finally:
            stream.close()

    def _converse(self, stream: Stream, smtp: Smtp, *, encrypt: bool, refused: str) -> None:
        found = self._found
        session = _Session(stream, smtp, self._dialogue)
        if smtp.ssl:
            session.encrypt()
            found.tls = tls_found(stream, self._smtp.tls_settings, refused)
        greeting = session.reply()
        found.greeting = str(greeting)
        _require(greeting, f"{stream.server} refuses the connection")
        extensions = session.hello()
        found.secure = stream.tls
        if stream.tls:
            found.secured = extensions
        else:
            found.clear = extensions
            found.secured = None
        if encrypt and not smtp.ssl and self._start_tls(stream, session, extensions):
            found.tls = tls_found(stream, self._smtp.tls_settings, refused)
            found.secured = extensions = session.hello()
            found.secure = True
        self._conclude(stream, extensions)
        with suppress(PoprepError):
            session.send(core.quit())

    def _start_tls(self, stream: Stream, session: _Session, extensions: dict[str, str]) -> bool:
        found, smtp = self._found, self._smtp
        if "STARTTLS" in extensions:
            reply = session.ask(core.starttls())
            found.starttls = str(reply)
            if reply.positive:
                session.encrypt()
                return True
            why = f"{stream.server} refuses STARTTLS: {reply}"
        else:
            found.starttls = "not offered"
            why = f"{stream.server} does not offer STARTTLS"
        if smtp.tls == "wanted":
            found.warnings.append(f'{why}; with tls = "wanted" mail goes on in the clear')
            return False
        found.problem = found.problem or TlsError(
            why, hint="ssl = true if it is a TLS port (465); if it offers TLS elsewhere, somebody may be hiding it here"
        )
        return False

    def _conclude(self, stream: Stream, extensions: dict[str, str]) -> None:
        """Note which methods a login could use."""
        found, smtp = self._found, self._smtp
        mechanisms = extensions.get("AUTH", "").split()
        around = Surroundings(
            encrypted=stream.tls or self._address.is_local or stream.is_loopback,
            tls=stream.tls,
            clear_text=smtp.clear_text,
            clear_text_key="smtp.clear_text",
        )
        binding = is_bindable(stream)
        sources = {"EHLO": announced(mechanisms)}
        for text in described(sources, candidates(smtp.auth, sources, around)):
            self._dialogue.tell(text)
        found.methods = methods_of(smtp.auth, get_args(SmtpMethod), sources, around, key="smtp.auth", binding=binding)
        found.unsupported = tuple(
            dict.fromkeys(printable(name.upper(), 40) for name in mechanisms if name.lower() not in SASL)
        )


class _Session:
    """A conversation over a stream: commands and their replies, each within the timeout of the settings."""

    def __init__(self, stream: Stream, smtp: Smtp, dialogue: Dialogue) -> None:
        self._stream = stream
        self._smtp = smtp
        self._link = SmtpLink(stream, dialogue)

    def hello(self) -> dict[str, str]:
        """Introduce ourselves and return the extensions, printable; none where only HELO is known. Raises ReplyError."""
        name, lmtp = helo_name(self._smtp, self._stream), self._smtp.protocol == "lmtp"
        reply = self.ask(core.ehlo(name, lmtp=lmtp))
        if reply.permanent and not lmtp:
            _require(self.ask(core.helo(name)), f"{self._stream.server} refuses EHLO and HELO")
            return {}
        _require(reply, f"{self._stream.server} refuses {reply.command.verb}")
        return {keyword: printable(words) for keyword, words in core.parse_extensions(reply).items()}

    def encrypt(self) -> None:
        """Begin TLS. Raises TlsError; RemoteProtocolError for what came in the clear."""
        self._link.encrypt(self._smtp.tls_settings, self._smtp.timeout)

    def ask(self, command: Command) -> Reply:
        """Send a command and return its reply."""
        self.send(command)
        return self.reply()

    def send(self, command: Command) -> None:
        """Send a command."""
        self._stream.write(self._link.group(command), self._smtp.timeout)

    def reply(self) -> Reply:
        """Return the next reply, all of which must be here within the timeout."""
        return self._link.reply(self._smtp.timeout)


def _require(reply: Reply, what: str) -> None:
    if reply.positive:
        return
    if reply.transient:
        raise TemporaryReplyError(f"{what}: {reply}", reply=reply)
    if reply.permanent:
        raise ReplyError(f"{what}: {reply}", reply=reply)
    raise RemoteProtocolError(f"{what} by an answer that makes no sense: {reply}")
