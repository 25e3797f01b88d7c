"""Detectors on or off x announced by CAPA, AUTH, the greeting or nothing x each method enabled or not, written out.

The first table is exhaustive and needs no wire: for one method, then for each two of them, then for the order of all. The
second goes over the wire and TLS, to a server that refuses everything: what it was asked, in which order.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from poprep_cli.errors import AuthenticationFailed
from poprep_cli.net.login import log_in
from poprep_cli.net.stop import Stop
from poprep_cli.protocol.sasl.methods import Surroundings, candidates
from tests.net.scripted import PASSWORD, Pki, Scripted, make_pki, refuses, settings

# A letter for each method, in the order in which they must be tried.
LETTERS = {
    "E": "external",
    "P": "scram-sha-256-plus",
    "S": "scram-sha-256",
    "Q": "scram-sha-1-plus",
    "R": "scram-sha-1",
    "C": "cram-md5",
    "N": "ntlm",
    "M": "msn",
    "A": "apop",
    "B": "plain",
    "L": "login",
    "U": "user",
}
DETECTORS = {"c": "capa", "a": "auth", "w": "welcome"}

# What announces the method (rows), which detectors are on (columns): whether it is tried. In the rows of USER and APOP,
# "-" is a server that does not know CAPA and whose greeting has no timestamp; "N" is CAPA without USER.
SASL_TABLE = """
      -  c  a  w  ca cw aw caw
-     .  .  .  .  .  .  .  .
C     .  x  .  .  x  x  .  x
A     .  .  x  .  x  .  x  x
CA    .  x  x  .  x  x  x  x
"""
APOP_TABLE = """
      -  c  a  w  ca cw aw caw
-     .  .  .  .  .  .  .  .
W     .  .  .  x  .  x  x  x
"""
USER_TABLE = """
      -  c  a  w  ca cw aw caw
-     x  x  x  x  x  x  x  x
N     x  .  x  x  .  .  x  .
C     x  x  x  x  x  x  x  x
"""


def read(table: str) -> dict[tuple[str, str], bool]:
    """Return the fields: what announces it and which detectors are on, and whether it is tried."""
    head, *rows = (line.split() for line in table.strip().splitlines())
    return {(row[0], column): field == "x" for row in rows for column, field in zip(head, row[1:], strict=True)}


TABLES = {letter: read(SASL_TABLE) for letter in LETTERS} | {"A": read(APOP_TABLE), "U": read(USER_TABLE)}
COLUMNS = ["-", "c", "a", "w", "ca", "cw", "aw", "caw"]


def rows(letter: str) -> list[str]:
    return list(dict.fromkeys(row for row, _ in TABLES[letter]))


def tried(announced: dict[str, str], detectors: str, enabled: str) -> str:
    """Return what the program would try, as letters. `announced` has the row of each method."""
    found: dict[str, set[str]] = {}
    for source, mark, detector in (("CAPA", "C", "c"), ("AUTH", "A", "a"), ("welcome", "W", "w")):
        if detector in detectors:
            found[source] = {LETTERS[letter] for letter, row in announced.items() if mark in row and letter != "U"}
    answered = announced.get("U", "-") != "-" or any("C" in row for row in announced.values())
    around = Surroundings(
        encrypted=True,
        tls=True,
        clear_text="encrypted-only",
        clear_text_key="pop3.clear_text",
        user_capability="C" in announced.get("U", "-") if answered and "c" in detectors else None,
        detecting=detectors != "-",
    )
    usable = [one.method for one in candidates([LETTERS[letter] for letter in enabled], found, around) if one.usable]
    return "".join(letter for method in usable for letter, name in LETTERS.items() if name == method)


@pytest.mark.parametrize("letter", LETTERS)
def test_one_method(letter: str) -> None:
    for (row, detectors), expected in TABLES[letter].items():
        for enabled in ("", letter):
            assert tried({letter: row}, detectors, enabled) == (enabled if expected else ""), (row, detectors)


@pytest.mark.parametrize("first", LETTERS)
def test_each_two_methods(first: str) -> None:
    for second in itertools.takewhile(lambda letter: letter != first, LETTERS):
        for row, other, detectors in itertools.product(rows(second), rows(first), COLUMNS):
            if first == "U" and other == "-" and "C" in row:
                continue  # who announces by CAPA answers CAPA: that is the row "N" of USER
            expected = second * TABLES[second][row, detectors] + first * TABLES[first][other, detectors]
            for enabled in ("", first, second, second + first):
                wanted = "".join(letter for letter in expected if letter in enabled)
                assert tried({second: row, first: other}, detectors, enabled) == wanted, (row, other, detectors)


def test_the_order_of_all_that_are_enabled() -> None:
    everything = dict.fromkeys("EPSQRCNMBL", "CA") | {"A": "W", "U": "C"}
    for size in range(len(LETTERS) + 1):
        for some in itertools.combinations("EPSQRCNMABLU", size):
            enabled = "".join(some)
            assert tried(everything, "caw", enabled) == enabled
            assert tried(everything, "-", enabled) == ("U" if "U" in enabled else "")


# Over the wire: detectors that are on; what CAPA announces ("-": not answered; U in it is USER, the rest SASL); what AUTH
# lists ("-": refused); a timestamp in the greeting or not; the methods that are enabled; what the server was asked: c for
# CAPA, a for the list of AUTH, and then the methods.
WIRE = """
on   CAPA         AUTH         greeting  enabled       asked

