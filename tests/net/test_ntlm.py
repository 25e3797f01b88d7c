"""NTLM against the server half of pyspnego: what the server accepts, what goes over the wire, what is no challenge."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import spnego
from spnego.channel_bindings import GssChannelBindings
from spnego.exceptions import SpnegoError

from poprep_cli.errors import LocalProtocolError, RemoteProtocolError
from poprep_cli.net.ntlm import MAX_CHALLENGE, Ntlm, split_user
from poprep_cli.protocol.sasl.mechanism import Credentials

PASSWORD = "tr0ub4dor-and-3"
OFFICE = Credentials("office", PASSWORD, "CORP")
BINDING = bytes(range(32))


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> spnego.ContextProxy:
    r"""A server that knows CORP\office and the UPN office@corp.example."""
    store = tmp_path / "users"
    store.write_text(f"CORP:office:{PASSWORD}\n:office@corp.example:{PASSWORD}\nBÜRO:jörg:größer\n", "utf-8")
    monkeypatch.setenv("NTLM_USER_FILE", str(store))
    return spnego.server(protocol="ntlm", hostname="mail", service="pop", options=spnego.NegotiateOptions.use_ntlm)


def answer_to(server: spnego.ContextProxy, ntlm: Ntlm) -> bytes:
    """Run the exchange up to the client's last message and return that."""
    return ntlm.respond(server.step(ntlm.start()) or b"")


def nt_response(message: bytes) -> bytes:
    """Return NtChallengeResponse of an AUTHENTICATE_MESSAGE (MS-NLMP 2.2.1.3)."""
    length, _, place = struct.unpack_from("<HHI", message, 20)
    return message[place : place + length]


PEOPLE = [
    OFFICE,
    Credentials(r"CORP\office", PASSWORD),
    Credentials("office@corp.example", PASSWORD),
    Credentials("jörg", "größer", "BÜRO"),
]


@pytest.mark.parametrize("name", ["NTLM", "MSN"])
@pytest.mark.parametrize("credentials", PEOPLE)
def test_the_server_accepts(server: spnego.ContextProxy, credentials: Credentials, name: str) -> None:
    ntlm = Ntlm(name, credentials)
    assert ntlm.name == name
    assert not ntlm.done
    server.step(answer_to(server, ntlm))
    assert server.complete
    assert ntlm.done
    ntlm.check_end()


def test_only_ntlm_version_2_is_sent(server: spnego.ContextProxy) -> None:
    message = answer_to(server, Ntlm("NTLM", OFFICE))
    assert message.startswith(b"NTLMSSP\0\x03\0\0\0")
    response = nt_response(message)
    assert len(response) > 24  # 24 octets are version 1 (MS-NLMP 2.2.2.6)
    assert response[16:18] == b"\x01\x01"  # the client's challenge of version 2 (2.2.2.7)
    length, _, place = struct.unpack_from("<HHI", message, 12)
    assert message[place : place + length] in (b"", b"\0" * 24)  # and no LM response that is weaker
    for secret in (PASSWORD.encode(), PASSWORD.encode("utf-16-le")):
        assert secret not in message


def test_version_2_even_if_the_server_asks_for_less(server: spnego.ContextProxy) -> None:
    ntlm = Ntlm("NTLM", OFFICE)
    challenge = bytearray(server.step(ntlm.start()) or b"")
    (flags,) = struct.unpack_from("<I", challenge, 20)
    struct.pack_into("<I", challenge, 20, flags & ~0x00880000)  # no target info, no extended session security
    struct.pack_into("<HHI", challenge, 40, 0, 0, 0)
    assert len(nt_response(ntlm.respond(bytes(challenge)))) > 24


def test_a_wrong_password_is_not_accepted(server: spnego.ContextProxy) -> None:
    message = answer_to(server, Ntlm("NTLM", Credentials("office", "not-that-one", "CORP")))
    with pytest.raises(SpnegoError):
        server.step(message)


