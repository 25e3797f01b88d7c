"""Passes that hand mail to Dovecot by LMTP (RFC 2033), over TCP with and without TLS and over its socket; replies one by one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.real.dovecot import Dovecot
from tests.real.passes import Passes, Table

pytestmark = pytest.mark.real

ADA, BOB, EVE, NOBODY = "ada@corp.example", "bob@corp.example", "eve@corp.example", "nobody@corp.example"
UNKNOWN = r"550 5\.1\.1 <nobody@corp\.example> User doesn't exist: nobody@corp\.example"
QUOTA = 100_000  # octets of each user
_QUOTA = """\
mail_plugins = $mail_plugins quota
plugin {{
  quota = maildir:User quota
  quota_rule = *:bytes={octets}
  quota_grace = 0
}}
quota_full_tempfail = {temporary}
"""


@pytest.fixture(scope="module", params=["yes", "no"], ids=["452", "552"])
def dovecot(request: pytest.FixtureRequest) -> Iterator[Dovecot]:
    """A mailbox of joe's, from which mail comes, and three to which it goes; who is over quota gets `request.param`."""
    users = {"joe": "secret", ADA: "a", BOB: "b", EVE: "e"}
    extra = _QUOTA.format(octets=QUOTA, temporary=request.param)
    with Dovecot(users, lmtp=True, extra=extra) as server:
        yield server


@pytest.fixture
def passes(dovecot: Dovecot, tmp_path: Path) -> Passes:
    """Passes from an empty maildrop to empty mailboxes."""
    for user in dovecot.users:
        dovecot.empty(user)
        (dovecot.root / "home" / user / "Maildir" / "maildirsize").unlink(missing_ok=True)
    return Passes(tmp_path)


def tcp(dovecot: Dovecot) -> Table:
    return {"protocol": "lmtp", "host": f"127.0.0.1:{dovecot.lmtp_port}"}


def tls(dovecot: Dovecot) -> Table:
    return {**tcp(dovecot), "tls": "required", "tls_ca_file": str(dovecot.ca_file)}


def socket(dovecot: Dovecot) -> Table:
    return {"protocol": "lmtp", "host": f"unix:{dovecot.lmtp_socket}"}


Way = Callable[[Dovecot], Table]
WAYS = pytest.mark.parametrize("way", [tcp, tls, socket])


def configure(passes: Passes, dovecot: Dovecot, smtp: Table, *recipients: str, **routing: str) -> None:
    """Configure passes that delete what they delivered."""
    passes.configure(
        pop3={"host": f"localhost:{dovecot.ssl_port}", "ssl": True, "tls_ca_file": str(dovecot.ca_file)},
        smtp=smtp,
        server_copy={"leave_copy": False},
        routing={"send_to": list(recipients), **routing},
    )


