"""Which methods may be tried, in which order, and why the others may not. Pure: the same on POP3 and SMTP.

A *method* is a switch of the configuration. Most are SASL mechanisms under the same name; USER and APOP are POP3's own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Literal, get_args

import msgspec

# Most secure first. EXTERNAL needs a client certificate and must be switched on by name.
Pop3Method = Literal[
    "external",
    "scram-sha-256-plus",
    "scram-sha-256",
    "scram-sha-1-plus",
    "scram-sha-1",
    "cram-md5",
    "ntlm",
    "msn",
    "apop",
    "plain",
    "login",
    "user",
]
SmtpMethod = Literal[
    "external",
    "scram-sha-256-plus",
    "scram-sha-256",
    "scram-sha-1-plus",
    "scram-sha-1",
    "cram-md5",
    "ntlm",
    "plain",
    "login",
]
ORDER: tuple[Pop3Method, ...] = get_args(Pop3Method)
POP3_DEFAULT: tuple[Pop3Method, ...] = ORDER[1:]
SMTP_DEFAULT: tuple[SmtpMethod, ...] = get_args(SmtpMethod)[1:]
REVERSIBLE = frozenset(("plain", "login", "user"))  # who listens, or keeps the log, has the password
SASL = frozenset(ORDER) - {"apop", "user"}
WORKSTATION = "WORKSTATION"  # what NTLM clients say that don't tell the computer's name to everybody


class Candidate(msgspec.Struct, frozen=True):
    """A method, what announced it (CAPA, AUTH, EHLO, welcome), and why it can't be used, or ""."""

    method: str
    announced_by: tuple[str, ...]
    why_not: str

    @property
    def usable(self) -> bool:
        """Whether it may be tried."""
        return not self.why_not


class Surroundings(msgspec.Struct, frozen=True):
    """What decides about a method besides its announcement."""

    encrypted: bool
    tls: bool
    clear_text: str
    clear_text_key: str
    user_capability: bool | None = None  # whether CAPA answered with USER; None where it didn't answer
    detecting: bool = True


def announced(sasl: Iterable[str]) -> frozenset[str]:
    """Return the methods that a list of SASL mechanism names announces."""
    return frozenset(name.lower() for name in sasl) & SASL


def misses_binding(enabled: Collection[str], sources: Mapping[str, Collection[str]]) -> bool:
    """Return whether a -PLUS method, one with channel binding, is enabled, and none was announced by anything."""
    announced_by_any = frozenset().union(*sources.values())
    return _binds(enabled) and not _binds(announced_by_any)


def _binds(methods: Collection[str]) -> bool:
    return any(method.endswith("-plus") for method in methods)


def candidates(
    enabled: Collection[str], sources: Mapping[str, Collection[str]], around: Surroundings, preferred: str = ""
) -> tuple[Candidate, ...]:
    """Return every enabled method in the order of trying, those that can't be used with the reason.

    `sources` says what each detector announced; `preferred` is the method that worked last time, which goes first.
    """
    found = []
    for method in ORDER:
        if method not in enabled:
            continue
        by = tuple(source for source, methods in sources.items() if method in methods)
        found.append(Candidate(method, by, _why_not(method, by, around)))
    return tuple(sorted(found, key=lambda candidate: candidate.method != preferred))


def described(sources: Mapping[str, Collection[str]], found: Collection[Candidate]) -> tuple[str, str]:
    """Return for a transcript what was announced by what, and what is tried in which order, and why not the rest."""
    by = (
        f"by {source}: {' '.join(method for method in ORDER if method in methods) or 'none'}"
        for source, methods in sources.items()
    )
    usable = " ".join(one.method for one in found if one.usable) or "none"
    others: dict[str, list[str]] = {}
    for one in found:
        if not one.usable:
            others.setdefault(one.why_not, []).append(one.method)
    skipped = "".join(f"; {why}: {' '.join(methods)}" for why, methods in others.items())
    return f"methods announced {'; '.join(by) or 'by nothing'}", f"methods to try: {usable}{skipped}"


def _why_not(method: str, by: tuple[str, ...], around: Surroundings) -> str:
    if method == "user":
        if around.user_capability is False:
            return "not announced"
    elif method == "apop":
        if not by:
            return "the greeting has no timestamp" if around.detecting else "nothing was detected (detect)"
    elif not by:
        return "not announced" if around.detecting else "nothing was detected (detect)"
    if method.endswith("-plus") and not around.tls:
        return "channel binding needs TLS"
    if method == "external" and not around.tls:
        return "a client certificate needs TLS"
    if method in REVERSIBLE and not around.encrypted and around.clear_text != "allow":
        return f'the line is not encrypted; {around.clear_text_key} = "allow" would send the password all the same'
    return ""
