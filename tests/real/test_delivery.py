"""Passes to a strict Postfix: STARTTLS, a login, unknown and greylisted recipients, a size limit, no bare newlines, a crash."""

from __future__ import annotations

import re
import smtplib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from poprep_cli.embedded.pop3 import Maildrop, Pop3Server
from tests.real.greylist import Greylist
from tests.real.passes import Passes, Table
from tests.real.postfix import Postfix, own_fields
from tests.real.private import wait_until

pytestmark = pytest.mark.real

USER, PASSWORD = "relay", "tr0ub4dor-and-3"
MAILBOXES = ("ada", "bob", "büro", "all")
ADA, BOB, NOBODY = "ada@corp.example", "bob@corp.example", "nobody@corp.example"
UNKNOWN = "550 5.1.1 <nobody@corp.example>: Recipient address rejected: User unknown in virtual mailbox table"
GREYLISTED = "450 4.7.1 <bob@corp.example>: Recipient address rejected: Greylisted, come back later"
LIMIT = 1_000_000
DOOMED = 8  # most messages in flight

_STRICT = """\
smtpd_tls_security_level = encrypt
smtpd_tls_auth_only = yes
smtpd_recipient_restrictions = {greylist}, permit_sasl_authenticated, reject
smtpd_error_sleep_time = 0
"""
_BY = {"bdat": "", "data": "smtpd_discard_ehlo_keywords = chunking\n"}
_IDENT = re.compile(rb"^Message-ID: <([^>\n]+)>$", re.MULTILINE)
_QUEUE_ID = re.compile(rb"\n\t[^\n]* id ([0-9A-Za-z]+)\n")


@pytest.fixture(scope="module")
def greylist() -> Iterator[Greylist]:
    with Greylist() as service:
        yield service


@pytest.fixture(scope="module", params=list(_BY))
def postfix(request: pytest.FixtureRequest, greylist: Greylist) -> Iterator[Postfix]:
    extra = _STRICT.format(greylist=greylist.restriction) + _BY[request.param]
    with Postfix(
        tls=True, users={USER: PASSWORD}, mailboxes=MAILBOXES, message_size_limit=LIMIT, extra=extra
    ) as server:
        yield server


@pytest.fixture
def pop3() -> Iterator[Pop3Server]:
    with Pop3Server(Maildrop(), user="joe", password="secret") as server:
        yield server


@pytest.fixture
def passes(tmp_path: Path, postfix: Postfix, greylist: Greylist) -> Passes:
    """Passes to empty Maildirs, with nobody greylisted."""
    greylist.recipients.clear()
    postfix.settle()
    for mailbox in MAILBOXES:
        postfix.take(mailbox)
    return Passes(tmp_path)


def strict(postfix: Postfix) -> Table:
    return {
        "host": f"localhost:{postfix.port}",
        "tls": "required",
        "tls_ca_file": str(postfix.ca_file),
        "user": USER,
        "password": PASSWORD,
    }


def configure(
    passes: Passes,
    pop3: Pop3Server,
    postfix: Postfix,
    *recipients: str,
    server_copy: Table | None = None,
    smtp: Table | None = None,
    routing: Table | None = None,
) -> None:
    passes.configure(
        pop3={"host": pop3.address},
        smtp={**strict(postfix), **(smtp or {})},
        server_copy=server_copy or {"leave_copy": False},
        routing={"send_to": list(recipients), **(routing or {})},
    )


def mail(ident: str, body: bytes = b"hello\r\n", *, front: bytes = b"") -> bytes:
    return front + f"From: a@example.net\r\nSubject: {ident}\r\nMessage-ID: <{ident}>\r\n\r\n".encode() + body


def left(pop3: Pop3Server) -> list[bytes]:
    return [one.content for one in pop3.maildrop.mail()]


def arrived(postfix: Postfix, mailbox: str) -> list[bytes]:
    """Return what was delivered there since the last call, from its From on, with LF, in the order of Message-IDs."""
    postfix.settle()
    contents = []
    for stored in postfix.take(mailbox).values():
        place = own_fields(stored)
        assert stored.startswith(b"Received: from ", place), stored[:1000]
        contents.append(stored[stored.index(b"\nFrom: a@example.net\n", place) + 1 :])
    return sorted(contents)


