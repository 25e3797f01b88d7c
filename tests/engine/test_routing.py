r"""Routing over a corpus of headers, and over any octets.

The corpus, headers/*.txt: `## name`, an optional line of rules `! key=value; ...`, the header with octets as \xHH, and
`=>` with the expected local parts in corp.example, written by hand ("nobody": send_to, or the action instead).
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.structs import asdict, replace

from poprep_cli.config.load import accepts, is_domain
from poprep_cli.config.model import MailAddress, Routing, keys
from poprep_cli.engine.addresses import a_label, addresses, local_part
from poprep_cli.engine.routing import MAX_FIELD_OCTETS, MAX_RECIPIENTS, route, trusted

RULES = Routing(send_to=("office@corp.example",), source_domain="example.net", target_domain="corp.example")
LISTS = ("send_to", "headers")


class Case(NamedTuple):
    name: str
    rules: Routing
    header: bytes
    expected: str


def changed(changes: dict[str, Any]) -> Routing:
    return replace(RULES, **changes)


def read(path: Path) -> list[Case]:
    found = []
    for text in re.split(r"^## ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        body, arrow, expected = text.rstrip("\n").rpartition("\n=> ")
        assert arrow, text
        name, _, header = body.partition("\n")
        rules = RULES
        if header.startswith("! "):
            line, _, header = header[2:].partition("\n")
            settings = [setting.partition("=")[::2] for setting in line.split("; ")]
            rules = changed({key: tuple(value.split(",")) if key in LISTS else value for key, value in settings})
        found.append(Case(name, rules, octets(header), expected))
    return found


def octets(text: str) -> bytes:
    return re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes([int(found[1], 16)]), text.encode())


FILES = sorted((Path(__file__).parent / "headers").glob("*.txt"))
CASES = [case for path in FILES for case in read(path)]


def test_the_corpus_is_large_and_has_no_case_twice() -> None:
    assert len(CASES) >= 220
    assert len({case.name for case in CASES}) == len(CASES)
    assert len({(case.rules, case.header) for case in CASES}) == len(CASES)


def test_the_rules_of_the_corpus_can_be_configured() -> None:
    for case in CASES:
        for name, value in asdict(case.rules).items():
            if value is not None:
                assert accepts(keys(Routing)[name].type, list(value) if name in LISTS else value), (case.name, name)
        assert is_domain(case.rules.source_domain or "a")
        assert is_domain(case.rules.target_domain or "a")


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_corpus(case: Case, line_end: bytes) -> None:
    header = case.header.replace(b"\n", line_end) + 2 * line_end + b"To: body@example.net" + line_end
    routed = route(case.rules, header)
    if case.expected in ("badmail", "discard", "hold"):
        assert (routed.action, routed.recipients, routed.matched) == (case.expected, (), False), routed.why
        return
    assert routed.action == "deliver"
    if case.expected == "nobody":
        unique = {address.lower(): address for address in reversed(case.rules.send_to)}
        assert set(routed.recipients) == set(unique.values())
        assert not routed.matched
        return
    full = (word if re.search(r"[^\"]@", word) else f"{word}@corp.example" for word in case.expected.split())
    assert routed.recipients == tuple(full)
    assert routed.matched


# Octets that look like a header more often than not.
PIECES = [
    b"To:",
    b"Cc: ",
    b"Delivered-To: ",
    b"\n",
    b"\r\n",
    b"\r",
    b" ",
    b"\t",
    b"\0",
    b",",
    b";",
    b":",
    b"<",
    b">",
    b"@",
]
PIECES += [
    b'"',
    b"\\",
    b"(",
    b")",
    b"[",
    b"]",
    b".",
    b"%",
    b"!",
    b"=?utf-8?q?",
    b"?=",
    b"\xc3\xbc",
    b"\xff",
    b"\xe3\x80\x82",
]
PIECES += [
    b"anna@example.net",
    b"example.net",
    b"anna",
    b"@example.net>\r\nRCPT TO:<x@y>",
    b"xn--",
    b"+x",
    b"\x7f",
    b"\xc2\xa0",
]
headers = st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=6)), max_size=40).map(b"".join)
rules = st.builds(
    Routing,
    send_to=st.just(RULES.send_to),
    source_domain=st.just("example.net"),
    target_domain=st.sampled_from(["corp.example", "", "bücher.example"]),
    trusted_header=st.sampled_from(["", "", "To:1", "Delivered-To:2"]),
    no_match=st.sampled_from(["send_to", "badmail", "discard", "hold"]),
    prefix=st.sampled_from(["", "an"]),
)


def assert_safe(given_rules: Routing, header: bytes) -> None:
    routed = route(given_rules, header)
    assert bool(routed.recipients) == (routed.action == "deliver")
    if not routed.matched:
        assert routed.recipients == (given_rules.send_to if given_rules.no_match == "send_to" else ())
        return
    domain = {"": "example.net", "bücher.example": "xn--bcher-kva.example"}.get(
        given_rules.target_domain, given_rules.target_domain
    )
    assert len({recipient.lower() for recipient in routed.recipients}) == len(routed.recipients)
    for recipient in routed.recipients:
        msgspec.convert(recipient, MailAddress)
        assert recipient.endswith(f"@{domain}")
        assert recipient.isprintable()
        assert recipient.count("@") == 1
        assert not set(recipient) & set("\r\n\0 <>%!/|\\")
        assert recipient.encode()


@given(rules, headers)
def test_any_header_is_safe(given_rules: Routing, header: bytes) -> None:
    assert_safe(given_rules, header)


@given(rules, st.binary(max_size=200))
def test_any_value_is_safe(given_rules: Routing, value: bytes) -> None:
    assert_safe(given_rules, b"To: " + value + b"\nDelivered-To: x\nDelivered-To: <" + value + b"@example.net>")


@given(st.text(max_size=30), st.sampled_from(["example.org", "bücher.example"]))
def test_a_name_never_becomes_a_recipient(name: str, elsewhere: str) -> None:
    """Whatever a display name, quoted or encoded, has in it: the one address is that in the angle brackets."""
    quoted = (
        re.sub(r'(["\\])', r"\\\1", name.replace("\r", "").replace("\n", "")) + " anna@example.net, <x@example.net>"
    )
    encoded = "=?utf-8?q?" + "".join(char if char.isalnum() else "_" for char in name) + "_anna@example.net,?="
    for display in (f'"{quoted}"', encoded, f"({re.sub(r'[()]', '', quoted)})"):
        routed = route(RULES, f"To: {display} <carl@{elsewhere}>\n".encode())
        assert not routed.matched


@given(st.from_regex(r"[A-Za-z0-9#$&'*+=?^_`{}~-]+(\.[A-Za-z0-9+_-]+){0,2}", fullmatch=True))
def test_every_plain_local_part_is_kept(local: str) -> None:
    assume("=?" not in local)  # it could be the start of an encoded word
    for value in (local, f'"{local}"'):
        routed = route(RULES, f"Cc: X <{value}@Example.NET>".encode())
        assert routed.recipients == (f"{local}@corp.example",)


@pytest.mark.parametrize(
    "piece",
    [
        b"(",
        b'"',
        b'"\\',
        b"<",
        b"<@",
        b"a@b ",
        b"=?",
        b"=?a?q?",
        b"=?a?q?x",
        b"[",
        b"a.",
        b"a@",
        b"\r\n ",
        b"\xff",
        b"\\",
        b"((a)",
    ],
)
def test_the_work_is_linear(piece: bytes) -> None:
    started = time.process_time()
    route(RULES, b"To: " + piece * (MAX_FIELD_OCTETS // len(piece) - 4))
    assert time.process_time() - started < 5  # quadratic would be minutes


@pytest.mark.parametrize("piece", [b"To ", b"To\n", b"\n ", b"x", b"x: y\n", b"To \t"])
def test_a_huge_header_is_searched_in_linear_time(piece: bytes) -> None:
    started = time.process_time()
    routed = route(RULES, b"To: anna@example.net\n" + piece * ((4 << 20) // len(piece)) + b"\nCc: ben@example.net\n")
    assert time.process_time() - started < 5
    assert routed.action in ("deliver", "badmail")


def test_too_many_recipients_are_badmail_whatever_no_match_says() -> None:
    rules = replace(RULES, no_match="discard")
    names = [f"a{number}@example.net" for number in range(MAX_RECIPIENTS + 1)]
    assert len(route(rules, ("To: " + ", ".join(names[:-1])).encode()).recipients) == MAX_RECIPIENTS
    routed = route(rules, ("To: " + ",\n ".join(names)).encode())
    assert (routed.action, routed.recipients) == ("badmail", ())
    assert "1,000 recipients" in routed.why


def test_too_long_fields_are_badmail_and_other_fields_may_be_of_any_length() -> None:
    assert route(RULES, b"To: anna@example.net (" + b"x" * MAX_FIELD_OCTETS + b")").action == "badmail"
    routed = route(RULES, b"X: " + b"x" * MAX_FIELD_OCTETS + b"\nTo: anna@example.net")
    assert routed.recipients == ("anna@corp.example",)


def test_why_says_where_and_nothing_of_the_message() -> None:
    assert route(RULES, b"To: anna@example.net").why == "named in the header within example.net"
    trusting = replace(RULES, trusted_header="Delivered-To:2")
    assert route(trusting, b"Delivered-To: anna@example.net").why == (
        "there is no Delivered-To:2: it goes to routing.send_to"
    )
    assert route(replace(RULES, no_match="hold"), b"To: %0@example.net").why == (
        "no safe recipient within example.net in the header, 1 unsafe"
    )


@pytest.mark.parametrize(
    ("text", "expected"), [("Delivered-To", ("Delivered-To", 1)), ("X-Original-To:12", ("X-Original-To", 12))]
)
def test_a_trusted_header(text: str, expected: tuple[str, int]) -> None:
    assert trusted(text) == expected


@pytest.mark.parametrize(
    "text", ["", ":1", "To:", "To:0", "To:-1", "To:one", "De livered:1", "Zü:1", "To:1:1", "To:1\n"]
)
def test_no_trusted_header(text: str) -> None:
    with pytest.raises(ValueError, match="is not a header name"):
        trusted(text)


def test_send_to_is_not_needed_where_it_is_not_used() -> None:
    rules = replace(RULES, send_to=(), no_match="badmail")
    assert route(rules, b"").action == "badmail"


@given(st.text(max_size=80))
def test_a_label_is_a_safe_name_or_none(domain: str) -> None:
    label = a_label(domain)
    if label is not None:
        assert re.fullmatch(r"[a-z0-9_.:\[\]-]+", label)
        assert a_label(label) == label


@given(st.one_of(st.text(max_size=80), st.text("aZ0-_.[:]üß\u0130\u0939\u093f\u3002\u2474\u200d☃", max_size=70)))
def test_a_configured_domain_has_an_a_label(domain: str) -> None:
    """Else it would be equal to any other that has none."""
    if is_domain(domain):
        assert a_label(domain) is not None


@given(st.from_regex(r"[a-z0-9_](-?[a-zäöüßé0-9_\u0905-\u0939\u093f]){0,70}(\.[a-zü]{1,60})?\.?", fullmatch=True))
def test_what_has_an_a_label_can_be_configured(domain: str) -> None:
    assert is_domain(domain) == (a_label(domain) is not None)


def test_domains_that_are_none() -> None:
    for domain in (
        "",
        ".",
        "a..b",
        "a" * 64,
        "ü" * 64,
        "a." * 127 + "a",
        "-a",
        "a-",
        "a b",
        "a_b:",
        "[",
        "[x y]",
        "a\u2024b",
        "☃",
    ):
        assert a_label(domain) is None, domain
        assert not is_domain(domain), domain


@given(st.binary(max_size=100))
def test_addresses_survive_anything(value: bytes) -> None:
    for spec in addresses(value):
        assert spec.local
        assert spec.domain
        local_part(spec.local)
