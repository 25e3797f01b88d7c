"""From a connection to the TRANSACTION state: TLS by the rules, then the methods, most secure first, until one works."""

from __future__ import annotations

import msgspec

from poprep_cli.config.model import Pop3
from poprep_cli.errors import (
    AuthenticationFailed,
    ConnectionFailed,
    LocalProtocolError,
    PoprepError,
    RemoteProtocolError,
    ReplyError,
    TlsError,
)
from poprep_cli.net import tls
from poprep_cli.net.authenticate import Trial
from poprep_cli.net.detect import BEHIND, NO_MEMORY, Detected, Detector, Memory
from poprep_cli.net.dialogue import SILENT, Dialogue
from poprep_cli.net.link import Link
from poprep_cli.net.one_method import OneMethod
from poprep_cli.net.refusal import raise_if_for_now, refuse_greeting
from poprep_cli.net.stop import Stop
from poprep_cli.protocol import pop3 as commands
from poprep_cli.protocol.pop3 import Reply
from poprep_cli.protocol.sasl.mechanism import Credentials
from poprep_cli.protocol.sasl.methods import REVERSIBLE, Candidate, candidates, described, misses_binding


class Failure(msgspec.Struct, frozen=True):
    """A method that was tried in vain: why, and what that cost, the connection or `round_trips`."""

    method: str
    why: str
    hung_up: bool
    round_trips: int = 0

    @property
    def cost(self) -> str:
        """What it cost, for people; "" where nothing was sent."""
        if self.hung_up:
            return "a reconnect"
        return f"{self.round_trips} round trip{'s' * (self.round_trips > 1)}" if self.round_trips else ""


class Session(msgspec.Struct):
    """An authenticated connection. `capabilities` is None where the server doesn't know CAPA.

    `failures` are the methods that were tried before `method` worked; `memory` is what saves the next login round trips.
    With `sent_behind` what was to come behind the login is on its way: its replies are to be read first, and then
    `link.forget_secrets` to be called. `takes_groups` is false where a group of commands broke a line of this login.
    """

    link: Link
    capabilities: dict[str, tuple[str, ...]] | None
    method: str
    warnings: list[str] = msgspec.field(default_factory=list)
    failures: list[Failure] = msgspec.field(default_factory=list)
    memory: Memory = NO_MEMORY
    sent_behind: bool = False
    takes_groups: bool = True


def log_in(
    pop3: Pop3,
    password: str,
    stop: Stop,
    memory: Memory = NO_MEMORY,
    dialogue: Dialogue = SILENT,
    trial: Trial | None = None,
    behind: tuple[commands.Command, ...] = (),
) -> Session:
    """Connect to the server and log in. `memory` is what the last login left; `dialogue` gets the transcript.
    With a `trial` its method alone is tried. What is to come `behind` goes in one write with the login where the server is
    known to take that, see `Session.sent_behind`; else it is not sent.

    Raises ConnectionFailed, TlsError, AuthenticationFailed, TemporaryReplyError (in use, too early), ReplyError,
    RemoteProtocolError, Stopped. No credential is sent before the TLS that the settings require.
    """
    attempt = _Attempt(pop3, password, stop, memory, dialogue, trial, behind)
    try:
        return attempt.run()
    except PoprepError as error:
        attempt.close()
        tls.remind(error, attempt.warnings)
        raise
    except BaseException:
        attempt.close()
        raise