def idents(contents: list[bytes]) -> list[str]:
    found = [_IDENT.search(content) for content in contents]
    return [ident[1].decode() for ident in found if ident is not None]


def sessions(postfix: Postfix, mark: int) -> list[dict[str, str]]:
    """Return what Postfix counted in each session that has ended since its log was `mark` characters long."""
    lines = re.findall(r"disconnect from \S+ (.*)", postfix.log[mark:])
    return [dict(pair.split("=") for pair in line.split()) for line in lines]


def session(postfix: Postfix, mark: int) -> dict[str, str]:
    """Return what Postfix counted in the one session since then, once it has ended."""
    wait_until(lambda: bool(sessions(postfix, mark)), "Postfix logs no end of a session")
    (counts,) = sessions(postfix, mark)
    return counts


def by(request: pytest.FixtureRequest) -> str:
    return "bdat" if "bdat" in request.node.callspec.id else "data"


def test_all_recipients_are_good(
    passes: Passes, pop3: Pop3Server, postfix: Postfix, request: pytest.FixtureRequest
) -> None:
    pop3.maildrop.add(mail("one"))
    pop3.maildrop.add(mail("two", b".\r\n..\r\n.end\r\n"))
    configure(passes, pop3, postfix, ADA, BOB)
    mark = postfix.log_mark()
    passes.poll()
    for mailbox in ("ada", "bob"):
        assert arrived(postfix, mailbox) == [
            mail("one").replace(b"\r\n", b"\n"),
            mail("two", b".\n..\n.end\n").replace(b"\r\n", b"\n"),
        ]
    assert left(pop3) == []
    assert session(postfix, mark) == {
        "ehlo": "2",
        "starttls": "1",
        "auth": "1",
        "mail": "2",
        "rcpt": "4",
        by(request): "2",
        "quit": "1",
        "commands": "13",
    }


def test_without_tls_or_login_it_takes_nothing_and_nothing_is_given_up(
    passes: Passes, pop3: Pop3Server, postfix: Postfix
) -> None:
    contents = [mail(name) for name in ("one", "two", "three", "four")]
    for content in contents:
        pop3.maildrop.add(content)
    plain: Table = {"host": f"localhost:{postfix.port}", "tls": "off"}
    encrypted: Table = {**plain, "tls": "required", "tls_ca_file": str(postfix.ca_file)}
    for smtp, reply in (
        (plain, "530 5.7.0 Must issue a STARTTLS command first"),
        (encrypted, "554 5.7.1 .*Access denied"),
    ):
        passes.configure(
            pop3={"host": pop3.address},
            smtp=smtp,
            server_copy={"leave_copy": False},
            routing={"send_to": [ADA]},
        )
        done = passes.run("poll")
        assert done.code == 69, done
        assert re.search(f"(refuses every message alike|takes no mail from us): .*{reply}", done.sentences[0]), done
        assert arrived(postfix, "ada") == []
        assert passes.slips("badmail") == []
        assert left(pop3) == contents
    configure(passes, pop3, postfix, ADA)
    passes.poll()
    assert idents(arrived(postfix, "ada")) == ["four", "one", "three", "two"]
    assert (left(pop3), passes.held) == ([], [])


def test_a_certificate_of_nobody_we_trust(passes: Passes, pop3: Pop3Server, postfix: Postfix) -> None:
    pop3.maildrop.add(mail("one"))
    smtp = {key: value for key, value in strict(postfix).items() if key != "tls_ca_file"}
    passes.configure(pop3={"host": pop3.address}, smtp=smtp, routing={"send_to": [ADA]})
    done = passes.run("poll")
    assert done.code == 76, done
    assert PASSWORD not in done.err
    assert arrived(postfix, "ada") == []
    assert len(left(pop3)) == 1


def test_an_unknown_recipient_beside_good_ones(passes: Passes, pop3: Pop3Server, postfix: Postfix) -> None:
    content = mail("one")
    pop3.maildrop.add(content)
    configure(passes, pop3, postfix, ADA, NOBODY, BOB)
    passes.run("poll").ended(1, re.escape(UNKNOWN))
    assert idents(arrived(postfix, "ada")) == ["one"]
    assert idents(arrived(postfix, "bob")) == ["one"]
    (slip,) = passes.slips("badmail")
    assert slip["forward_paths"] == [NOBODY]
    assert [(one["recipient"], one["stage"], one["reply"]) for one in slip["refusals"]] == [(NOBODY, "rcpt", UNKNOWN)]
    assert left(pop3) == [content]
    # Badmail is a person's matter: another pass has nothing to do or to say.
    passes.poll()
    assert arrived(postfix, "ada") == []
    assert left(pop3) == [content]


