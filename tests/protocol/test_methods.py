"""Which methods may be tried, in which order, and why the others may not, written out case by case."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping

import pytest

from poprep_cli.protocol.sasl.methods import (
    ORDER,
    POP3_DEFAULT,
    REVERSIBLE,
    SASL,
    SMTP_DEFAULT,
    Candidate,
    Surroundings,
    announced,
    candidates,
)

SAFE = Surroundings(encrypted=True, tls=True, clear_text="encrypted-only", clear_text_key="pop3.clear_text")
EVERYTHING = {"CAPA": SASL, "welcome": ("apop",)}

# A server that announces CRAM-MD5 and USER by CAPA, LOGIN by AUTH, and a timestamp by its welcome (greeting), or not
# (C, A, W in the first line). Below, by the detectors that are on (c, a, w): what may be tried, in order.
# c is cram-md5, p is apop, l is login, u is user.
GRID = """
      -     C     A     W     CA    CW    AW    CAW
-     u     u     u     u     u     u     u     u
c     u     cu    u     u     cu    cu    u     cu
a     u     u     lu    u     lu    u     lu    lu
w     u     u     u     pu    u     pu    pu    pu
ca    u     cu    lu    u     clu   cu    lu    clu
cw    u     cu    u     pu    cu    cpu   pu    cpu
aw    u     u     lu    pu    lu    pu    plu   plu
caw   u     cu    lu    pu    clu   cpu   plu   cplu
"""
LETTERS = {"c": "cram-md5", "p": "apop", "l": "login", "u": "user"}
SOURCES = {"c": ("CAPA", ("cram-md5",)), "a": ("AUTH", ("login",)), "w": ("welcome", ("apop",))}


def grid() -> list[tuple[str, str, tuple[str, ...]]]:
    """Return each field of the grid: detectors, what the server announces, and the methods to be tried."""
    head, *rows = (line.split() for line in GRID.strip().splitlines())
    return [
        (row[0].strip("-"), column.strip("-"), tuple(LETTERS[letter] for letter in field))
        for row in rows
        for column, field in zip(head, row[1:], strict=True)
    ]


def usable(*found: Candidate) -> tuple[str, ...]:
    return tuple(candidate.method for candidate in found if candidate.usable)


def reasons(
    enabled: Collection[str], sources: Mapping[str, Collection[str]], around: Surroundings, preferred: str = ""
) -> dict[str, str]:
    """Return why each enabled method can't be used, "" for those that can."""
    return {one.method: one.why_not for one in candidates(enabled, sources, around, preferred)}


def detected(detectors: str, announces: str) -> dict[str, tuple[str, ...]]:
    """Return what the detectors that are on find in what the server announces."""
    return dict(SOURCES[letter] for letter in detectors if letter.upper() in announces)


def around_for(detectors: str, announces: str) -> Surroundings:
    """Return the surroundings over TLS; CAPA that is not announced is not answered."""
    capability = True if "c" in detectors and "C" in announces else None
    return Surroundings(
        encrypted=True,
        tls=True,
        clear_text="encrypted-only",
        clear_text_key="pop3.clear_text",
        user_capability=capability,
        detecting=bool(detectors),
    )


def test_the_grid_is_complete() -> None:
    sets = {"".join(some) for size in range(4) for some in itertools.combinations("caw", size)}
    assert {(detectors, announces.lower()) for detectors, announces, _ in grid()} == set(itertools.product(sets, sets))


@pytest.mark.parametrize("on", [set(some) for size in range(5) for some in itertools.combinations("cplu", size)])
def test_detectors_announcements_and_enabled_methods(on: set[str]) -> None:
    enabled = {LETTERS[letter] for letter in on}
    for detectors, announces, expected in grid():
        found = candidates(enabled, detected(detectors, announces), around_for(detectors, announces))
        assert {one.method for one in found} == enabled
        assert usable(*found) == tuple(method for method in expected if method in enabled), (detectors, announces)


@pytest.mark.parametrize("field", grid())
def test_the_reasons(field: tuple[str, str, tuple[str, ...]]) -> None:
    detectors, announces, expected = field
    missing = "not announced" if detectors else "nothing was detected (detect)"
    no_timestamp = "the greeting has no timestamp" if detectors else "nothing was detected (detect)"
    told = reasons(set(LETTERS.values()), detected(detectors, announces), around_for(detectors, announces))
    whys = {"cram-md5": missing, "login": missing, "apop": no_timestamp}
    assert told == {method: "" if method in expected else whys[method] for method in LETTERS.values()}


