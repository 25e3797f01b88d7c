"""What a POP3 server announces, by the detectors that are switched on: CAPA, AUTH without argument, the welcome."""

from __future__ import annotations

from collections.abc import Collection

import msgspec
from msgspec.structs import replace

from poprep_cli.config.model import Pop3
from poprep_cli.errors import RemoteProtocolError
from poprep_cli.net.link import Link
from poprep_cli.protocol import pop3 as commands
from poprep_cli.protocol.sasl import methods
from poprep_cli.protocol.sasl.methods import REVERSIBLE, SASL, announced
from poprep_cli.protocol.wire import CRLF, printable

GREETING = 200  # characters of a greeting that are remembered
REMEMBERED = 4096  # characters of capabilities that are: no server has a tenth of it to say


class Detected(msgspec.Struct):
    """What one connection's server said in its present state. `capabilities` is None where CAPA was not answered.

    `listed` are the lines of the AUTH listing, None where there was none; `replies` is the first line of each answer.
    `recalled` says that the server was not asked: it is what it said at an earlier login.
    """

    capabilities: dict[str, tuple[str, ...]] | None = None
    sources: dict[str, Collection[str]] = msgspec.field(default_factory=dict)
    listed: tuple[str, ...] | None = None
    replies: dict[str, str] = msgspec.field(default_factory=dict)
    recalled: bool = False

    @property
    def user_capability(self) -> bool | None:
        """Whether CAPA announced USER; None where it was not answered."""
        return None if self.capabilities is None else "USER" in self.capabilities


class Answers(msgspec.Struct, frozen=True):
    """What CAPA answered in the state in which a login worked, after TLS if there was any, behind which `greeting`.

    `since` is for who keeps it: when that was.
    """

    greeting: str
    capabilities: dict[str, tuple[str, ...]]
    since: str = ""


class Memory(msgspec.Struct, frozen=True):
    """What the last login teaches: the method that worked, under which announcements, and what not to ask.

    `mute` are the questions that the server hangs or hangs up on, the type of channel binding that it does not know, and
    `BEHIND` if it does not answer what comes together with a login;
    `listed` are the methods that AUTH without argument listed. With `answers` that method is tried without asking for CAPA.
    """

    method: str = ""
    announcements: str = ""
    mute: tuple[str, ...] = ()
    listed: tuple[str, ...] = ()
    answers: Answers | None = None

    def without_answers(self) -> Memory:
        """Return what is left if CAPA is to be asked again."""
        return replace(self, answers=None)


NO_MEMORY = Memory()
BEHIND = "PIPELINING"  # among what is mute: commands in one write with those of a login
_ONE_TURN = ("plain", "apop", "user")  # methods whose commands need no answer in between
_TLS = "; TLS"  # the end of announcements that were made in TLS


