"""From a connection to the TRANSACTION state: TLS by the rules, then the methods, most secure first, until one works."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass, field, replace

from poprep_cli.config.model import Pop3
from poprep_cli.errors import (
    AuthenticationFailed,
    ConnectionFailed,
    LocalProtocolError,
    PoprepError,
    RemoteProtocolError,
    ReplyError,
    TemporaryReplyError,
    TlsError,
)
from poprep_cli.net.authenticate import Turn, exchange, make
from poprep_cli.net.detect import NO_MEMORY, Detected, Detector, Memory
from poprep_cli.net.link import Link
from poprep_cli.net.stop import Stop
from poprep_cli.protocol import pop3 as commands
from poprep_cli.protocol.pop3 import Reply
from poprep_cli.protocol.sasl.mechanism import Credentials
from poprep_cli.protocol.sasl.methods import REVERSIBLE, Candidate, candidates

INITIAL_RESPONSE = 255 - 2  # octets of the whole AUTH command without its CRLF (RFC 2449 4, RFC 5034 4)

_FOR_NOW = ("IN-USE", "LOGIN-DELAY", "SYS/TEMP")  # RFC 2449 8.1, RFC 3206


@dataclass(frozen=True, slots=True)
class Failure:
    """A method that was tried in vain: why, and whether it cost the connection."""

    method: str
    why: str
    hung_up: bool


@dataclass(slots=True)
class Session:
    """An authenticated connection. `capabilities` is None where the server doesn't know CAPA.

    `failures` are the methods that were tried before `method` worked; `memory` is what saves the next login round trips.
    """

    link: Link
    capabilities: dict[str, tuple[str, ...]] | None
    method: str
    warnings: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    memory: Memory = NO_MEMORY


def log_in(pop3: Pop3, password: str, stop: Stop, memory: Memory = NO_MEMORY) -> Session:
    """Connect to the server and log in. `memory` is what the last login left.

    Raises ConnectionFailed, TlsError, AuthenticationFailed, TemporaryReplyError (in use, too early), ReplyError,
    RemoteProtocolError, Stopped. No credential is sent before the TLS that the settings require.
    """
    attempt = _Attempt(pop3, password, stop, memory)
    try:
        return attempt.run()
    except BaseException:
        attempt.close()
        raise


class _Attempt:
    """One login, over as many connections as it takes."""

    def __init__(self, pop3: Pop3, password: str, stop: Stop, memory: Memory) -> None:
        self._pop3 = pop3
        self._stop = stop
        self._credentials = Credentials(pop3.user, password, pop3.domain)
        self._detector = Detector(pop3, memory)
        self._link: Link | None = None
        self._detected = Detected()
        self._clear = False  # "wanted" TLS was tried and could not be had
        self._warnings: list[str] = []
        self._failures: list[Failure] = []
        self._refused_by: Link | None = None  # the connection on which a method was refused
        self._broke = False
        self._garbage: RemoteProtocolError | None = None

    def run(self) -> Session:
        """Try one method after the other."""
        while True:
            link = self._ready()
            found = candidates(
                self._pop3.auth,
                self._detected.sources,
                self._detector.surroundings(link, self._detected),
                self._detector.preferred(link, self._detected),
            )
            tried = {failure.method for failure in self._failures}
            candidate = next((one for one in found if one.usable and one.method not in tried), None)
            if candidate is None:
                raise self._failed(found)
            reply = self._try(link, candidate)
            if reply is None:
                continue
            if reply.ok:
                return self._session(link, candidate.method)
            self._weigh(reply, link, candidate)
            if reply.code == "AUTH" and candidate.method in REVERSIBLE:
                raise self._failed(found)

    def _session(self, link: Link, method: str) -> Session:
        announcements = self._detector.announcements(link, self._detected)
        memory = Memory(method, announcements, tuple(sorted(self._detector.mute)))
        return Session(link, self._detected.capabilities, method, self._warnings, self._failures, memory)

    def close(self) -> None:
        """Drop the line."""
        if self._link is not None:
            self._link.close()
            self._link = None

    # A connection that is ready for a method

    def _ready(self) -> Link:
        """Return a connection in the AUTHORIZATION state, with the TLS that the settings ask for."""
        while self._link is None:
            try:
                self._connect()
            except ConnectionFailed:
                self.close()
                question, self._detector.asking = self._detector.asking, ""
                if not question or self._stop.tripped:
                    raise
                # A server that hangs or hangs up on the question costs one reconnect; then it is not asked again.
                self._detector.mute.add(question)
            except (TlsError, RemoteProtocolError) as error:
                self.close()
                if self._pop3.tls != "wanted" or self._pop3.ssl or self._clear:
                    raise
                self._clear = True
                self._warnings.append(f"no TLS with {self._pop3.address}, going on in the clear: {error}")
        return self._link

    def _connect(self) -> None:
        self._link = link = Link(self._pop3, self._stop)
        if not link.greeting.ok:
            _raise_if_for_now(link.greeting, link.stream.server)
            raise ReplyError(f"{link.stream.server} refused the connection: {link.greeting}", reply=link.greeting)
        self._detected = self._detector.capa(link)
        if not (self._pop3.ssl or self._pop3.tls == "off" or self._clear):
            self._start_tls(link)
        self._detector.auth_list(link, self._detected)

    def _start_tls(self, link: Link) -> None:
        server, capabilities = link.stream.server, self._detected.capabilities
        if capabilities is not None and "STLS" not in capabilities:
            self._without_tls(f"{server} does not offer STLS")
            return
        try:
            reply = link.start_tls()
        except ConnectionFailed as error:
            raise TlsError(f"{server} did not go on after STLS: {error}") from error
        if not reply.ok:
            self._without_tls(f"{server} refused STLS: {reply}")
            return
        self._detected = self._detector.capa(link)  # what was said in the clear is void (RFC 2595 4)

    def _without_tls(self, why: str) -> None:
        if self._pop3.tls == "wanted":
            self._clear = True
            self._warnings.append(f"{why}; going on in the clear")
            return
        raise TlsError(
            why,
            hint='set ssl = true if it has a TLS port (995), or tls = "wanted" or "off" to do without encryption',
        )

    # One method

    def _try(self, link: Link, candidate: Candidate) -> Reply | None:
        """Return the server's verdict, or None if there was none: the line dropped, or the method can't be done."""
        method = candidate.method
        try:
            if method == "user":
                reply = self._ask(link, commands.user(self._pop3.user))
                return self._ask(link, commands.password(self._credentials.password)) if reply.ok else reply
            if method == "apop":
                return self._apop(link)
            return self._sasl(link, candidate)
        except LocalProtocolError as error:
            self._failures.append(Failure(method, str(error), hung_up=False))
        except RemoteProtocolError as error:
            self._failures.append(Failure(method, str(error), hung_up=True))
            self._garbage = error
            self.close()
        except ConnectionFailed as error:
            # Some servers hang up on a wrong password, or on a method that they only announce.
            self.close()
            if link is not self._refused_by:  # else it hung up after the refusal before, which was another method's
                self._failures.append(Failure(method, str(error), hung_up=True))
                self._broke = True
        return None

    def _ask(self, link: Link, command: commands.Command) -> Reply:
        """Ask, and mask in the reply what a server may echo: the password, and what was sent in its stead."""
        reply = link.ask(command)
        text = reply.text
        sent = command.line.rpartition(b" ")[2] if "***" in command.shown else b""
        for secret in (self._credentials.password.encode(), sent):
            text = text.replace(secret, b"***") if secret else text
        return reply if reply.challenge is not None or text == reply.text else replace(reply, text=text)

    def _apop(self, link: Link) -> Reply:
        try:
            command = commands.apop(
                self._pop3.user, self._credentials.password, commands.timestamp(link.greeting) or b""
            )
        except ValueError as error:
            raise LocalProtocolError("this system has no MD5") from error
        return self._ask(link, command)

    def _sasl(self, link: Link, candidate: Candidate) -> Reply:
        mechanism = make(candidate.method, self._credentials, link.stream)
        replies: list[Reply] = []

        def turn(command: commands.Command) -> Turn:
            replies.append(self._ask(link, command))
            return Turn(replies[-1].challenge, replies[-1].ok)

        # An initial response is RFC 5034's: a server that only lists mechanisms by AUTH may not know it.
        room = INITIAL_RESPONSE - len(f"AUTH {mechanism.name} ") if "CAPA" in candidate.announced_by else 0
        exchange(
            mechanism,
            lambda initial: turn(
                commands.auth(mechanism.name, None if initial is None else b64encode(initial) or b"=")
            ),
            lambda response: turn(commands.auth_response(b"*" if response is None else b64encode(response))),
            initial_allowed=room,
        )
        return replies[-1]

    def _weigh(self, reply: Reply, link: Link, candidate: Candidate) -> None:
        """Take note of a refusal. Raises TemporaryReplyError or ReplyError for one that is not about the credentials."""
        server = link.stream.server
        _raise_if_for_now(reply, server)
        if reply.code == "SYS/PERM":
            raise ReplyError(
                f"{server} can't let anybody in: {reply}", reply=reply, hint="this is for the server's administrator"
            )
        self._refused_by = link
        self._failures.append(Failure(candidate.method, str(reply), hung_up=False))

    def _failed(self, found: tuple[Candidate, ...]) -> PoprepError:
        server, user = str(self._pop3.address), self._pop3.user
        tried = [f"{failure.method} ({failure.why})" for failure in self._failures]
        skipped = [f"{one.method} ({one.why_not})" for one in found if not one.usable]
        if self._refused_by is not None:
            tried += [text for text in skipped if "not encrypted" in text]
            return AuthenticationFailed(
                f"{server} refused the login of {user}: {'; '.join(tried)}",
                hint="check pop3.user and pop3.password; many providers want an app password here",
            )
        if self._garbage is not None:
            return self._garbage
        if self._broke:
            return ConnectionFailed(
                f"{server} did not answer the login of {user}: {'; '.join(tried)}",
                hint="some servers hang up on a wrong password: if it stays like this, check pop3.user and pop3.password",
            )
        return AuthenticationFailed(
            f"no enabled method can log in to {server} as {user}: {'; '.join((*tried, *skipped))}",
            hint="poprep config show tells which methods are enabled (pop3.auth)",
        )


def _raise_if_for_now(reply: Reply, server: str) -> None:
    text = reply.text.lower()
    if reply.code in _FOR_NOW or (not reply.code and any(word in text for word in (b"lock", b"in use", b"busy"))):
        raise TemporaryReplyError(
            f"{server} can't let us in for now: {reply}", reply=reply, hint="the next pass tries again"
        )