def test_the_order_is_from_the_most_secure_to_the_least() -> None:
    found = candidates(ORDER, EVERYTHING, SAFE)
    assert usable(*found) == (
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
    )
    assert candidates(ORDER[::-1], EVERYTHING, SAFE) == found  # the order of the configuration says nothing


def test_the_defaults() -> None:
    assert "external" not in POP3_DEFAULT
    assert set(POP3_DEFAULT) == set(ORDER) - {"external"}
    assert set(SMTP_DEFAULT) == set(ORDER) - {"external", "msn", "apop", "user"}
    assert set(ORDER) == SASL | {"apop", "user"}
    assert {"plain", "login", "user"} == REVERSIBLE


def test_who_announced_it_is_told() -> None:
    found = candidates(("plain", "apop", "login"), {"CAPA": {"plain"}, "AUTH": {"plain"}, "welcome": ("apop",)}, SAFE)
    assert [(one.method, one.announced_by) for one in found] == [
        ("apop", ("welcome",)),
        ("plain", ("CAPA", "AUTH")),
        ("login", ()),
    ]


@pytest.mark.parametrize("preferred", ORDER)
def test_what_worked_last_time_goes_first(preferred: str) -> None:
    found = usable(*candidates(ORDER, EVERYTHING, SAFE, preferred))
    assert found == (preferred, *(method for method in ORDER if method != preferred))


def test_what_worked_last_time_is_no_exemption() -> None:
    found = candidates(("cram-md5", "user"), {"CAPA": {"cram-md5"}}, SAFE, "plain")
    assert usable(*found) == ("cram-md5", "user")
    found = candidates(("cram-md5", "plain"), {"CAPA": {"cram-md5"}}, SAFE, "plain")
    assert usable(*found) == ("cram-md5",)


@pytest.mark.parametrize(("capability", "expected"), [(True, ""), (None, ""), (False, "not announced")])
def test_user_is_skipped_only_if_capa_was_answered_without_it(capability: bool | None, expected: str) -> None:
    around = Surroundings(
        encrypted=True,
        tls=True,
        clear_text="encrypted-only",
        clear_text_key="pop3.clear_text",
        user_capability=capability,
    )
    assert reasons(("user",), {}, around) == {"user": expected}


def test_without_detectors_only_user_is_left() -> None:
    around = Surroundings(
        encrypted=True,
        tls=True,
        clear_text="encrypted-only",
        clear_text_key="pop3.clear_text",
        detecting=False,
    )
    told = reasons(ORDER, {}, around)
    assert told.pop("user") == ""
    assert set(told.values()) == {"nothing was detected (detect)"}


# clear_text: encrypted, tls, clear_text -> whether reversible methods, -PLUS and EXTERNAL may be used. A line within
# this machine counts as encrypted without TLS.
LINES = [
    (True, True, "encrypted-only", True, True),
    (True, True, "allow", True, True),
    (True, False, "encrypted-only", True, False),
    (True, False, "allow", True, False),
    (False, False, "encrypted-only", False, False),
    (False, False, "allow", True, False),
]


@pytest.mark.parametrize("key", ["pop3.clear_text", "smtp.clear_text"])
@pytest.mark.parametrize(("encrypted", "tls", "clear_text", "reversible", "bound"), LINES)
def test_what_the_line_allows(
    encrypted: bool, tls: bool, clear_text: str, reversible: bool, bound: bool, key: str
) -> None:
    around = Surroundings(encrypted=encrypted, tls=tls, clear_text=clear_text, clear_text_key=key)
    told = reasons(ORDER, EVERYTHING, around)
    password = f'the line is not encrypted; {key} = "allow" would send the password all the same'
    for method in ("plain", "login", "user"):
        assert told.pop(method) == ("" if reversible else password)
    for method in ("scram-sha-256-plus", "scram-sha-1-plus"):
        assert told.pop(method) == ("" if bound else "channel binding needs TLS")
    assert told.pop("external") == ("" if bound else "a client certificate needs TLS")
    assert set(told.values()) == {""}
    assert len(told) == 6


def test_names_are_announced_in_any_case_and_strange_ones_ignored() -> None:
    names = ["Scram-SHA-256", "PLAIN", "login", "XOAUTH2", "APOP", "USER", "", "\ufffd", "MSN", "SCRAM-SHA-1-PLUS"]
    assert announced(names) == {"scram-sha-256", "plain", "login", "msn", "scram-sha-1-plus"}
    assert announced(()) == frozenset()