-    EPSQRCNMBLU  EPSQRCNMBL   W         EPSQRCNMABLU  U
-    -            -            -         EPSQRCNMABLU  U
-    EPSQRCNMBL   EPSQRCNMBL   W         EPSQRCNMABL   .

c    EPSQRCNMBLU  -            W         EPSQRCNMABLU  cEPSQRCNMBLU
c    EPSQRCNMBL   -            -         EPSQRCNMABLU  cEPSQRCNMBL
c    U            CNM          W         EPSQRCNMABLU  cU
c    -            CNM          W         EPSQRCNMABLU  cU
c    SCLU         -            -         CL            cCL
c    SCLU         -            -         EPQRNMABU     cU

a    CBU          EPSQRCNMBL   W         EPSQRCNMABLU  aEPSQRCNMBLU
a    CBU          NM           -         EPSQRCNMABLU  aNMU
a    SRCBL        -            W         EPSQRCNMABLU  aU
a    SRCBL        SRCBL        W         A             .

w    EPSQRCNMBL   EPSQRCNMBL   W         EPSQRCNMABLU  AU
w    EPSQRCNMBL   EPSQRCNMBL   -         EPSQRCNMABLU  U
w    -            -            W         AB            A

ca   SCU          NML          W         EPSQRCNMABLU  caSCNMLU
ca   SC           NML          W         EPSQRCNMABLU  caSCNML
ca   EPSQRCNMBLU  L            -         EPSQRCNMABLU  cEPSQRCNMBLU
ca   -            EQ           -         EPSQRCNMABLU  caEQU
ca   -            -            W         EPSQRCNMABL   ca
ca   SU           RC           -         SU            cSU

cw   CBU          NM           W         EPSQRCNMABLU  cCABU
cw   CB           NM           -         EPSQRCNMABLU  cCB
cw   -            NM           W         EPSQRCNMABLU  cAU
cw   U            NM           W         CNBL          c

aw   CBU          NM           W         EPSQRCNMABLU  aNMAU
aw   CBU          -            W         EPSQRCNMABLU  aAU
aw   -            PR           -         EPSQRCNMABLU  aPRU
aw   -            PR           W         AU            AU

caw  SCU          NML          W         EPSQRCNMABLU  caSCNMALU
caw  SC           NML          -         EPSQRCNMABLU  caSCNML
caw  -            EPSQRCNMBL   W         EPSQRCNMABLU  caEPSQRCNMABLU
caw  EPSQRCNMBL   -            W         EPSQRCNMABL   cEPSQRCNMABL
caw  -            -            -         EPSQRCNMABLU  caU
caw  U            -            -         EPSQRCNMABLU  caU
caw  -            -            -         EPSQRCNMABL   ca
caw  BLU          C            W         BLU           cBLU
"""
WIRE_ROWS = [line.split() for line in WIRE.strip().splitlines()[1:] if line]


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    folder: Path = tmp_path_factory.mktemp("pki")
    return make_pki(folder, "office@corp.example")


def sasl(letters: str) -> list[str] | None:
    return None if letters == "-" else [LETTERS[letter].upper() for letter in letters if letter != "U"]


def asked(server: Scripted) -> str:
    """Return what the server was asked, as the table has it."""
    letters = {"CAPA": "c", "AUTH": "a", "APOP": "A", "USER": "U", "PASS": ""}
    letters |= {f"AUTH {name.upper()}": letter for letter, name in LETTERS.items()}
    return "".join(letters[line] for session in server.lines for line in session) or "."


@pytest.mark.parametrize("row", WIRE_ROWS, ids=" ".join)
def test_over_the_wire(row: list[str], pki: Pki) -> None:
    on, capa, listed, greeting, enabled, expected = row
    server = Scripted(
        {name.upper(): refuses for name in LETTERS.values()},
        capa=sasl(capa),
        listed=sasl(listed),
        timestamp=greeting == "W",
        user="U" in capa,
        context=pki.context,
        refusal=b"-ERR no",
        password="another",
    )
    with server:
        pop3 = settings(
            server.port,
            *(LETTERS[letter] for letter in enabled),
            detect=tuple(DETECTORS[letter] for letter in on.strip("-")),
            ssl=True,
            tls_settings=pki.presenting,
        )
        with pytest.raises(AuthenticationFailed):
            log_in(pop3, PASSWORD, Stop())
    assert asked(server) == expected
    assert len(server.sessions) == 1  # a refusal costs no connection


def test_the_wire_covers_every_set_of_detectors_and_every_method() -> None:
    assert {row[0] for row in WIRE_ROWS} == set(COLUMNS)
    assert {letter for row in WIRE_ROWS for letter in row[5]} >= set(LETTERS)
