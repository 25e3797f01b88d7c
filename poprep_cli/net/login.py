"""From a connection to the TRANSACTION state: TLS by the rules, then the methods, most secure first, until one works."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from poprep_cli.config.model import Pop3
from poprep_cli.errors import (
    AuthenticationFailed,
    ConnectionFailed,
    PoprepError,
    RemoteProtocolError,
    ReplyError,
    TemporaryReplyError,
    TlsError,
)
from poprep_cli.net.link import Link
from poprep_cli.net.stop import Stop
from poprep_cli.protocol import pop3 as commands
from poprep_cli.protocol.pop3 import Reply

_ORDER = ("apop", "user")  # most secure first
_FOR_NOW = ("IN-USE", "LOGIN-DELAY", "SYS/TEMP")  # RFC 2449 8.1, RFC 3206


@dataclass(slots=True)
class Session:
    """An authenticated connection. `capabilities` is None where the server doesn't know CAPA."""

    link: Link
    capabilities: dict[str, tuple[str, ...]] | None
    method: str
    warnings: list[str] = field(default_factory=list)


def log_in(pop3: Pop3, password: str, stop: Stop) -> Session:
    """Connect to the server and log in.

    Raises ConnectionFailed, TlsError, AuthenticationFailed, TemporaryReplyError (in use, too early), ReplyError,
    RemoteProtocolError, Stopped. No credential is sent before the TLS that the settings require.
    """
    attempt = _Attempt(pop3, password, stop)
    try:
        return attempt.run()
    except BaseException:
        attempt.close()
        raise