class Detector:
    """Asks a server, over as many connections as a login needs. `mute` are questions that it hangs or hangs up on."""

    def __init__(self, pop3: Pop3, memory: Memory) -> None:
        self._pop3 = pop3
        self._memory = memory
        self.mute = set(memory.mute)
        self.asking = ""

    def capa(self, link: Link) -> Detected:
        """Ask for CAPA, look at the welcome, and forget what was known. Raises ConnectionFailed with `asking` set."""
        detected = self._welcome(link)
        if "capa" not in self._pop3.detect or "CAPA" in self.mute:
            return detected
        self.asking = "CAPA"
        reply = link.ask(commands.CAPA)
        self.asking = ""
        detected.replies["CAPA"] = str(reply)
        if reply.more:
            raise RemoteProtocolError(f"{link.stream.server} announces capabilities without end")
        if reply.ok:
            detected.capabilities = commands.parse_capabilities(reply.block)
            detected.sources["CAPA"] = announced(detected.capabilities.get("SASL", ()))
        return detected

    def _welcome(self, link: Link) -> Detected:
        detected = Detected()
        if "welcome" in self._pop3.detect and commands.timestamp(link.greeting):
            detected.sources["welcome"] = ("apop",)
        return detected

    def recall(self, link: Link) -> Detected | None:
        """Return what the server said at an earlier login, in place of asking, or None if it has to be asked.

        That is good for trying the method that worked then, and no other: under the same greeting, settings and TLS.
        One that gives the password away is never sent over a line that is not encrypted without asking.
        """
        answers = self._memory.answers
        if answers is None or not self._greets_as(answers, link) or "capa" not in self._pop3.detect:
            return None
        detected = self._welcome(link)
        detected.recalled = True
        detected.capabilities = answers.capabilities
        detected.sources["CAPA"] = announced(answers.capabilities.get("SASL", ()))
        method = self.preferred(link, detected)
        if not method or (method in REVERSIBLE and not self.surroundings(link, detected).encrypted):
            return None
        return detected

    def knows_stls(self, link: Link) -> bool:
        """Return whether STLS worked at an earlier login and is worth trying before CAPA is asked."""
        answers = self._memory.answers
        return answers is not None and self._memory.announcements.endswith(_TLS) and self._greets_as(answers, link)

    def _greets_as(self, answers: Answers, link: Link) -> bool:
        return answers.greeting == self._greeting(link)

    def _greeting(self, link: Link) -> str:
        """Return who greets and how, as a text to compare: without the timestamp, and words with digits, which come and go."""
        text = link.greeting.text.replace(commands.timestamp(link.greeting) or b"<>", b"<>")
        words = (word for word in text.split() if word == word.translate(None, b"0123456789"))
        return printable(f"{self._pop3.address} {b' '.join(words).decode('utf-8', 'backslashreplace')}", GREETING)

    def asks_auth(self, link: Link, detected: Detected) -> bool:
        """Return whether AUTH without argument is worth its round trip: whether it may tell more than CAPA has."""
        if "auth" not in self._pop3.detect or "AUTH" in self.mute:
            return False
        known = set(detected.sources.get("CAPA", ()))
        if self.preferred(link, detected) in (*known, *self._memory.listed, "apop", "user"):
            return False  # it is tried at once; the question is for when it fails
        wanted = {method for method in self._pop3.auth if method in SASL}
        return "AUTH" not in detected.replies and not wanted <= known

    def auth_list(self, link: Link, detected: Detected, *, always: bool = False) -> None:
        """Ask by AUTH without argument, if that may tell more, or `always` if it is switched on.

        Where it is not asked because the method that worked last time is tried first, its last answer stands.
        Raises ConnectionFailed with `asking` set.
        """
        if "auth" not in self._pop3.detect or "AUTH" in self.mute:
            return
        if not (always or self.asks_auth(link, detected)):
            if self._memory.listed and self.preferred(link, detected):
                detected.sources["AUTH"] = frozenset(self._memory.listed)
            return
        detected.sources.pop("AUTH", None)
        self.asking = "AUTH"
        reply = link.ask(commands.AUTH_LIST)
        if reply.challenge is not None:  # it takes AUTH for the beginning of an exchange
            link.ask(commands.auth_response(b"*"))
        self.asking = ""
        detected.replies["AUTH"] = str(reply)
        if reply.more:
            raise RemoteProtocolError(f"{link.stream.server} lists mechanisms without end")
        if reply.ok:
            lines = (line.decode("ascii", "replace").strip() for line in reply.block[:-3].split(CRLF)[:256])
            detected.listed = tuple(line for line in lines if line)
            detected.sources["AUTH"] = announced(detected.listed)

    def learned(self, link: Link, detected: Detected, method: str) -> Memory:
        """Return what a login by `method` teaches the next one."""
        listed = tuple(sorted(detected.sources.get("AUTH", ())))
        answers = self._memory.answers if detected.recalled else self._answers(link, detected)
        return Memory(method, self.announcements(link, detected), tuple(sorted(self.mute)), listed, answers)

    def _answers(self, link: Link, detected: Detected) -> Answers | None:
        if detected.capabilities is None:
            return None
        said = sum(len(name) + sum(map(len, words)) for name, words in detected.capabilities.items())
        return Answers(self._greeting(link), detected.capabilities) if said <= REMEMBERED else None

    def forget_answers(self) -> None:
        """Ask for CAPA from now on."""
        self._memory = self._memory.without_answers()

    def forget(self) -> None:
        """Prefer nothing any more, and ask for everything: what worked last time has failed."""
        self._memory = NO_MEMORY

    def preferred(self, link: Link, detected: Detected) -> str:
        """Return the method that worked last time, if the announcements and the settings are still those, else ""."""
        return self._memory.method if self._memory.announcements == self.announcements(link, detected) else ""

    def takes_more(self, link: Link, detected: Detected, method: str) -> bool:
        """Return whether commands may come behind a login by `method` in one write with it (RFC 2449 6.6).

        It is the method that worked last time, and nothing has gone wrong since: where a server hangs up on a password that
        is wrong by now, a try that fails is one try at each pass, not one with those commands and one without.
        """
        return (
            method in _ONE_TURN
            and "PIPELINING" in (detected.capabilities or ())
            and self._memory.answers is not None
            and BEHIND not in self.mute
            and method == self.preferred(link, detected)
        )

    def announcements(self, link: Link, detected: Detected) -> str:
        """Return what CAPA and the welcome announce and what is enabled, as a text to compare with the next time's."""
        sources = [f"{name} {' '.join(sorted(detected.sources.get(name, ())))}" for name in ("CAPA", "welcome")]
        enabled = [*self._pop3.auth, *self._pop3.detect, self._pop3.clear_text]
        return "; ".join((*sources, " ".join(sorted(enabled)))) + (_TLS if link.stream.tls else "; clear")

    def surroundings(self, link: Link, detected: Detected) -> methods.Surroundings:
        """Return what decides about a method besides its announcement."""
        stream = link.stream
        return methods.Surroundings(
            encrypted=stream.tls or self._pop3.address.is_local or stream.is_loopback,
            tls=stream.tls,
            clear_text=self._pop3.clear_text,
            clear_text_key="pop3.clear_text",
            user_capability=detected.user_capability,
            detecting=bool(self._pop3.detect),
        )
