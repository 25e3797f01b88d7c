"""The Sender Rewriting Scheme: addresses as PostSRSd and libsrs2 make them, and their way back."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poprep_cli.engine.srs import MAX_AGE, MAX_LOCAL_PART, forward, reverse

SECRET = b"tops3cr3t"
DAY = 18262  # 2020-01-01


@pytest.mark.parametrize(
    ("sender", "expected"),
    [
        ("test@otherdomain.com", "SRS0=vmyz=2W=otherdomain.com=test@example.com"),
        ("testing@otherdomain.com", "SRS0=rNNq=2W=otherdomain.com=testing@example.com"),
        ("SRS0=opaque+string@otherdomain.com", "SRS1=chaI=otherdomain.com==opaque+string@example.com"),
        (
            "SRS1=X=thirddomain.com==opaque+string@otherdomain.com",
            "SRS1=JIBX=thirddomain.com==opaque+string@example.com",
        ),
        ("test@example.com", "test@example.com"),
        ("test@EXAMPLE.com", "test@EXAMPLE.com"),
    ],
)
def test_addresses_are_those_of_other_implementations(sender: str, expected: str) -> None:
    assert forward(sender, "example.com", SECRET, DAY) == expected


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("SRS0=XjO9=2V=otherdomain.com=test@example.com", "test@otherdomain.com"),
        ("SRS0=vmyz=2W=otherdomain.com=test@example.com", "test@otherdomain.com"),
        ("srs0=xjo9=2v=otherdomain.com=test@example.com", "test@otherdomain.com"),
        ("SRS0=XJO9=2V=OTHERDOMAIN.COM=TEST@EXAMPLE.COM", "TEST@OTHERDOMAIN.COM"),
        ("SRS1=JIBX=thirddomain.com==opaque+string@example.com", "SRS0=opaque+string@thirddomain.com"),
        ("SRS0=te87=T7=otherdomain.com=test@example.com", None),  # six months old
        ("SRS0=VcIb=7N=otherdomain.com=test@example.com", None),  # six months ahead
        ("SRS0=FAKE=2V=otherdomain.com=test@example.com", None),
        ("SRS0=XjO9=00=otherdomain.com=test@example.com", None),
        ("SRS1=XXXX=thirddomain.com==opaque+string@example.com", None),
        ("SRS0=@example.com", None),
        ("SRS0=XjO9@example.com", None),
        ("SRS0=XjO9=2V@example.com", None),
        ("SRS0=XjO9=2V=otherdomain.com@example.com", None),
        ("SRS0=üüüü=2V=otherdomain.com=test@example.com", None),
        ("SRS0=\ud800abc=2V=x.example=\udcff@example.com", None),
        ("SRS1-@example.com", None),
        ("test@example.com", None),
        ("some random string", None),
        ("", None),
    ],
)
def test_the_way_back(address: str, expected: str | None) -> None:
    assert reverse(address, SECRET, DAY) == expected


def test_null_stays_null_and_what_is_no_address_becomes_null() -> None:
    for sender in (
        "",
        "foo",
        "@x.example",
        "foo@",
        "a b@x.example",
        "a@b@x.example",
        "a\nb@x.example",
        '"a>b"@x.example',
        "\udcff@x.example",
    ):
        assert forward(sender, "example.com", SECRET, DAY) == ""


def test_a_local_part_over_64_octets_becomes_null() -> None:
    room = MAX_LOCAL_PART - len("SRS0=HHHH=TT=x.example=")
    assert len(forward("a" * room + "@x.example", "example.com", SECRET, DAY)) == MAX_LOCAL_PART + len("@example.com")
    assert forward("a" * (room + 1) + "@x.example", "example.com", SECRET, DAY) == ""
    assert forward("ü" * (room // 2 + 1) + "@x.example", "example.com", SECRET, DAY) == ""
    assert forward("a@x.example", "d." * 120 + "example", SECRET, DAY) == ""


def test_a_chain_of_forwarders_does_not_grow() -> None:
    first = forward("anna@example.net", "one.example", b"1", DAY)
    second = forward(first, "two.example", b"2", DAY)
    third = forward(second, "three.example", b"3", DAY)
    assert second.startswith("SRS1=")
    assert len(third) == len(second) + len("three") - len("two")
    # A bounce goes from the last one straight to the first, which knows the original sender.
    back = reverse(third, b"3", DAY)
    assert back == first
    assert reverse(back, b"1", DAY) == "anna@example.net"


def test_an_unfinished_srs1_is_an_address_like_any_other() -> None:
    odd = "SRS1=X=thirddomain.com@otherdomain.com"
    rewritten = forward(odd, "example.com", SECRET, DAY)
    assert rewritten.startswith("SRS0=")
    assert reverse(rewritten, SECRET, DAY) == odd


@pytest.mark.parametrize(
    "sender", ['"a,b"@x.example', '"a..b"@x.example', "a/b%c!d@x.example", "o'neil@x.example", "jürgen@x.example"]
)
def test_odd_local_parts(sender: str) -> None:
    assert reverse(forward(sender, "example.com", SECRET, DAY), SECRET, DAY) == sender


def test_literals_are_quoted_and_idn_becomes_an_a_label() -> None:
    assert re.fullmatch(
        r'"SRS0=.{4}=2W=\[192\.0\.2\.1\]=anna"@example\.com', forward("anna@[192.0.2.1]", "example.com", SECRET, DAY)
    )
    assert "=xn--bcher-kva.example=anna@" in forward("anna@bücher.example", "example.com", SECRET, DAY)


@pytest.mark.parametrize(
    ("domain", "written"), [("bücher.example", "xn--bcher-kva.example"), ("b.example.", "b.example")]
)
def test_our_domain_is_written_as_its_a_label_without_a_dot_at_the_end(domain: str, written: str) -> None:
    assert forward("anna@x.example", domain, SECRET, DAY).partition("@")[2] == written
    assert forward(f"anna@{written}", domain, SECRET, DAY) == f"anna@{written}"


local_parts = st.from_regex(r"[A-Za-z0-9+=_-]{1,12}(\.[A-Za-z0-9+=_-]{1,6})?", fullmatch=True)


@given(local_parts, st.binary(max_size=64), st.integers(0, 60_000), st.integers(0, MAX_AGE))
def test_forward_and_reverse(local: str, secret: bytes, day: int, age: int) -> None:
    sender = f"{local}@x.example"
    rewritten = forward(sender, "corp.example", secret, day)
    assert rewritten.endswith("@corp.example")
    back = reverse(rewritten, secret, day + age)
    assert back is not None
    assert back.lower() == sender.lower()


def test_another_secret_does_not_reverse_it() -> None:
    assert reverse(forward("anna@x.example", "corp.example", SECRET, DAY), b"another", DAY) is None


def test_it_expires() -> None:
    rewritten = forward("anna@x.example", "corp.example", SECRET, DAY)
    assert reverse(rewritten, SECRET, DAY + MAX_AGE) == "anna@x.example"
    assert reverse(rewritten, SECRET, DAY + MAX_AGE + 1) is None
    assert reverse(rewritten, SECRET, DAY - 1) is None


@given(st.text(st.characters(), max_size=60), st.integers(-5, 1 << 20))
def test_any_sender_is_safe(sender: str, day: int) -> None:
    result = forward(sender, "corp.example", SECRET, day)
    assert result.isprintable()
    assert not set(result) & set("<>\\ ")
    reverse(sender, SECRET, day)
