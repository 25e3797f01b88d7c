"""What a probe has found out about a server, filled in as it goes: whatever ends it, what was seen so far is there.

All texts are printable: what comes from a server or its certificate was made so when it was put here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from poprep_cli.errors import AuthenticationFailed, ExitCode, PoprepError
from poprep_cli.net.certificate import Certificate
from poprep_cli.protocol.sasl.methods import REVERSIBLE, Surroundings, candidates

RELAYABLE = "without TLS an NTLM login can be relayed: who is on the way can log in elsewhere in your name"


@dataclass(frozen=True, slots=True)
class TlsFound:
    """A TLS session. `refused` says why a pass would not accept it, "" if it would; `verified` how it was checked.

    `expected_name` is what the certificate has to be valid for.
    """

    version: str
    cipher: str
    certificate: Certificate | None
    verified: str
    refused: str
    expected_name: str


@dataclass(frozen=True, slots=True)
class Method:
    """A line of the table: what announced a method, whether it is enabled, its place in the order of trying, why not."""

    name: str
    announced_by: tuple[str, ...]
    enabled: bool
    order: int | None
    why_not: str
    warning: str = ""


@dataclass(slots=True)
class Answers:
    """What a POP3 server says of itself in one state of the line. Of a question, `replies` has the answer or its fate."""

    capabilities: dict[str, tuple[str, ...]] | None = None
    listed: tuple[str, ...] | None = None
    replies: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Found:
    """What is common to POP3 and SMTP. `problem` is the error that a pass would end with before it can log in.

    `usable` says whether the login could be looked at, `warnings` what is not well, `notes` what else is worth knowing.
    """

    server: str
    protocol: str = "pop3"
    ssl: bool = False
    peer: str = ""
    connect_seconds: float | None = None
    greeting: str | None = None
    starttls: str = ""
    tls: TlsFound | None = None
    secure: bool = False  # whether a pass would log in inside TLS
    methods: tuple[Method, ...] = ()
    unsupported: tuple[str, ...] = ()
    login_needed: bool = True
    problem: PoprepError | None = None
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def method(self) -> str:
        """The method that a pass would try first, or ""."""
        return next((one.name for one in self.methods if one.order == 1), "")

    @property
    def exit_code(self) -> ExitCode:
        """0 if a pass could log in as far as can be seen, else the code of what would stop it."""
        if self.problem is not None:
            return self.problem.exit_code
        return ExitCode.OK if self.method or not self.login_needed else AuthenticationFailed.exit_code


@dataclass(slots=True)
class Pop3Found(Found):
    """A POP3 server: `clear` is what it says before TLS, `secured` inside. `steps` are the round trips of a login."""

    apop: bool = False
    clear: Answers | None = None
    secured: Answers | None = None
    steps: tuple[tuple[str, int], ...] = ()
    muted: tuple[str, ...] = ()
    speaks_tls_at_once: bool = False
    speaks_clear: bool = False
    asks_auth: bool = False

    @property
    def answers(self) -> Answers | None:
        """What holds for the login: inside TLS if there is any."""
        return self.secured or self.clear

    @property
    def round_trips(self) -> int:
        """How many round trips it takes from nothing to being logged in."""
        return sum(count for _, count in self.steps)


@dataclass(slots=True)
class SmtpFound(Found):
    """An SMTP or LMTP server: what EHLO announces before TLS (`clear`) and inside (`secured`), keyword to parameters."""

    clear: dict[str, str] | None = None
    secured: dict[str, str] | None = None

    @property
    def extensions(self) -> dict[str, str] | None:
        """What holds for the mail: inside TLS if there is any."""
        return self.secured if self.secured is not None else self.clear


def methods_of(
    enabled: Collection[str],
    every: Sequence[str],
    sources: Mapping[str, Collection[str]],
    around: Surroundings,
    *,
    key: str,
    binding: bool,
) -> tuple[Method, ...]:
    """Return a line for each method of `every`. `key` is that of the switches; `binding` whether TLS can be bound to."""
    found = []
    order = 0
    for one in candidates(every, sources, around):
        why_not = one.why_not
        if not why_not and one.method.endswith("-plus") and not binding:
            why_not = "this TLS session has no channel binding"
        if not why_not and one.method in ("cram-md5", "apop") and not _has_md5():
            why_not = "this system has no MD5"
        if one.method not in enabled:
            why_not = f"switched off ({key})" + (f"; {why_not}" if why_not else "")
        order += not why_not
        by = ("CAPA",) if one.method == "user" and around.user_capability else one.announced_by
        relayable = one.method in ("ntlm", "msn") and bool(one.announced_by) and not around.tls
        found.append(
            Method(
                one.method,
                by,
                one.method in enabled,
                None if why_not else order,
                why_not,
                RELAYABLE if relayable else "",
            )
        )
    return tuple(found)


def reversible(method: str) -> bool:
    """Return whether a method hands the password over."""
    return method in REVERSIBLE


def _has_md5() -> bool:
    import hashlib

    try:
        hashlib.md5(b"", usedforsecurity=False)
    except ValueError:
        return False
    return True