class _Attempt:
    """One login, over as many connections as it takes."""

    def __init__(self, pop3: Pop3, password: str, stop: Stop) -> None:
        self._pop3 = pop3
        self._password = password
        self._stop = stop
        self._link: Link | None = None
        self._capabilities: dict[str, tuple[str, ...]] | None = None
        self._clear = False  # "wanted" TLS was tried and could not be had
        self._no_capa = False
        self._warnings: list[str] = []

    def run(self) -> Session:
        skipped: list[str] = []
        refused_by: Link | None = None
        broke: ConnectionFailed | None = None
        waiting = [name for name in _ORDER if name in self._pop3.auth]
        while waiting:
            method = waiting[0]
            link = self._ready()
            why_not = self._unusable(link, method)
            if why_not:
                skipped.append(f"{waiting.pop(0)} ({why_not})")
                continue
            try:
                reply = self._try(link, method)
            except ConnectionFailed as error:
                # Some servers hang up on a wrong password or on a method that they only announce.
                self.close()
                if link is not refused_by:  # else it hung up after the refusal before, which was another method's
                    skipped.append(f"{waiting.pop(0)} ({error})")
                    broke = error
                continue
            if reply.ok:
                return Session(link, self._capabilities, method, self._warnings)
            _raise_if_for_now(reply, link.stream.server)
            refused_by = link
            skipped.append(f"{waiting.pop(0)} ({reply})")
            if reply.code == "AUTH" and method == "user":
                break
        raise self._failed(skipped, refused=refused_by is not None, broke=broke)

    def close(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None

    def _ready(self) -> Link:
        """Return a connection in the AUTHORIZATION state, with the TLS that the settings ask for."""
        while self._link is None:
            try:
                self._link = self._connect()
            except (TlsError, RemoteProtocolError) as error:
                self.close()
                if self._pop3.tls != "wanted" or self._pop3.ssl or self._clear:
                    raise
                self._clear = True
                self._warnings.append(f"no TLS with {self._pop3.address}, going on in the clear: {error}")
        return self._link

    def _connect(self) -> Link:
        self._link = link = Link(self._pop3, self._stop)
        if not link.greeting.ok:
            _raise_if_for_now(link.greeting, link.stream.server)
            raise ReplyError(f"{link.stream.server} refused the connection: {link.greeting}", reply=link.greeting)
        self._capabilities = self._capa(link)
        if self._link is not link:
            return self._link  # asked again on a fresh connection, which is ready
        if self._pop3.ssl or self._pop3.tls == "off" or self._clear:
            return link
        if self._capabilities is not None and "STLS" not in self._capabilities:
            self._without_tls(f"{link.stream.server} does not offer STLS")
            return link
        try:
            reply = link.start_tls()
        except ConnectionFailed as error:
            raise TlsError(f"{link.stream.server} did not go on after STLS: {error}") from error
        if not reply.ok:
            self._without_tls(f"{link.stream.server} refused STLS: {reply}")
            return link
        self._capabilities = self._capa(link)  # what was said in the clear is void (RFC 2595 4)
        return self._link

    def _without_tls(self, why: str) -> None:
        if self._pop3.tls == "wanted":
            self._clear = True
            self._warnings.append(f"{why}; going on in the clear")
            return
        raise TlsError(
            why,
            hint='set ssl = true if it has a TLS port (995), or tls = "wanted" or "off" to do without encryption',
        )

    def _capa(self, link: Link) -> dict[str, tuple[str, ...]] | None:
        if self._no_capa:
            return None
        try:
            reply = link.ask(commands.CAPA)
        except ConnectionFailed:
            # A server that hangs or hangs up on CAPA costs one reconnect; then it is not asked again.
            self._stop.check()
            self._no_capa = True
            link.close()
            self._link = self._connect()
            return self._capabilities
        if reply.more:
            raise RemoteProtocolError(f"{link.stream.server} announces capabilities without end")
        return commands.parse_capabilities(reply.block) if reply.ok else None

    def _unusable(self, link: Link, method: str) -> str:
        if method == "apop":
            return "" if commands.timestamp(link.greeting) else "the greeting has no timestamp"
        if self._capabilities is not None and "USER" not in self._capabilities:
            return "not announced"
        encrypted = link.stream.tls or self._pop3.address.is_local or link.stream.is_loopback
        if not encrypted and self._pop3.clear_text != "allow":
            return 'the line is not encrypted; pop3.clear_text = "allow" would send the password all the same'
        return ""

    def _try(self, link: Link, method: str) -> Reply:
        if method == "apop":
            timestamp = commands.timestamp(link.greeting) or b""
            try:
                command = commands.apop(self._pop3.user, self._password, timestamp)
            except ValueError:
                return Reply(False, b"this system has no MD5", commands.GREETING)
            return _masked(link.ask(command), command.line.rpartition(b" ")[2])
        reply = link.ask(commands.user(self._pop3.user))
        return _masked(link.ask(commands.password(self._password)), self._password.encode()) if reply.ok else reply

    def _failed(self, skipped: list[str], *, refused: bool, broke: ConnectionFailed | None) -> PoprepError:
        server, user, why = str(self._pop3.address), self._pop3.user, "; ".join(skipped)
        if refused:
            return AuthenticationFailed(
                f"{server} refused the login of {user}: {why}",
                hint="check pop3.user and pop3.password; many providers want an app password here",
            )
        if broke is not None:
            return ConnectionFailed(
                f"{server} did not answer the login of {user}: {why}",
                hint="some servers hang up on a wrong password: if it stays like this, check pop3.user and pop3.password",
            )
        return AuthenticationFailed(
            f"no enabled method can log in to {server} as {user}: {why}",
            hint="poprep config show tells which methods are enabled (pop3.auth)",
        )


def _masked(reply: Reply, secret: bytes) -> Reply:
    """Return the reply without a secret that the server echoes."""
    return replace(reply, text=reply.text.replace(secret, b"***")) if secret and secret in reply.text else reply


def _raise_if_for_now(reply: Reply, server: str) -> None:
    text = reply.text.lower()
    if reply.code in _FOR_NOW or (not reply.code and any(word in text for word in (b"lock", b"in use", b"busy"))):
        raise TemporaryReplyError(
            f"{server} can't let us in for now: {reply}", reply=reply, hint="the next pass tries again"
        )