@pytest.mark.parametrize(
    "server_copy",
    [{"leave_copy": False}, {"remove_after_delivered": True}, {"remove_after_days": 0}],
    ids=["leave-no-copy", "after-delivered", "after-days"],
)
def test_only_an_unknown_recipient_then_badmail_retried_with_another(
    passes: Passes, pop3: Pop3Server, postfix: Postfix, server_copy: Table
) -> None:
    content = mail("one", b"as it came\r\n")
    pop3.maildrop.add(content)
    configure(passes, pop3, postfix, NOBODY, server_copy=server_copy)
    passes.run("poll").ended(1, re.escape(UNKNOWN))
    (listed,) = passes.run("badmail", "list", "--json").document["badmail"]
    assert left(pop3) == [content]
    mark = postfix.log_mark()
    passes.run("badmail", "retry", listed["id"], "--to", ADA).ended(0)
    assert arrived(postfix, "ada") == [content.replace(b"\r\n", b"\n")]
    assert session(postfix, mark)["rcpt"] == "1"
    assert passes.slips("badmail") == passes.slips("held") == []
    assert left(pop3) == [content]  # no POP3 session was needed
    passes.poll()
    assert left(pop3) == []
    assert arrived(postfix, "ada") == []


def test_badmail_retried_where_the_copy_is_to_stay(passes: Passes, pop3: Pop3Server, postfix: Postfix) -> None:
    content = mail("one")
    pop3.maildrop.add(content)
    configure(passes, pop3, postfix, NOBODY, server_copy={"leave_copy": True})
    passes.run("poll").ended(1, re.escape(UNKNOWN))
    (listed,) = passes.run("badmail", "list", "--json").document["badmail"]
    passes.run("badmail", "retry", listed["id"], "--to", ADA, "--to", BOB).ended(0)
    assert idents(arrived(postfix, "ada")) == idents(arrived(postfix, "bob")) == ["one"]
    passes.poll()
    assert left(pop3) == [content]
    assert arrived(postfix, "ada") == []


def test_a_greylisted_recipient_gets_it_later_and_nobody_twice(
    passes: Passes, pop3: Pop3Server, postfix: Postfix, greylist: Greylist
) -> None:
    content = mail("one")
    pop3.maildrop.add(content)
    greylist.recipients.add(BOB)
    configure(passes, pop3, postfix, ADA, BOB)
    for _ in range(2):
        passes.run("poll").ended(1, re.escape(GREYLISTED))
        assert passes.held == [content]
        assert [slip["forward_paths"] for slip in passes.slips("held")] == [[BOB]]
        assert left(pop3) == [content]
    assert idents(arrived(postfix, "ada")) == ["one"]
    assert arrived(postfix, "bob") == []
    greylist.recipients.clear()
    fetched = pop3.retrieved
    passes.poll()
    assert pop3.retrieved == fetched
    assert arrived(postfix, "bob") == [content.replace(b"\r\n", b"\n")]
    assert arrived(postfix, "ada") == []
    assert passes.held == []
    assert left(pop3) == []


def test_one_greylisted_one_unknown_one_good(
    passes: Passes, pop3: Pop3Server, postfix: Postfix, greylist: Greylist
) -> None:
    content = mail("one")
    pop3.maildrop.add(content)
    greylist.recipients.add(BOB)
    configure(passes, pop3, postfix, BOB, NOBODY, ADA)
    assert passes.run("poll").code == 1
    assert idents(arrived(postfix, "ada")) == ["one"]
    greylist.recipients.clear()
    passes.run("poll").ended(1, re.escape(UNKNOWN))
    assert idents(arrived(postfix, "bob")) == ["one"]
    assert arrived(postfix, "ada") == []
    assert [slip["forward_paths"] for slip in passes.slips("badmail")] == [[NOBODY]]
    assert passes.held == []
    assert left(pop3) == [content]


