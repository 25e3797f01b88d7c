"""The SASL mechanisms: the vectors of their RFCs, and servers that lie, cheat or say yes too early."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from scramp import ScramException, ScramMechanism

from poprep_cli.errors import LocalProtocolError, RemoteProtocolError
from poprep_cli.protocol.sasl.mechanism import (
    MAX_CRAM_CHALLENGE,
    CramMd5,
    Credentials,
    External,
    Login,
    Mechanism,
    Plain,
)
from poprep_cli.protocol.sasl.scram import MAX_ITERATIONS, MAX_MESSAGE, Scram

TIM = Credentials("tim", "tanstaaftanstaaf")
USER = Credentials("user", "pencil")
NONCE = "fyko+d2lbbFgONRv9qkxdawL"
SERVER_FIRST = b"r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096"
SERVER_FINAL = b"v=rmF9pqV8S7suAoZWja4dJRkFsKQ="
BINDING = bytes(range(32))
PEOPLE = [
    Credentials("Jörg@büro.example", "Paßwort, größer=besser"),
    Credentials("почта", "пароль"),
    Credentials("o=hai,you", "a,b=c"),
    Credentials("用户", "密码"),
]


# The simple ones


def test_plain_is_that_of_rfc_4616() -> None:
    plain = Plain(TIM)
    assert plain.start() == b"\0tim\0tanstaaftanstaaf"
    assert plain.done
    plain.check_end()


def test_plain_has_no_challenge() -> None:
    with pytest.raises(RemoteProtocolError, match="9 octets where PLAIN has none"):
        Plain(TIM).respond(b"Password:")


@pytest.mark.parametrize("credentials", [Credentials("a\0b", "c"), Credentials("a", "b\0c")])
def test_plain_can_not_send_nul(credentials: Credentials) -> None:
    with pytest.raises(LocalProtocolError, match="NUL"):
        Plain(credentials).start()


def test_cram_md5_is_that_of_rfc_2195() -> None:
    cram = CramMd5(TIM)
    assert cram.start() is None
    assert not cram.done
    answer = cram.respond(b"<1896.697170952@postoffice.reston.mci.net>")
    assert answer == b"tim b913a602c7eda7a495b4e6e7334d3890"
    assert cram.done
    cram.check_end()


@pytest.mark.parametrize("challenge", [b"", b"x" * (MAX_CRAM_CHALLENGE + 1)])
def test_cram_md5_refuses_a_strange_challenge(challenge: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        CramMd5(TIM).respond(challenge)


def test_cram_md5_answers_once() -> None:
    cram = CramMd5(TIM)
    cram.respond(b"<1@a>")
    with pytest.raises(RemoteProtocolError, match="one too many"):
        cram.respond(b"<2@a>")


def test_cram_md5_takes_no_yes_without_a_challenge() -> None:
    with pytest.raises(RemoteProtocolError, match="before its CRAM-MD5 challenge was answered"):
        CramMd5(TIM).check_end()


@pytest.mark.parametrize("prompts", [(b"Username:", b"Password:"), (b"", b""), (b"User Name\0", b"Pass\xff")])
def test_login_answers_two_prompts_whatever_they_say(prompts: tuple[bytes, bytes]) -> None:
    login = Login(TIM)
    assert login.start() is None
    assert login.respond(prompts[0]) == b"tim"
    assert not login.done
    assert login.respond(prompts[1]) == b"tanstaaftanstaaf"
    assert login.done
    login.check_end()
    with pytest.raises(RemoteProtocolError, match="two prompts"):
        login.respond(b"Password:")


def test_external_names_the_identity() -> None:
    external = External(TIM)
    assert external.start() == b"tim"
    assert external.respond(b"") == b"tim"
    assert external.done
    external.check_end()
    with pytest.raises(RemoteProtocolError, match="EXTERNAL"):
        external.respond(b"who?")


@pytest.mark.parametrize("credentials", PEOPLE)
def test_names_and_passwords_are_utf_8(credentials: Credentials) -> None:
    user, password = credentials.user.encode(), credentials.password.encode()
    assert Plain(credentials).start() == b"\0" + user + b"\0" + password
    login = Login(credentials)
    assert [login.respond(b"?"), login.respond(b"?")] == [user, password]
    assert CramMd5(credentials).respond(b"<1@a>").rpartition(b" ")[0] == user
    assert External(credentials).start() == user


def test_cram_md5_of_a_password_that_is_not_ascii() -> None:
    answer = CramMd5(Credentials("Jörg", "größer")).respond(b"<1896.697170952@postoffice.reston.mci.net>")
    assert answer == "Jörg c643b0380e2e35c1fd8032e408350b0c".encode()


# SCRAM


def first(scram: Scram, message: bytes = SERVER_FIRST) -> bytes:
    """Begin the exchange and return the answer to the server's first message."""
    scram.start()
    return scram.respond(message)