class _Attempt:
    """One login, over as many connections as it takes."""

    def __init__(
        self,
        pop3: Pop3,
        password: str,
        stop: Stop,
        memory: Memory,
        dialogue: Dialogue,
        trial: Trial | None,
        behind: tuple[commands.Command, ...],
    ) -> None:
        self._pop3 = pop3
        self._stop = stop
        self._dialogue = dialogue
        self._trial = trial
        self._wanted = behind
        self._takes_groups = True
        self._credentials = Credentials(pop3.user, password, pop3.domain, pop3.workstation)
        self._detector = Detector(pop3, memory if trial is None else memory.without_answers())
        self._link: Link | None = None
        self._one: OneMethod  # the method that is tried
        self._detected = Detected()
        self._clear = False  # "wanted" TLS was tried and could not be had
        self.warnings: list[str] = []
        self._failures: list[Failure] = []
        self._refused_by: Link | None = None  # the connection on which a method was refused
        self._broke = False
        self._told: tuple[str, str] | None = None
        self._garbage: RemoteProtocolError | None = None
        self._alarm: TlsError | None = None  # the server saw an attack in our not knowing what it announces now

    def run(self) -> Session:
        """Try one method after the other."""
        while True:
            link = self._ready()
            preferred = self._detector.preferred(link, self._detected)
            found = candidates(
                self._pop3.auth, self._detected.sources, self._detector.surroundings(link, self._detected), preferred
            )
            self._tell(found)
            if self._trial is not None:
                self._trial.candidates = found
                self._trial.announcements = self._detector.announcements(link, self._detected)
            candidate = self._choose(found)
            if self._detected.recalled and (candidate is None or candidate.method != preferred):
                self._detector.forget()  # what is remembered is good for no other method
                continue
            if self._alarm is not None and not (candidate is not None and candidate.method.endswith("-plus")):
                raise self._alarm
            if candidate is None:
                raise self._failed(found)
            self._dialogue.tell(f"logging in by {candidate.method}")
            self._one = self._method(link, candidate)
            try:
                reply = self._try(link, candidate)
            except TlsError as error:
                if not self._detected.recalled or candidate.method.endswith("-plus"):
                    raise
                self._alarm = error  # unless the server has taken up -PLUS since, it is one
                self._detector.forget()
                self.close()
                continue
            if reply is None and self._one.behind and self._link is None:
                continue  # the same once more, without company
            self._note(reply)
            if candidate.method == preferred and (reply is None or not reply.ok):
                self._detector.forget()
            if reply is None:
                if candidate.method != preferred and self._choose(found) is None:
                    raise self._failed(found)  # another connection would be for nothing
                continue
            if reply.ok:
                return self._session(link, candidate.method)
            self._weigh(reply, link, candidate)
            if reply.code == "AUTH" and candidate.method in REVERSIBLE:
                raise self._failed(found)
            if self._one.drained():
                continue
            self.close()
            if not self._detected.recalled and self._choose(found) is None:
                raise self._failed(found)  # another connection would be for nothing

    def _choose(self, found: tuple[Candidate, ...]) -> Candidate | None:
        """Return the next one to try: usable, not tried before, and the trial's if there is one."""
        passed_over = {failure.method for failure in self._failures}
        if self._trial is not None:
            passed_over |= {one.method for one in found} - {self._trial.method}
        return next((one for one in found if one.usable and one.method not in passed_over), None)

    def _note(self, reply: Reply | None) -> None:
        """Tell the trial, if this is one, what came of its method."""
        if self._trial is None:
            return
        self._trial.reply = reply
        if reply is not None:
            self._trial.why = str(reply)
        elif self._failures:
            self._trial.why, self._trial.local = self._failures[-1].why, not self._failures[-1].hung_up

    def _tell(self, found: tuple[Candidate, ...]) -> None:
        """Tell the transcript what was announced and what follows from it, if it is not what was told before."""
        sources = self._detected.sources
        asked = {"welcome", *self._detected.replies}
        sources = {name if name in asked else f"{name} last time": methods for name, methods in sources.items()}
        told = described(sources, found)
        if told != self._told:
            self._told = told
            for text in told:
                self._dialogue.tell(text)

    def _fail(self, method: str, why: object, *, hung_up: bool = False) -> None:
        """Note a method that was tried in vain."""
        failure = Failure(method, str(why), hung_up, self._one.turns)
        self._failures.append(failure)
        self._dialogue.tell(f"{method} failed{failure.cost and f', which cost {failure.cost}'}: {why}")

    def _session(self, link: Link, method: str) -> Session:
        memory = self._detector.learned(link, self._detected, method)
        if not link.awaited:
            link.forget_secrets()
        self._dialogue.tell(f"logged in by {method}")
        found, failures, behind = self._detected.capabilities, self._failures, bool(link.awaited)
        return Session(link, found, method, self.warnings, failures, memory, behind, takes_groups=self._takes_groups)

    def close(self) -> None:
        """Drop the line."""
        if self._link is not None:
            self._link.close()
            self._link = None

    # A connection that is ready for a method

    def _ready(self) -> Link:
        """Return a connection in the AUTHORIZATION state, with the TLS that the settings ask for."""
        while True:
            try:
                link = self._link or self._connect()
                if self._detected.recalled and not self._detector.preferred(link, self._detected):
                    self._detected = self._detector.capa(link)  # the short way has failed
                self._detector.auth_list(link, self._detected)
                return link
            except ConnectionFailed as error:
                refused = self._link is not None and self._link is self._refused_by
                self.close()
                question, self._detector.asking = self._detector.asking, ""
                if not question or self._stop.tripped:
                    raise
                self._dialogue.tell(f"{question} is not answered, which cost the connection: {error}")
                # A server that hangs or hangs up on the question costs one reconnect; then it is not asked again. But many
                # hang up after a refusal, whatever comes next.
                if not refused:
                    self._detector.mute.add(question)
            except TlsError as error:
                self.close()
                self._detector.asking = ""
                if self._pop3.tls != "wanted" or self._pop3.ssl or self._clear:
                    tls.add_fingerprint(error, self._certificate)
                    raise
                self._clear = True
                self._warn(f"no TLS with {self._pop3.address}, going on in the clear: {error}")

    def _connect(self) -> Link:
        self._link = link = Link(self._pop3, self._stop, self._dialogue)
        link.mask(self._credentials.password.encode())
        refuse_greeting(link)
        if self._pop3.ssl or self._pop3.tls == "off" or self._clear:
            self._detect(link)
        else:
            self._start_tls(link)
        return link

    def _detect(self, link: Link) -> None:
        """Ask what the server announces, unless its last answer still holds."""
        recalled = self._detector.recall(link)
        if recalled is not None:
            self._dialogue.tell("not asking for CAPA: less than a day ago it was answered, behind the same greeting")
        self._detected = recalled or self._detector.capa(link)

    def _start_tls(self, link: Link) -> None:
        server = link.stream.server
        if self._detector.knows_stls(link):
            if self._ask_for_tls(link).ok:
                self._detect(link)
                return
            self._detector.forget_answers()
        self._detected = self._detector.capa(link)
        capabilities = self._detected.capabilities
        if capabilities is not None and "STLS" not in capabilities:
            self._without_tls(f"{server} does not offer STLS")
            return
        reply = self._ask_for_tls(link)
        if not reply.ok:
            self._without_tls(f"{server} refused STLS: {reply}")
            return
        self._detect(link)  # what was said in the clear is void (RFC 2595 4)

    def _ask_for_tls(self, link: Link) -> Reply:
        """Return the answer to STLS; behind a good one the line is encrypted. Raises TlsError, RemoteProtocolError."""
        server = link.stream.server
        try:
            return link.start_tls()
        except ConnectionFailed as error:
            raise TlsError(f"{server} did not go on after STLS: {error}") from error
        except RemoteProtocolError as error:
            if self._pop3.tls != "wanted":
                raise
            raise TlsError(f"TLS did not begin after STLS: {error}") from error

    def _certificate(self) -> bytes | None:
        from poprep_cli.net.untrusted import certificate_of_pop3

        return certificate_of_pop3(self._pop3, self._stop, self._dialogue)

    def _without_tls(self, why: str) -> None:
        if self._pop3.tls == "wanted":
            self._clear = True
            self._warn(f"{why}; going on in the clear")
            return
        raise TlsError(
            why,
            hint='set ssl = true if it has a TLS port (995), or tls = "wanted" or "off" to do without encryption',
        )

    def _warn(self, text: str) -> None:
        self.warnings.append(text)
        self._dialogue.tell(text)

    # One method

    def _method(self, link: Link, candidate: Candidate) -> OneMethod:
        return OneMethod(
            link=link,
            credentials=self._credentials,
            unknown=self._detector.mute,
            misses_binding=misses_binding(self._pop3.auth, self._detected.sources),
            encrypted=self._detector.surroundings(link, self._detected).encrypted,
            behind=self._wanted if self._detector.takes_more(link, self._detected, candidate.method) else (),
        )

    def _try(self, link: Link, candidate: Candidate) -> Reply | None:
        """Return the server's verdict, or None if there was none: the line dropped, or the method can't be done."""
        method = candidate.method
        try:
            return self._one.verdict(candidate)
        except LocalProtocolError as error:
            self._fail(method, error)
        except RemoteProtocolError as error:
            self.close()
            if self._blames_company(error):
                return None
            self._fail(method, error, hung_up=True)
            self._garbage = error
        except ConnectionFailed as error:
            self.close()
            if self._blames_company(error):
                return None
            # Some servers hang up on a wrong password, or on a method that they only announce.
            if link is not self._refused_by:  # else it hung up after the refusal before, which was another method's
                self._fail(method, error, hung_up=True)
                self._broke = True
        return None

    def _blames_company(self, error: PoprepError) -> bool:
        """Return whether a line that gave no verdict may have broken on what came behind the login. That is not sent again."""
        if not self._one.behind:
            return False
        self._dialogue.tell(f"more than a login at a time is not answered, which cost the connection: {error}")
        self._detector.mute.add(BEHIND)
        self._detector.forget_answers()
        self._takes_groups = False
        return True

    def _weigh(self, reply: Reply, link: Link, candidate: Candidate) -> None:
        """Take note of a refusal. Raises TemporaryReplyError or ReplyError for one that is not about the credentials."""
        server = link.stream.server
        raise_if_for_now(reply, server)
        if reply.code == "SYS/PERM":
            raise ReplyError(
                f"{server} can't let anybody in: {reply}", reply=reply, hint="this is for the server's administrator"
            )
        self._refused_by = link
        self._fail(candidate.method, reply)

    def _failed(self, found: tuple[Candidate, ...]) -> PoprepError:
        server, user = str(self._pop3.address), self._pop3.user
        tried = [f"{failure.method} ({failure.why})" for failure in self._failures]
        skipped = [f"{one.method} ({one.why_not})" for one in found if not one.usable]
        if self._refused_by is not None:
            tried += [text for text in skipped if "not encrypted" in text]
            return AuthenticationFailed(
                f"{server} refused the login of {user}: {'; '.join(tried)}",
                hint="check pop3.user and pop3.password; many providers want an app password here",
                rejected_by="POP3",
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