@pytest.mark.parametrize(("theirs", "accepted"), [(BINDING, True), (BINDING[::-1], False)])
def test_the_channel_is_bound(server: spnego.ContextProxy, theirs: bytes, accepted: bool) -> None:
    message = answer_to(server, Ntlm("NTLM", OFFICE, BINDING))
    bindings = GssChannelBindings(application_data=b"tls-server-end-point:" + theirs)
    if accepted:
        server.step(message, channel_bindings=bindings)
        assert server.complete
        return
    with pytest.raises(SpnegoError):
        server.step(message, channel_bindings=bindings)


HEAD = b"NTLMSSP\0\x02\0\0\0"
NO_CHALLENGES = [
    b"",
    b"NTLMSSP\0",
    HEAD,
    HEAD + b"\0" * 19,
    b"NTLMSSP\0\x01\0\0\0" + b"\0" * 40,
    b"NTLMSSP\0\x03\0\0\0" + b"\0" * 60,
    b"ntlmssp\0\x02\0\0\0" + b"\0" * 40,
    b"Username:" + b"\0" * 40,
    HEAD + b"\0" * MAX_CHALLENGE,
]


@pytest.mark.parametrize("challenge", NO_CHALLENGES)
def test_what_is_no_challenge(challenge: bytes) -> None:
    ntlm = Ntlm("NTLM", OFFICE)
    ntlm.start()
    with pytest.raises(RemoteProtocolError, match="challenge is not one"):
        ntlm.respond(challenge)


def test_cut_and_twisted_challenges_raise_our_error_or_none(server: spnego.ContextProxy) -> None:
    good = server.step(Ntlm("NTLM", OFFICE).start()) or b""
    bad = [good[:size] for size in range(len(good))]
    bad += [good[:place] + b"\xff" + good[place + 1 :] for place in range(len(good))]
    bad += [good[:place] + b"\xff\xff" + good[place + 2 :] for place in range(len(good) - 1)]
    for challenge in bad:
        ntlm = Ntlm("NTLM", OFFICE)
        ntlm.start()
        try:
            message = ntlm.respond(challenge)
        except RemoteProtocolError:
            continue
        assert len(nt_response(message)) > 24


def test_a_second_challenge_is_one_too_many(server: spnego.ContextProxy) -> None:
    ntlm = Ntlm("NTLM", OFFICE)
    challenge = server.step(ntlm.start()) or b""
    ntlm.respond(challenge)
    with pytest.raises(RemoteProtocolError):
        ntlm.respond(challenge)


def test_a_yes_without_a_challenge_is_not_believed() -> None:
    ntlm = Ntlm("NTLM", OFFICE)
    ntlm.start()
    with pytest.raises(RemoteProtocolError, match="before its NTLM challenge was answered"):
        ntlm.check_end()


@pytest.mark.parametrize(
    ("credentials", "expected"),
    [
        (OFFICE, ("office", "CORP")),
        (Credentials(r"CORP\office", "x"), ("office", "CORP")),
        (Credentials(r"A\b", "x", "CORP"), (r"A\b", "CORP")),
        (Credentials("office@corp.example", "x"), ("office@corp.example", "")),
        (Credentials("office", "x"), ("office", "")),
    ],
)
def test_user_and_domain(credentials: Credentials, expected: tuple[str, str]) -> None:
    assert split_user(credentials) == expected


def test_no_repr_has_the_password_in_it(server: spnego.ContextProxy) -> None:
    ntlm = Ntlm("NTLM", OFFICE)
    answer_to(server, ntlm)
    assert PASSWORD not in f"{ntlm!r} {ntlm!s}"


@pytest.mark.parametrize("level", ["0", "1", "2", "high"])
def test_the_environment_cannot_lower_it_to_ntlmv1(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LM_COMPAT_LEVEL", level)
    with pytest.raises(LocalProtocolError, match="LM_COMPAT_LEVEL"):
        Ntlm("NTLM", OFFICE)


def test_a_level_of_ntlmv2_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LM_COMPAT_LEVEL", "5")
    assert Ntlm("NTLM", OFFICE).start()
