"""Whole passes against servers whose TLS is missing, refused or not to be trusted: exit code, words, and what was seen."""

from __future__ import annotations

import re
from base64 import b64encode

import pytest

from poprep_cli.config.model import Address
from poprep_cli.embedded.pop3 import Pop3Server
from poprep_cli.embedded.smtp import SmtpServer
from poprep_cli.net.stream import Stream
from tests.net.certificates import Pki
from tests.poll.world import PASSWORD, USER, Pop3Faults, SmtpFaults, World

SECRETS = (PASSWORD.encode(), b64encode(PASSWORD.encode()), b64encode(f"\0{USER}\0{PASSWORD}".encode()))
CLEAR = "going on in the clear"


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def distant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make loopback look like a server far away, to which a line without TLS is not encrypted."""
    monkeypatch.setattr(Address, "is_local", property(lambda _: False))
    monkeypatch.setattr(Stream, "is_loopback", property(lambda _: False))


def settings(pki: Pki, tls: str, *more: str) -> str:
    return "\n".join((f'tls = "{tls}"', f"tls_ca_file = '{pki.trusting.ca_file}'", *more))


def assert_kept_back(world: World, *forbidden: bytes) -> None:
    """Assert that no form of the password has crossed a line in the clear, nor these commands."""
    for session in world.pop3.sessions + world.smtp.sessions:
        seen = bytes(session.clear)
        assert not any(secret in seen for secret in SECRETS)
        for verb in forbidden:
            assert not re.search(rb"^%s " % verb, seen, re.MULTILINE)


CREDENTIALS = (b"USER", b"PASS", b"APOP", b"AUTH")


@pytest.mark.parametrize("side", ["pop3", "smtp"])
@pytest.mark.parametrize(
    ("problem", "says"),
    [
        ("stripped", "(does not|doesn't) offer (STLS|STARTTLS)"),
        ("refused", "refuse[sd] (STLS|STARTTLS)"),
        ("injected", "in the clear before TLS began"),
        ("wrong name", r"not trusted as that of 127\.0\.0\.1"),
        ("expired", "certificate has expired"),
        ("self-signed", "self.signed certificate"),
        ("unknown CA", "unable to get local issuer certificate"),
        ("garbage", "the TLS handshake with .* failed"),
        ("drop", "the TLS handshake with .* failed"),
    ],
)
def test_required_tls_that_can_not_be_had(world: World, pki: Pki, side: str, problem: str, says: str) -> None:
    world.letters(2)
    if side == "pop3":
        world.pop3.context = pki.context(problem)
        world.pop3.faults = {
            "stripped": Pop3Faults(capa=(b"TOP", b"UIDL", b"USER")),
            "refused": Pop3Faults(stls="refuse"),
            "injected": Pop3Faults(stls_injected=b"+OK\r\n"),
        }.get(problem, Pop3Faults())
        world.pop3_lines = settings(pki, "required", 'clear_text = "allow"')
    else:
        world.smtp.context = pki.context(problem)
        world.smtp.faults = {
            "stripped": SmtpFaults(announce=(b"PIPELINING",)),
            "refused": SmtpFaults(replies={"starttls": b"454 4.7.0 not now\r\n"}),
            "injected": SmtpFaults(starttls_injected=b"250 ok\r\n"),
        }.get(problem, SmtpFaults())
        world.smtp_lines = settings(pki, "required")
    done = world.poll()
    assert done.code == 76, done
    assert any(re.search(says, sentence) for sentence in done.sentences), done.err
    pins = re.findall(r'tls_fingerprint = "([0-9a-f]{64})"', done.err)
    assert pins == ([pki.certificates[problem].fingerprint] if problem in pki.certificates else [])
    assert world.left == ["u1", "u2"]
    assert world.smtp.delivered == []
    assert_kept_back(world, b"MAIL", b"RCPT", *(CREDENTIALS if side == "pop3" else ()))


def test_the_fingerprint_from_the_error_is_all_it_takes(world: World, pki: Pki) -> None:
    world.letters(2)
    world.pop3.context = pki.context("self-signed")
    world.pop3_lines = settings(pki, "required")
    pin = re.search(r'tls_fingerprint = "[0-9a-f]{64}"', world.poll().err)
    assert pin
    world.pop3_lines += f"\n{pin[0]}"
    world.write()
    world.poll().ended(0)
    assert len(world.smtp.delivered) == 2
    assert_kept_back(world, *CREDENTIALS)


@pytest.mark.parametrize("problem", ["stripped", "self-signed", "garbage"])
def test_wanted_tls_goes_on_and_says_so_once(world: World, pki: Pki, problem: str) -> None:
    """On both sides; a warning for each side, however many connections the pass takes."""
    world.letters(3)
    world.pop3.context, world.smtp.context = pki.context(problem), pki.context(problem)
    if problem == "stripped":
        world.pop3.context = world.smtp.context = None
    world.smtp.faults = SmtpFaults(max_messages=1)  # so there is a connection for each message
    world.pop3_lines = world.smtp_lines = settings(pki, "wanted")
    done = world.poll()
    assert done.code == 0, done
    told = [sentence for sentence in done.sentences if CLEAR in sentence and '"wanted"' not in sentence]
    assert len(told) == 2, done.err
    assert world.pop3.address in told[0]
    assert world.smtp.address in told[1]
    assert len(world.smtp.delivered) == 3
    assert not any(message.tls for message in world.smtp.delivered)


@pytest.mark.usefixtures("distant")
@pytest.mark.parametrize("problem", ["stripped", "expired", "drop"])
def test_wanted_tls_leaves_no_method_for_the_password(world: World, pki: Pki, problem: str) -> None:
    world.letters(1)
    world.pop3.context = None if problem == "stripped" else pki.context(problem)
    world.pop3.faults = Pop3Faults(apop=False)
    world.pop3_lines = settings(pki, "wanted")
    world.smtp_lines = 'tls = "off"'
    done = world.poll()
    assert done.code == 77, done
    assert 'pop3.clear_text = "allow"' in done.err
    assert CLEAR in done.err
    assert world.left == ["u1"]
    assert_kept_back(world, *CREDENTIALS)


@pytest.mark.usefixtures("distant")
def test_wanted_tls_towards_smtp_leaves_no_method_for_the_password(world: World, pki: Pki) -> None:
    world.letters(1)
    world.pop3_lines = 'tls = "off"'
    world.smtp_lines = settings(pki, "wanted", f'user = "{USER}"', f'password = "{PASSWORD}"')
    with SmtpServer(
        context=pki.context("self-signed"), user=USER, password=PASSWORD, mechanisms=("PLAIN",), auth_in_clear=True
    ) as world.smtp:
        done = world.poll()
        assert done.code == 77, done
        assert 'smtp.clear_text = "allow"' in done.err
        assert CLEAR in done.err
        assert world.left == ["u1"]
        assert_kept_back(world, b"AUTH", b"MAIL", b"PASS")


@pytest.mark.usefixtures("distant")
def test_wanted_tls_still_has_the_digests(world: World, pki: Pki) -> None:
    world.letters(1)
    world.pop3.context = pki.context("wrong name")
    world.pop3_lines = settings(pki, "wanted")
    world.smtp_lines = 'tls = "off"'
    done = world.poll()
    assert done.code == 0, done
    assert_kept_back(world, b"USER", b"PASS")
    assert len(world.smtp.delivered) == 1


def test_tls_at_connect_on_both_sides(world: World, pki: Pki) -> None:
    context = pki.context("client certificate")
    with (
        Pop3Server(user=USER, password=PASSWORD, context=context, ssl=True) as world.pop3,
        SmtpServer(context=context, ssl=True) as world.smtp,
    ):
        world.letters(2)
        world.pop3_lines = world.smtp_lines = settings(
            pki, "required", "ssl = true", f"tls_client_cert = '{pki.client.path}'"
        )
        world.poll().ended(0)
        assert len(world.smtp.delivered) == 2
        assert world.left == []
        assert not any(session.clear for session in world.pop3.sessions + world.smtp.sessions)


def test_a_client_certificate_that_is_missing(world: World, pki: Pki) -> None:
    world.letters(1)
    world.pop3.context = pki.context("client certificate")
    world.pop3_lines = settings(pki, "required")
    done = world.poll()
    assert done.code == 76, done
    assert "tls_client_cert" in done.err
    assert_kept_back(world, *CREDENTIALS)


def test_an_old_server(world: World, pki: Pki) -> None:
    """Refused by default; used where `tls_min_version` allows it, which every pass tells."""
    world.letters(1)
    world.pop3.context = pki.context("old version")
    world.pop3_lines = settings(pki, "required")
    done = world.poll()
    assert done.code == 76, done
    assert 'tls_min_version = "1.1"' in done.err
    world.pop3_lines += '\ntls_min_version = "1.1"'
    world.write()
    done = world.poll()
    assert done.code == 0, done
    assert 'pop3.tls_min_version = "1.1"' in done.err
    assert_kept_back(world, *CREDENTIALS)