def test_scram_sha_1_is_that_of_rfc_5802() -> None:
    scram = Scram("SCRAM-SHA-1", USER, NONCE)
    assert scram.start() == b"n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL"
    assert scram.respond(SERVER_FIRST) == (
        b"c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts="
    )
    assert not scram.done
    assert scram.respond(SERVER_FINAL) == b""
    assert scram.done
    scram.check_end()


def test_scram_sha_256_is_that_of_rfc_7677() -> None:
    scram = Scram("SCRAM-SHA-256", USER, "rOprNGfwEbeRWgbNEkqO")
    assert scram.start() == b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
    nonce = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    assert scram.respond(nonce + b",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096") == (
        b"c=biws," + nonce + b",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    )
    assert scram.respond(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=") == b""
    scram.check_end()


NO_PROOF = [
    b"v=smF9pqV8S7suAoZWja4dJRkFsKQ=",
    b"v=AAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    b"v=",
    b"v=!",
    b"",
    b"\xff",
    b"v=" + b"A" * MAX_MESSAGE,
    SERVER_FIRST,
]


@pytest.mark.parametrize("message", NO_PROOF)
def test_a_server_that_does_not_know_the_password_is_not_believed(message: bytes) -> None:
    scram = Scram("SCRAM-SHA-1", USER, NONCE)
    first(scram)
    with pytest.raises(RemoteProtocolError):
        scram.respond(message)
    with pytest.raises(RemoteProtocolError, match="without the SCRAM-SHA-1 proof"):
        scram.check_end()


def test_yes_before_the_proof_is_not_believed() -> None:
    scram = Scram("SCRAM-SHA-1", USER, NONCE)
    steps: tuple[Callable[[], bytes | None], ...] = (scram.start, lambda: scram.respond(SERVER_FIRST))
    for step in steps:
        step()
        with pytest.raises(RemoteProtocolError, match="without the SCRAM-SHA-1 proof"):
            scram.check_end()


@pytest.mark.parametrize("error", [b"e=invalid-proof", b"e=unknown-user", b"e=something-new"])
@pytest.mark.parametrize("stage", ["first", "final"])
def test_an_error_of_the_server_is_acknowledged_and_never_a_success(error: bytes, stage: str) -> None:
    scram = Scram("SCRAM-SHA-1", USER, NONCE)
    scram.start()
    if stage == "final":
        scram.respond(SERVER_FIRST)
    assert scram.respond(error) == b""  # its -ERR, which follows, is the verdict
    with pytest.raises(RemoteProtocolError, match="without the SCRAM-SHA-1 proof"):
        scram.check_end()
    with pytest.raises(RemoteProtocolError, match="one SCRAM-SHA-1 message too many"):
        scram.respond(SERVER_FINAL)


WRONG_FIRST = [
    b"r=other3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
    b"r=fyko+d2lbbFgONRv9qkxdawL,s=QSXCR+Q6sek8bf92,i=4096",  # nothing of the server's in it
    b"r=,s=QSXCR+Q6sek8bf92,i=4096",
    b"r=fyko+d2lbbFgONRv9qkxdawLx,i=4096",
    b"r=fyko+d2lbbFgONRv9qkxdawLx,s=!,i=4096",
    b"m=must,r=fyko+d2lbbFgONRv9qkxdawLx,s=QSXCR+Q6sek8bf92,i=4096",
    b"r=fyko+d2lbbFgONRv9qkxdawLx,s=QSXCR+Q6sek8bf92",
    b"",
    b"\xff",
    b"x" * (MAX_MESSAGE + 1),
]


@pytest.mark.parametrize("message", WRONG_FIRST)
def test_a_first_message_that_is_wrong_gets_no_proof_of_ours(message: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        first(Scram("SCRAM-SHA-1", USER, NONCE), message)


@pytest.mark.parametrize("iterations", [0, 1, 4095, MAX_ITERATIONS + 1, 2**31, 10**18])
def test_iterations_out_of_bounds(iterations: int) -> None:
    message = SERVER_FIRST.replace(b"4096", b"%d" % iterations)
    with pytest.raises(RemoteProtocolError, match=f"wants {iterations} SCRAM-SHA-1 iterations; allowed are 4096 to"):
        first(Scram("SCRAM-SHA-1", USER, NONCE), message)


@pytest.mark.parametrize("iterations", [b"-1", b"", b"4096x", b"0x1000", b"9" * 5000])
def test_iterations_that_are_no_number(iterations: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="wants no SCRAM-SHA-1 iterations"):
        first(Scram("SCRAM-SHA-1", USER, NONCE), SERVER_FIRST.replace(b"4096", iterations))


def test_a_third_message_is_one_too_many() -> None:
    scram = Scram("SCRAM-SHA-1", USER, NONCE)
    first(scram)
    scram.respond(SERVER_FINAL)
    with pytest.raises(RemoteProtocolError, match="one SCRAM-SHA-1 message too many"):
        scram.respond(SERVER_FINAL)


def log_in(name: str, credentials: Credentials, ours: bytes | None, theirs: bytes | None, kind: str = "") -> Scram:
    """Run the whole exchange with a server that knows `credentials`. Raises what either side raises."""
    mechanism = ScramMechanism(name)
    stored = mechanism.make_auth_info(credentials.password, 4096)
    server = mechanism.make_server(
        lambda user: stored if user == credentials.user else None,
        None if theirs is None else (kind, theirs),
    )
    client = Scram(name, credentials, NONCE, None if ours is None else (kind, ours))
    server.set_client_first((client.start() or b"").decode())
    server.set_client_final(client.respond(server.get_server_first().encode()).decode())
    assert client.respond(server.get_server_final().encode()) == b""
    client.check_end()
    return client


@pytest.mark.parametrize("credentials", PEOPLE)
@pytest.mark.parametrize("name", ["SCRAM-SHA-1", "SCRAM-SHA-256"])
def test_scram_with_names_of_all_kinds(name: str, credentials: Credentials) -> None:
    assert log_in(name, credentials, None, None).done


@pytest.mark.parametrize("kind", ["tls-unique", "tls-server-end-point"])
@pytest.mark.parametrize("name", ["SCRAM-SHA-1-PLUS", "SCRAM-SHA-256-PLUS"])
def test_scram_plus_binds_the_channel(name: str, kind: str) -> None:
    assert Scram(name, USER, NONCE, (kind, BINDING)).start() == f"p={kind},,n=user,r={NONCE}".encode()
    assert log_in(name, USER, BINDING, BINDING, kind).done


def test_scram_plus_tells_that_its_type_of_binding_is_not_known() -> None:
    scram = Scram("SCRAM-SHA-1-PLUS", USER, NONCE, ("tls-unique", BINDING))
    scram.start()
    assert not scram.unknown_binding
    assert scram.respond(b"e=unsupported-channel-binding-type,x=y") == b""
    assert scram.unknown_binding
    with pytest.raises(RemoteProtocolError, match="proof"):
        scram.check_end()


@pytest.mark.parametrize("name", ["SCRAM-SHA-1-PLUS", "SCRAM-SHA-256-PLUS"])
def test_scram_plus_through_somebody_in_the_middle_fails(name: str) -> None:
    with pytest.raises(ScramException, match="channel bindings don't match"):
        log_in(name, USER, BINDING, BINDING[::-1], "tls-unique")


@pytest.mark.parametrize(
    "credentials", [Credentials("a\x07b", "tr0ub4dor"), Credentials("a", "tr0ub\x7f"), Credentials("a", "🔑")]
)
def test_what_saslprep_prohibits_can_not_be_used(credentials: Credentials) -> None:
    with pytest.raises(LocalProtocolError, match="SCRAM-SHA-256 can't be used") as caught:
        Scram("SCRAM-SHA-256", credentials, NONCE)
    assert credentials.password not in str(caught.value)


# Secrets


@pytest.mark.parametrize("make", [External, Plain, Login, CramMd5, lambda who: Scram("SCRAM-SHA-1", who, NONCE)])
def test_no_repr_has_the_password_in_it(make: Callable[[Credentials], Mechanism]) -> None:
    who = Credentials("office", "tr0ub4dor", "CORP")
    mechanism = make(who)
    mechanism.start()
    for shown in (repr(who), str(who), repr(mechanism), str(mechanism)):
        assert "tr0ub4dor" not in shown
    assert "office" in repr(who)
