"""A look at a POP3 server: everything that it says before a login, and what a login would meet. No credential is sent.

It goes the way that a login goes. Where that ends early it looks again on a fresh connection, with the rule that ended
it waived: without verifying the certificate, without TLS, or with TLS at once. What is seen there only explains.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime

from msgspec.structs import replace

from poprep_cli.config.model import Pop3, TlsSettings
from poprep_cli.errors import ConnectionFailed, PoprepError, RemoteProtocolError, Stopped, TlsError
from poprep_cli.net import tls
from poprep_cli.net.authenticate import is_bindable
from poprep_cli.net.certificate import read_certificate
from poprep_cli.net.detect import NO_MEMORY, Detected, Detector
from poprep_cli.net.dialogue import SILENT, Dialogue
from poprep_cli.net.link import Link
from poprep_cli.net.probe_found import Answers, Pop3Found, TlsFound, methods_of
from poprep_cli.net.probe_login import login_steps, warn
from poprep_cli.net.refusal import refuse_greeting
from poprep_cli.net.stop import Stop
from poprep_cli.net.stream import Stream
from poprep_cli.protocol import pop3 as commands
from poprep_cli.protocol.sasl.methods import ORDER, SASL, candidates, described
from poprep_cli.protocol.wire import printable


def probe_pop3(pop3: Pop3, stop: Stop, found: Pop3Found, *, free: bool, dialogue: Dialogue = SILENT) -> None:
    """Look at the server of `pop3` and fill in `found`. With `free` settings TLS at once is taken for what is meant.

    Returns whatever the server does; `found.problem` is what a login would end with. User and password are not used.
    `dialogue` gets the transcript.
    """
    probe = _Probe(pop3, stop, found, dialogue)
    try:
        probe.run()
        if free and found.speaks_tls_at_once:
            found.notes.append("the server waits for TLS at once on this port: probed as with ssl = true")
            found.problem, found.tls, found.ssl = None, None, True
            found.warnings.clear()
            _Probe(replace(pop3, ssl=True), stop, found, dialogue).run()
    except Stopped as stopped:
        found.problem = found.problem or stopped


class _Probe:
    """One probe, over as many connections as it takes."""

    def __init__(self, pop3: Pop3, stop: Stop, found: Pop3Found, dialogue: Dialogue) -> None:
        self._dialogue = dialogue
        self._pop3 = pop3
        self._stop = stop
        self._found = found
        self._detector = Detector(pop3, NO_MEMORY)

    def run(self) -> None:
        """Go the way of a login, and look closer where it ends early. Raises Stopped."""
        found = self._found
        try:
            self._as_a_login_does()
        except Stopped:
            raise
        except PoprepError as error:
            found.problem = error
            self._look_closer(error)
        warn(found)

    def _as_a_login_does(self) -> None:
        pop3 = self._pop3
        lax = pop3.tls == "wanted" and not pop3.ssl
        try:
            self._look(pop3, encrypt=pop3.tls != "off")
            return
        except (TlsError, RemoteProtocolError) as error:
            if not lax:
                raise
            why = error
        self._found.warnings.append(f'no TLS, and with tls = "wanted" a poll goes on in the clear: {why}')
        self._look_inside(why)  # first, so that what holds for the login comes last
        self._found.secured = None
        self._look(pop3, encrypt=False)

    def _look_closer(self, error: PoprepError) -> None:
        """Find out more about an error, on connections of their own; what fails there has nothing to add."""
        found, pop3 = self._found, self._pop3
        if not found.peer:
            return  # nobody there
        broke = isinstance(error.__cause__, TimeoutError | ConnectionFailed)
        if isinstance(error, TlsError) and not broke and self._look_inside(error):
            return
        with suppress(ConnectionFailed, TlsError, RemoteProtocolError):
            if pop3.ssl:
                self._look(replace(pop3, ssl=False), encrypt=False)
                found.speaks_clear = True
            elif found.greeting is None and isinstance(error, ConnectionFailed):
                at_once = replace(pop3, ssl=True, tls_settings=tls.unverified(pop3.tls_settings))
                self._look(at_once, encrypt=False, refused=str(error))
                found.speaks_tls_at_once = True
            elif found.greeting is not None and isinstance(error, TlsError | RemoteProtocolError):
                self._look(pop3, encrypt=False)

    def _look_inside(self, error: PoprepError) -> bool:
        """Look what is inside TLS that a pass refuses, and return whether TLS could be had."""
        lax = tls.unverified(self._pop3.tls_settings)
        for settings in (lax, replace(lax, min_version="1.0")):
            with suppress(ConnectionFailed, TlsError, RemoteProtocolError):
                self._look(replace(self._pop3, tls_settings=settings), encrypt=True, refused=str(error))
            if self._found.tls is not None:
                return True
        return False

    def _look(self, pop3: Pop3, *, encrypt: bool, refused: str = "") -> None:
        """Look at the server by these settings; a question that it does not answer costs one more connection, as with a login."""
        while True:
            try:
                self._look_once(pop3, encrypt=encrypt, refused=refused)
                return
            except ConnectionFailed as error:
                question, self._detector.asking = self._detector.asking, ""
                self._stop.check()
                if not question:
                    raise
                self._detector.mute.add(question)
                self._dialogue.tell(f"{question} is not answered, which cost the connection: {error}")
                self._found.muted = (*self._found.muted, question)
                self._found.warnings.append(f"{question} is not answered, and the connection is lost: {error}")

    def _look_once(self, pop3: Pop3, *, encrypt: bool, refused: str) -> None:
        found = self._found
        stream = Stream.connect(pop3.address, pop3.timeout, self._stop)
        found.peer, found.connect_seconds = stream.peer, stream.seconds
        link = Link(pop3, self._stop, self._dialogue, stream=stream)
        try:
            found.greeting = str(link.greeting)
            found.apop = commands.timestamp(link.greeting) is not None
            if pop3.ssl:
                self._note_tls(link, refused)
            refuse_greeting(link)
            detected = self._ask_capa(link)
            if encrypt and not pop3.ssl and self._start_tls(link, detected):
                self._note_tls(link, refused)
                detected = self._ask_capa(link)
            found.asks_auth = self._detector.asks_auth(link, detected)
            try:
                self._detector.auth_list(link, detected, always=True)
            finally:
                self._note_answers(link, detected)
            self._conclude(link, detected)
            with suppress(PoprepError):
                link.send(commands.QUIT)
        finally:
            link.close()

    def _start_tls(self, link: Link, detected: Detected) -> bool:
        """Do STLS and return whether the line is encrypted now. Raises TlsError if TLS fails."""
        found, server = self._found, link.stream.server
        if detected.capabilities is not None and "STLS" not in detected.capabilities:
            found.starttls = "not offered"
            self._without_tls(f"{server} does not offer STLS")
            return False
        try:
            reply = link.start_tls()
        except ConnectionFailed as error:
            found.starttls = f"no answer: {error}"
            raise TlsError(f"{server} did not go on after STLS: {error}") from error
        except TlsError:
            found.starttls = "accepted, but the handshake failed"
            raise
        found.starttls = str(reply)
        if not reply.ok:
            self._without_tls(f"{server} refused STLS: {reply}")
        return reply.ok

    def _without_tls(self, why: str) -> None:
        if self._pop3.tls == "wanted":
            self._found.warnings.append(f'{why}; with tls = "wanted" a poll goes on in the clear')
            return
        self._found.problem = self._found.problem or TlsError(
            why, hint="try its TLS port (ssl = true, 995); if it has one, somebody on the way may be hiding STLS"
        )

    # What was seen

    def _ask_capa(self, link: Link) -> Detected:
        detected = self._detector.capa(link)
        self._note_answers(link, detected)
        return detected

    def _note_answers(self, link: Link, detected: Detected) -> None:
        capabilities = detected.capabilities
        answers = Answers(
            None if capabilities is None else {printable(name): _words(words) for name, words in capabilities.items()},
            None if detected.listed is None else _words(detected.listed),
            {question: self._fate(question, detected) for question in ("CAPA", "AUTH")},
        )
        if link.stream.tls:
            self._found.secured = answers
        else:
            self._found.clear = answers

    def _fate(self, question: str, detected: Detected) -> str:
        if question.lower() not in self._pop3.detect:
            return "not asked (switched off in pop3.detect)"
        if question in self._detector.mute or question == self._detector.asking:
            return "no answer"
        return detected.replies.get(question, "not asked")

    def _note_tls(self, link: Link, refused: str) -> None:
        self._found.tls = tls_found(link.stream, self._pop3.tls_settings, refused)
        self._found.secure = True

    def _conclude(self, link: Link, detected: Detected) -> None:
        """Note what a login on this connection would do."""
        found, pop3 = self._found, self._pop3
        around = self._detector.surroundings(link, detected)
        binding = is_bindable(link.stream)
        found.secure = link.stream.tls
        found.methods = methods_of(pop3.auth, ORDER, detected.sources, around, key="pop3.auth", binding=binding)
        names = [*(detected.capabilities or {}).get("SASL", ()), *(detected.listed or ())]
        found.unsupported = tuple(
            dict.fromkeys(printable(name.upper(), 40) for name in names if name.lower() not in SASL)
        )
        for text in described(detected.sources, candidates(pop3.auth, detected.sources, around)):
            self._dialogue.tell(text)
        found.steps = login_steps(found, asks_capa=_asks(self._detector, pop3), at_connect=found.ssl)


def tls_found(stream: Stream, settings: TlsSettings, refused: str) -> TlsFound:
    """Return what there is to say of the TLS of `stream`; `refused` is why a pass by these `settings` would not accept it."""
    der = stream.certificate()
    version, _, cipher = stream.cipher().partition(", ")
    verified = "verified" if settings.verify else "not verified (tls_verify = false)"
    return TlsFound(
        version="TLS 1.0" if version == "TLSv1" else version.replace("TLSv", "TLS "),
        cipher=cipher,
        certificate=read_certificate(der, datetime.now(UTC)) if der else None,
        verified="pinned by tls_fingerprint" if settings.fingerprint else verified,
        refused=refused,
        expected_name=tls.server_name(stream.host),
    )


def _asks(detector: Detector, pop3: Pop3) -> bool:
    return "capa" in pop3.detect and "CAPA" not in detector.mute


def _words(words: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(map(printable, words))