def test_a_message_above_the_size_limit_is_not_sent(passes: Passes, pop3: Pop3Server, postfix: Postfix) -> None:
    large = mail("large", b"0123456789\r\n" * (LIMIT // 12 + 1))
    for content in (mail("one"), large, mail("two")):
        pop3.maildrop.add(content)
    configure(passes, pop3, postfix, ADA)
    mark = postfix.log_mark()
    passes.run("poll").ended(1, "552 5.3.4 .*the server takes at most 1000000")
    assert idents(arrived(postfix, "ada")) == ["one", "two"]
    assert session(postfix, mark)["mail"] == "2"
    (slip,) = passes.slips("badmail")
    assert slip["forward_paths"] == [ADA]
    assert left(pop3) == [large]


def test_messages_about_the_size_limit_end_somewhere(passes: Passes, pop3: Pop3Server, postfix: Postfix) -> None:
    # What counts is the size of Postfix's queue file, with the lines in front and some octets for each line: it may
    # refuse at the end of data what it would take by the SIZE that it announces.
    sizes = (LIMIT - 50_000, LIMIT - 3_000, LIMIT - 2_000, LIMIT - 1_000, LIMIT - 100, LIMIT)
    contents = {}
    for number, size in enumerate(sizes):
        contents[f"m{number}"] = mail(f"m{number}", (b"x" * 498 + b"\r\n") * (size // 500))
        pop3.maildrop.add(contents[f"m{number}"])
    configure(passes, pop3, postfix, ADA)
    done = passes.run("poll")
    assert done.code == 1, done
    delivered = idents(arrived(postfix, "ada"))
    refused = sorted(set(contents) - set(delivered))
    assert delivered == sorted(contents)[: len(delivered)]
    assert "m0" in delivered
    assert "m5" in refused
    slips = passes.slips("badmail")
    assert len(slips) == len(refused)
    assert all(re.search("^552 5.3.4 ", one["reply"]) for slip in slips for one in slip["refusals"])
    assert left(pop3) == [contents[ident] for ident in refused]


def test_eight_bit_octets_arrive_as_they_are(passes: Passes, pop3: Pop3Server, postfix: Postfix) -> None:
    body = b"Subject in Latin-1: \xe9, in UTF-8: \xc3\xa9, neither: \xff\xfe\r\n"
    pop3.maildrop.add(mail("one", body))
    configure(passes, pop3, postfix, ADA)
    passes.poll()
    assert arrived(postfix, "ada") == [mail("one", body).replace(b"\r\n", b"\n")]


def test_addresses_that_are_not_ascii(passes: Passes, pop3: Pop3Server, postfix: Postfix) -> None:
    content = mail("one", front="X-To: Büro <büro@corp.example>\r\n".encode())
    pop3.maildrop.add(content)
    configure(passes, pop3, postfix, "büro@corp.example", ADA, routing={"sender": "empfang-ü@corp.example"})
    passes.poll()
    postfix.settle()
    for mailbox in ("büro", "ada"):
        (stored,) = postfix.take(mailbox).values()
        assert stored.startswith("Return-Path: <empfang-ü@corp.example>\n".encode())
        assert stored.endswith(content.replace(b"\r\n", b"\n"))
    assert left(pop3) == []


@pytest.mark.parametrize(
    ("routing", "return_path"),
    [
        ({}, rb"sender@example\.net"),
        ({"sender": "null"}, rb""),
        ({"sender": "office@corp.example"}, rb"office@corp\.example"),
        (
            {"sender": "srs", "srs_domain": "fwd.example", "srs_secret": "sekrit"},
            rb"SRS0=[^=@]+=[^=@]+=example\.net=sender@fwd\.example",
        ),
    ],
    ids=["keep", "null", "fixed", "srs"],
)
def test_the_sender_as_postfix_sees_it(
    passes: Passes, pop3: Pop3Server, postfix: Postfix, routing: Table, return_path: bytes
) -> None:
    pop3.maildrop.add(mail("one", front=b"Return-Path: <sender@example.net>\r\n"))
    configure(passes, pop3, postfix, ADA, routing=routing)
    passes.poll()
    postfix.settle()
    (stored,) = postfix.take("ada").values()
    assert re.match(rb"Return-Path: <" + return_path + rb">\n", stored), stored[:500]


def test_three_hundred_small_messages_in_one_session(
    passes: Passes, pop3: Pop3Server, postfix: Postfix, request: pytest.FixtureRequest
) -> None:
    names = [f"m{number:03d}" for number in range(300)]
    for name in names:
        pop3.maildrop.add(mail(name))
    configure(passes, pop3, postfix, ADA)
    mark = postfix.log_mark()
    passes.poll()
    assert idents(arrived(postfix, "ada")) == names
    assert left(pop3) == []
    counts = session(postfix, mark)
    assert (counts["mail"], counts["rcpt"], counts[by(request)]) == ("300", "300", "300")


def test_more_refusals_than_postfix_bears_in_a_session(passes: Passes, pop3: Pop3Server, postfix: Postfix) -> None:
    # After smtpd_hard_error_limit (20) it says 421 and hangs up.
    contents = {f"m{number:03d}": mail(f"m{number:03d}") for number in range(60)}
    for content in contents.values():
        pop3.maildrop.add(content)
    configure(passes, pop3, postfix, ADA, NOBODY)
    codes = []
    while len(passes.slips("badmail")) < len(contents):
        codes.append(passes.run("poll").code)
        assert codes in ([1], [1, 1], [1, 1, 1], [1, 1, 1, 1]), codes
    assert idents(arrived(postfix, "ada")) == sorted(contents)
    assert {tuple(slip["forward_paths"]) for slip in passes.slips("badmail")} == {(NOBODY,)}
    assert passes.held == []
    assert left(pop3) == list(contents.values())


def test_postfix_killed_in_the_middle_of_a_pass(passes: Passes, pop3: Pop3Server, postfix: Postfix) -> None:
    contents = {f"m{number:03d}": mail(f"m{number:03d}", b"0123456789\r\n" * 200) for number in range(300)}
    for content in contents.values():
        pop3.maildrop.add(content)
    configure(passes, pop3, postfix, ADA, smtp={"max_in_flight": DOOMED})

    def delivered() -> int:
        return list(passes.statuses.values()).count("delivered")

    going = passes.start()
    try:
        wait_until(lambda: going.poll() is not None or delivered() >= 50, "no mail flows", 60)
        assert going.poll() is None, "the pass ended too early"
        postfix.kill()
        code = going.wait(60)
    finally:
        going.kill()
        going.wait()
    assert code == 75
    deleted = {uidl for uidl, status in passes.statuses.items() if status == "deleted"}
    assert 50 <= len(deleted) + delivered() < len(contents)
    assert {one.uidl for one in pop3.maildrop.mail()} == set(passes.statuses) - deleted
    assert passes.run("poll").code == 75  # still down
    postfix.start()
    assert passes.run("poll").code in (0, 1)  # what is delivered again is told
    passes.poll()
    assert (passes.held, left(pop3)) == ([], [])
    postfix.settle()
    # Postfix itself may deliver a message of its queue again after a crash: copies are told apart by its queue ID.
    copies: dict[str, dict[bytes, bool]] = {}
    for stored in postfix.take("ada").values():
        ident, queue_id = _IDENT.search(stored), _QUEUE_ID.search(stored)
        assert ident is not None
        assert queue_id is not None
        marked = b"\nX-Poprep-Possible-Duplicate: yes\n" in stored
        copies.setdefault(ident[1].decode(), {})[queue_id[1]] = marked
    assert sorted(copies) == sorted(contents)
    assert all(list(marks.values()).count(False) <= 1 for marks in copies.values()), copies
    assert sum(map(len, copies.values())) <= len(contents) + DOOMED


# ---------------------------------------------------------------------- line ends, and mail smuggled in by them

_INNER = b"MAIL FROM:<forged@example.net>%(e)sRCPT TO:<all@corp.example>%(e)sDATA%(e)sFrom: a@example.net%(e)s%(e)sforged%(e)s"
_ENDS = {
    "LF.CRLF": b"\n.\r\n",
    "LF.LF": b"\n.\n",
    "CRLF.LF": b"\r\n.\n",
    "CR.CRLF": b"\r.\r\n",
    "CR.CR": b"\r.\r",
    "CRLF.CR": b"\r\n.\r",
    "LF.CR": b"\n.\r",
    "CRCRLF.CRCRLF": b"\r\r\n.\r\r\n",
    "CRLF.CRCRLF": b"\r\n.\r\r\n",
    "CRLF.CRLF": b"\r\n.\r\n",
    "CRLFNUL.CRLF": b"\r\n\0.\r\n",
}


def smuggler(ident: str, end: bytes) -> bytes:
    """Return a message with another SMTP transaction in it, behind a false end of data."""
    return mail(ident, b"before" + end + _INNER % {b"e": b"\r\n"} + b"after\r\n")


def mended(content: bytes) -> bytes:
    """Return the message as it arrives, with LF: POP3 ends it by CRLF, whatever its last line lacks."""
    return re.sub(rb"\r+\n|\r|\n", b"\n", content if content.endswith(b"\r\n") else content + b"\r\n")


@pytest.fixture(scope="module")
def trusting() -> Iterator[Postfix]:
    """A Postfix that takes a bare LF for a line end, in commands and in data: the one that smugglers look for."""
    lax = "smtpd_forbid_bare_newline = no\nsmtpd_forbid_unauth_pipelining = no\n"
    with Postfix(mailboxes=MAILBOXES, extra=lax + _BY["data"]) as server:
        yield server


def raw(postfix: Postfix, data: bytes) -> list[bytes]:
    """Send mail data without its end as it is, and return all that Postfix replied to it."""
    with smtplib.SMTP("127.0.0.1", postfix.port, "client.example", timeout=20) as client:
        client.ehlo()
        client.mail("a@example.net")
        client.rcpt(ADA)
        client.docmd("DATA")
        line = client.sock
        assert isinstance(line, socket.socket)
        line.sendall(data + b"\r\n.\r\nQUIT\r\n")
        said = b""
        while part := line.recv(4096):
            said += part
        client.close()
    return said.splitlines()


def test_a_smuggler_without_us(trusting: Postfix) -> None:
    """The next test proves something only if this Postfix can be fooled."""
    trusting.settle()
    trusting.take("all")
    raw(trusting, smuggler("one", _ENDS["LF.CRLF"]))
    trusting.settle()
    trusting.take("ada")
    (forged,) = trusting.take("all").values()
    assert b"\nforged\n" in forged


def test_nothing_is_smuggled_through_a_pass(trusting: Postfix, pop3: Pop3Server, tmp_path: Path) -> None:
    trusting.settle()
    trusting.take("ada")
    trusting.take("all")
    contents = [smuggler(name, end) for name, end in _ENDS.items()]
    for content in contents:
        pop3.maildrop.add(content)
    passes = Passes(tmp_path)
    passes.configure(
        pop3={"host": pop3.address},
        smtp={"host": f"127.0.0.1:{trusting.port}"},
        routing={"send_to": [ADA]},
        server_copy={"leave_copy": False},
    )
    passes.finish()
    assert arrived(trusting, "ada") == sorted(map(mended, contents))
    assert arrived(trusting, "all") == []
    assert left(pop3) == []


def test_bare_newlines_are_refused_without_us() -> None:
    """The next test proves something only if this Postfix looks for them."""
    with Postfix(mailboxes=MAILBOXES) as server:
        assert any(line.startswith(b"550 5.5.2 ") for line in raw(server, mail("one", b"bare\nnewline\r\n")))


def test_bare_newlines_arrive_mended_where_they_are_forbidden(
    passes: Passes, pop3: Pop3Server, postfix: Postfix
) -> None:
    bodies = [b"bare\nLF\r\n", b"bare\rCR\r\n", b"two\r\r\nCR\r\n", b"\n\r\n\r", b"no end", *_ENDS.values()]
    contents = [mail(f"m{number:02d}", body) for number, body in enumerate(bodies)]
    contents.append(mail("lf").replace(b"\r\n", b"\n"))
    contents += [smuggler(name, end) for name, end in _ENDS.items()]
    for content in contents:
        pop3.maildrop.add(content)
    configure(passes, pop3, postfix, ADA)
    passes.finish()
    assert arrived(postfix, "ada") == sorted(map(mended, contents))
    assert arrived(postfix, "all") == []
    assert left(pop3) == []