def mail(number: int, octets: int = 0) -> bytes:
    head = f"From: a@example.net\r\nSubject: {number}\r\nMessage-ID: <{number}@example.net>\r\n\r\n"
    return head.encode() + b"0123456789\r\n" * (octets // 12) + b".\r\n..\r\n\xe9 end\r\n"


def got(dovecot: Dovecot, user: str) -> list[bytes]:
    """Return what is in a mailbox, from its From on, with CRLF as it was sent."""
    return sorted(
        stored[stored.index(b"\nFrom: a@example.net\n") + 1 :].replace(b"\n", b"\r\n")
        for stored in dovecot.left(user).values()
    )


@WAYS
def test_several_recipients(dovecot: Dovecot, passes: Passes, way: Way) -> None:
    contents = [mail(number, number * 100) for number in range(20)]
    for content in contents:
        dovecot.deliver("joe", content)
    configure(passes, dovecot, way(dovecot), ADA, BOB, EVE)
    passes.poll()
    for user in (ADA, BOB, EVE):
        assert got(dovecot, user) == sorted(contents)
    assert dovecot.names("joe") == set()


@WAYS
def test_an_unknown_recipient_among_known_ones(dovecot: Dovecot, passes: Passes, way: Way) -> None:
    for number in range(3):
        dovecot.deliver("joe", mail(number))
    configure(passes, dovecot, way(dovecot), ADA, NOBODY, BOB)
    passes.run("poll").ended(1, *[UNKNOWN] * 3)
    for user in (ADA, BOB):
        assert got(dovecot, user) == [mail(number) for number in range(3)]
    assert [slip["forward_paths"] for slip in passes.slips("badmail")] == [[NOBODY]] * 3
    assert [re.match(UNKNOWN, slip["refusals"][0]["reply"]) is not None for slip in passes.slips("badmail")] == [
        True
    ] * 3
    assert len(dovecot.names("joe")) == 3


@WAYS
def test_badmail_retried_with_the_right_recipient(dovecot: Dovecot, passes: Passes, way: Way) -> None:
    content = mail(1)
    dovecot.deliver("joe", content)
    configure(passes, dovecot, way(dovecot), NOBODY)
    passes.run("poll").ended(1, UNKNOWN)
    (listed,) = passes.run("badmail", "list", "--json").document["badmail"]
    passes.run("badmail", "retry", listed["id"], "--to", EVE).ended(0)
    assert got(dovecot, EVE) == [content]
    assert len(dovecot.names("joe")) == 1
    passes.poll()
    assert dovecot.names("joe") == set()
    assert got(dovecot, EVE) == [content]


@WAYS
def test_one_of_three_is_over_quota(dovecot: Dovecot, passes: Passes, way: Way, request: pytest.FixtureRequest) -> None:
    """Dovecot finds that out with the mail data at hand: the three replies to their end differ."""
    full = dovecot.deliver(BOB, mail(0, QUOTA - 1000))
    contents = [mail(number, 5000) for number in (1, 2)]
    for content in contents:
        dovecot.deliver("joe", content)
    configure(passes, dovecot, way(dovecot), ADA, BOB, EVE)
    temporary = "452" in request.node.callspec.id
    reply = r"452 4\.2\.2 " if temporary else r"552 5\.2\.2 "
    passes.run("poll").ended(1, *[reply] * 2)
    assert got(dovecot, ADA) == got(dovecot, EVE) == contents
    assert dovecot.names(BOB) == {full}
    kept = passes.slips("held" if temporary else "badmail")
    assert [slip["forward_paths"] for slip in kept] == [[BOB]] * 2
    assert [one["stage"] for slip in kept for one in slip["refusals"]] == ["end-of-data"] * 2
    assert len(dovecot.names("joe")) == 2

    dovecot.empty(BOB)
    (dovecot.root / "home" / BOB / "Maildir" / "maildirsize").unlink()
    if not temporary:
        passes.run("badmail", "retry", "--all").ended(0)
    passes.poll()
    for user in (ADA, BOB, EVE):
        assert got(dovecot, user) == contents
    assert dovecot.names("joe") == set()


@WAYS
def test_what_dovecot_notes_of_the_envelope(dovecot: Dovecot, passes: Passes, way: Way) -> None:
    dovecot.deliver("joe", mail(1))
    configure(passes, dovecot, way(dovecot), ADA, sender="office@corp.example")
    passes.poll()
    (stored,) = dovecot.left(ADA).values()
    head = stored.partition(b"\n\n")[0]
    assert b"Return-Path: <office@corp.example>\n" in head
    assert b"Delivered-To: ada@corp.example\n" in head
    assert head.count(b"\nReceived: from ") == 2
    assert (b" with LMTPS " if way is tls else b" with LMTP ") in b" ".join(head.split())


def test_while_the_socket_is_missing_mail_waits(dovecot: Dovecot, passes: Passes) -> None:
    dovecot.deliver("joe", mail(1))
    missing = dovecot.root / "run" / "none"
    configure(passes, dovecot, {"protocol": "lmtp", "host": f"unix:{missing}"}, ADA)
    done = passes.run("poll")
    assert done.code == 75, done
    assert str(missing) in done.err
    assert len(dovecot.names("joe")) == 1
    configure(passes, dovecot, socket(dovecot), ADA)
    passes.poll()
    assert got(dovecot, ADA) == [mail(1)]
    assert dovecot.names("joe") == set()
