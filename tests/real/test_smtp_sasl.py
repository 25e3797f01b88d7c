"""Passes that log in to a Postfix with Cyrus SASL, by each method alone: the methods that its Dovecot SASL lacks included."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from poprep_cli.embedded.pop3 import Maildrop, Pop3Server
from tests.real.passes import Passes, Table
from tests.real.postfix import Postfix, own_fields

pytestmark = pytest.mark.real

USERS = {"relay": "tr0ub4dor-and-3", "büro": "größer, besser=schneller"}
METHODS = ("scram-sha-256", "scram-sha-1", "cram-md5", "ntlm", "plain", "login")
MAIL = tuple(
    b"From: a@example.net\r\nDate: Thu, 1 Jan 2026 00:00:00 +0000\r\nMessage-ID: <%d@example.net>\r\n\r\n%s\r\n" % pair
    for pair in enumerate((b".", b"..two\r\n.\r\nend", b"\xe9\xff", b"x" * 900, b""))
)


@pytest.fixture(scope="module")
def postfix() -> Iterator[Postfix]:
    with Postfix(tls=True, users=USERS) as server:
        yield server


@pytest.fixture
def pop3() -> Iterator[Pop3Server]:
    maildrop = Maildrop()
    for content in MAIL:
        maildrop.add(content)
    with Pop3Server(maildrop, user="joe", password="secret") as server:
        yield server


@pytest.fixture
def passes(tmp_path: Path, postfix: Postfix) -> Passes:
    """Passes to an empty Maildir."""
    postfix.settle()
    postfix.take()
    return Passes(tmp_path)


def configure(
    passes: Passes, pop3: Pop3Server, postfix: Postfix, *, encrypted: bool = True, **smtp: str | list[str]
) -> None:
    """Configure passes over STARTTLS, or in the clear, that delete what they delivered."""
    tls = {"tls": "required", "tls_ca_file": str(postfix.ca_file)} if encrypted else {"tls": "off"}
    settings: Table = {
        "host": f"localhost:{postfix.port}",
        **tls,
        "user": "relay",
        "password": USERS["relay"],
        **smtp,
    }
    passes.configure(pop3={"host": pop3.address}, smtp=settings, server_copy={"leave_copy": False})


def run(passes: Passes) -> subprocess.CompletedProcess[str]:
    """Run a pass that may fail."""
    return subprocess.run(
        passes.command, env=passes.environment, capture_output=True, text=True, check=False, timeout=60
    )


def arrived(postfix: Postfix) -> Counter[bytes]:
    """Return what was delivered, from the Date on, with CRLF as it was sent."""
    postfix.settle()
    contents = []
    for stored in postfix.take().values():
        place = stored.index(b"\nFrom: a@example.net\n", own_fields(stored) - 1) + 1  # behind the pass's trace
        contents.append(stored[place:].replace(b"\n", b"\r\n"))
    return Counter(contents)


def logins(postfix: Postfix, mark: int) -> Counter[tuple[str, str]]:
    """Return how many messages came by which method from which user, since Postfix's log was `mark` characters long."""
    return Counter(re.findall(r"sasl_method=(\S+), sasl_username=(\S+)$", postfix.log[mark:], re.MULTILINE))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("encrypted", [True, False])
def test_a_pass_by_each_method_alone(
    passes: Passes, pop3: Pop3Server, postfix: Postfix, method: str, encrypted: bool
) -> None:
    configure(passes, pop3, postfix, auth=[method], encrypted=encrypted)
    mark = postfix.log_mark()
    passes.poll()
    assert arrived(postfix) == Counter(MAIL)
    assert pop3.maildrop.mail() == ()
    assert logins(postfix, mark) == {(method.upper(), "relay"): len(MAIL)}


@pytest.mark.parametrize("method", [method for method in METHODS if method != "ntlm"])  # its server knows ASCII only
def test_names_and_passwords_that_are_not_ascii(
    passes: Passes, pop3: Pop3Server, postfix: Postfix, method: str
) -> None:
    configure(passes, pop3, postfix, auth=[method], user="büro", password=USERS["büro"])
    passes.poll()
    assert arrived(postfix) == Counter(MAIL)


def test_everything_enabled_is_scram(passes: Passes, pop3: Pop3Server, postfix: Postfix) -> None:
    configure(passes, pop3, postfix)
    mark = postfix.log_mark()
    passes.poll()
    assert arrived(postfix) == Counter(MAIL)
    assert logins(postfix, mark) == {("SCRAM-SHA-256", "relay"): len(MAIL)}


@pytest.mark.parametrize("method", METHODS)
def test_a_wrong_password_loses_nothing(passes: Passes, pop3: Pop3Server, postfix: Postfix, method: str) -> None:
    before = pop3.maildrop.mail()
    configure(passes, pop3, postfix, auth=[method], password="not-that-one")
    done = run(passes)
    assert (done.returncode, done.stdout) == (77, "")
    assert "refused the login of relay" in done.stderr
    assert "not-that-one" not in done.stderr
    assert pop3.maildrop.mail() == before
    assert arrived(postfix) == Counter()
    configure(passes, pop3, postfix, auth=[method])
    passes.finish()
    assert arrived(postfix) == Counter(MAIL)  # each of them once
    assert pop3.maildrop.mail() == ()


def test_without_a_login_it_takes_nothing(passes: Passes, pop3: Pop3Server, postfix: Postfix) -> None:
    """The other tests here prove something only if this server insists on a login."""
    passes.configure(pop3={"host": pop3.address}, smtp={"host": f"localhost:{postfix.port}", "tls": "off"})
    done = run(passes)
    assert done.returncode != 0
    assert arrived(postfix) == Counter()
    assert len(pop3.maildrop.mail()) == len(MAIL)
