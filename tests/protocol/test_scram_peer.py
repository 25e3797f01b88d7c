"""Our half of SCRAM and our SASLprep, beside those of another author (scramp), over names and passwords of all kinds."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scramp import ScramException, ScramMechanism
from scramp.utils import saslprep as peer_saslprep

from poprep_cli.protocol.sasl.mechanism import Credentials
from poprep_cli.protocol.sasl.saslprep import saslprep
from poprep_cli.protocol.sasl.scram import Scram

# All of Unicode, and more often what the rules are about: right to left, combining, mapped, prohibited, compatibility forms.
ODD = "\u0627\u05d0\u0661\u0300\u00ad\u200b\u00a0\u3000\u00aa\u2168\ufb01\u0000\u007f\u0221\ufdd0\ue000\U000e0001=,1a "
TEXT = st.text(st.one_of(st.characters(), st.sampled_from(ODD)), max_size=12)
PRINTABLE = "".join(map(chr, [*range(0x21, 0x2C), *range(0x2D, 0x7F)]))


def prepared(prepare, text: str) -> str | None:
    """Return the prepared text, None if it is refused."""
    try:
        return prepare(text)
    except (ScramException, ValueError):
        return None


@settings(max_examples=1000, deadline=None)
@given(TEXT)
@example("I\u00adX")  # the examples of RFC 4013 3
@example("user")
@example("\u00aa")
@example("\u2168")
@example("\u0007")
@example("\u0627\u0031")
@example("\u00ad")
@example("")
@example("\ud800")
def test_saslprep_is_that_of_others(text: str) -> None:
    assert prepared(saslprep, text) == prepared(peer_saslprep, text)


@pytest.mark.parametrize(
    ("text", "result"), [("I\u00adX", "IX"), ("user", "user"), ("USER", "USER"), ("\u00aa", "a"), ("\u2168", "IX")]
)
def test_saslprep_is_that_of_rfc_4013(text: str, result: str) -> None:
    assert saslprep(text) == result


@pytest.mark.parametrize("text", ["\u0007", "\u0627\u0031", "a\u0627", "\u0627a\u0627", "\u0221"])
def test_saslprep_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="RFC 4013"):
        saslprep(text)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(["SCRAM-SHA-1", "SCRAM-SHA-256"]),
    user=TEXT.filter(lambda text: bool(prepared(peer_saslprep, text))),
    password=TEXT.filter(lambda text: prepared(peer_saslprep, text) is not None),
    nonce=st.text(PRINTABLE, min_size=1, max_size=40),
    server_nonce=st.text(PRINTABLE, min_size=1, max_size=40),
    salt=st.binary(min_size=12, max_size=40),
    binding=st.none()
    | st.tuples(st.sampled_from(["tls-unique", "tls-server-end-point"]), st.binary(min_size=1, max_size=40)),
    offered=st.booleans(),
)
def test_a_server_of_others_lets_us_in_and_proves_itself(
    name: str,
    user: str,
    password: str,
    nonce: str,
    server_nonce: str,
    salt: bytes,
    binding: tuple[str, bytes] | None,
    offered: bool,
) -> None:
    """Flags n, p, and y, which is right only where the server has no binding: it is then left out there."""
    name += "-PLUS" if binding is not None and offered else ""
    mechanism = ScramMechanism(name)
    stored = mechanism.make_auth_info(password, 4096, salt=salt)
    server = mechanism.make_server(lambda _user: stored, binding if offered else None, s_nonce=server_nonce)
    client = Scram(name, Credentials(user, password), nonce, binding)
    opening = (client.start() or b"").decode()
    assert opening.startswith("n,," if binding is None else f"p={binding[0]},," if offered else "y,,")
    server.set_client_first(opening)
    server.set_client_final(client.respond(server.get_server_first().encode()).decode())
    assert client.respond(server.get_server_final().encode()) == b""
    client.check_end()
