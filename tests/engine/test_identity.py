"""The digest of a header, the keys that messages get by it, and that twins are deleted together or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poprep_cli.config.model import ServerCopy
from poprep_cli.engine.digest import header_digest
from poprep_cli.engine.identity import Identity, together
from poprep_cli.engine.message import Message, fingerprint, header_of
from poprep_cli.engine.plan import Step
from poprep_cli.engine.report import ConnectorReport
from poprep_cli.engine.state import Journal, is_late, message_key
from poprep_cli.net.maildrop import Listed
from poprep_cli.protocol.wire import stuff

Fields = list[tuple[bytes, bytes]]
NOW = "2026-11-23T09:41:00Z"

names = st.from_regex(rb"\A[A-Z][A-Za-z-]{0,12}\Z").filter(lambda name: not name.lower().startswith((b"x-", b"status")))
names = names.filter(lambda name: name.lower() not in (b"lines", b"content-length"))
texts = st.binary(min_size=1, max_size=60).map(lambda text: bytes(octet for octet in text if octet not in b"\r\n\0"))
fields = st.lists(st.tuples(names, texts), max_size=8)
volatile = st.sampled_from(
    (
        b"Status: RO",
        b"X-Status: A",
        b"x-uidl: 7\r\n\tmore",
        b"X-Keywords:",
        b"Content-Length: 12",
        b"LINES: 3",
        b"X-Mozilla-Status: 0001",
        b"X-IMAPbase: 1 2",
    )
)


def header(found: Fields) -> bytes:
    return b"".join(name + b": " + text + b"\r\n" for name, text in found) + b"\r\n"


@given(found=fields, noted=st.lists(st.tuples(st.integers(0, 8), volatile), max_size=4), body=st.binary(max_size=99))
def test_what_a_server_notes_and_the_body_do_not_matter(
    found: Fields, noted: list[tuple[int, bytes]], body: bytes
) -> None:
    lines = [name + b": " + text + b"\r\n" for name, text in found]
    for place, line in noted:
        lines.insert(place, line + b"\r\n")
    by_top = header_of(stuff(header(found)))
    by_retr = header_of(stuff(b"".join(lines) + b"\r\n" + body.replace(b"\r", b"").replace(b"\n", b"") + b"\r\n"))
    assert header_digest(by_retr) == header_digest(by_top)
    assert len(header_digest(by_top)) == 32


@given(found=fields.filter(bool), place=st.integers(0, 7), text=st.binary(min_size=1, max_size=9))
def test_every_other_field_matters(found: Fields, place: int, text: bytes) -> None:
    place %= len(found)
    other = list(found)
    other[place] = (found[place][0], found[place][1] + b" " + text.hex().encode())
    assert header_digest(header(other)) != header_digest(header(found))
    assert header_digest(header([*found, (b"Received", b"here")])) != header_digest(header(found))


def test_a_header_longer_than_what_is_kept_of_it() -> None:
    long = [(b"Received", b"x" * 900 + b" %d" % number) for number in range(400)]
    plain, noted = (stuff(start + header(long)) for start in (b"", b"Status: RO\r\n"))
    assert header_digest(header_of(plain)) == header_digest(header_of(noted))


def test_a_header_without_its_blank_line() -> None:
    head = header([(b"Date", b"today"), (b"From", b"Ada")])
    assert header_digest(header_of(head[:-2] + b".\r\n")) == header_digest(header_of(stuff(head)))


# ------------------------------------------------------------------ keys


class Mailbox:
    """A session of a server with this mail, as `Identity` sees it: UIDLs, contents, and whether TOP works."""

    server = "pop.example.net"
    uidl_refusal = None

    def __init__(self, *mail: tuple[bytes, bytes], top: bool = True) -> None:
        self._contents = [content for _, content in mail]
        self.listed = [Listed(number, uidl, 100) for number, (uidl, _) in enumerate(mail, 1)]
        self.offers_top = top
        self.recognise: Callable[[Listed, bytes], bool] = lambda _listed, _header: False

    def listing(self, known: Iterable[bytes] = (), digest: object = None) -> list[Listed]:
        return self.listed

    def headers(self, numbers: Iterable[int]) -> Iterator[tuple[int, bytes | None]]:
        return ((number, stuff(self._contents[number - 1])) for number in numbers)

    def rename(self, keys: Mapping[int, bytes]) -> None:
        self.listed = [Listed(one.number, keys.get(one.number, one.uidl), one.size) for one in self.listed]

    def message(self, number: int) -> Message:
        content = self._contents[number - 1]
        listed = self.listed[number - 1]
        return Message(listed.uidl, len(content), True, False, header_of(stuff(content)), block=stuff(content))


A, B = (b"Message-ID: <%s@x>\r\nDate: today\r\n\r\nHello.\r\n" % name for name in (b"a", b"b"))
KEY_A, KEY_B = (message_key(b"", header_digest(mail)) for mail in (A, B))


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "office.jsonl", "office@pop.example.net:110")


def keys(journal: Journal, mailbox: Mailbox, *, read: bool = False) -> list[bytes]:
    """Return the keys of a listing, after what has to be read was read."""
    identity = Identity(journal, ServerCopy(), ConnectorReport("office"))
    for listed in list(identity.listing(mailbox)):  # type: ignore[arg-type]
        if read and is_late(listed.uidl):
            identity.settle(mailbox, listed, mailbox.message(listed.number))  # type: ignore[arg-type]
    return [listed.uidl for listed in mailbox.listed]


def test_unique_uidls_are_the_keys(journal: Journal) -> None:
    assert keys(journal, Mailbox((b"u", A), (b"U", B))) == [b"u", b"U"]


@pytest.mark.parametrize("top", [True, False])
def test_blank_ones_get_a_digest(journal: Journal, top: bool) -> None:
    assert keys(journal, Mailbox((b"u", A), (b"", B), top=top), read=True) == [b"u", KEY_B]


@pytest.mark.parametrize("top", [True, False])
def test_twins_are_counted(journal: Journal, top: bool) -> None:
    mailbox = Mailbox((b"", A), (b"", B), (b"", A), (b"", A), top=top)
    assert keys(journal, mailbox, read=True) == [KEY_A, KEY_B, KEY_A + b"-2", KEY_A + b"-3"]


def test_without_top_the_keys_come_late(journal: Journal) -> None:
    found = keys(journal, Mailbox((b"u", A), (b"u", A), (b"", B), top=False))
    assert all(map(is_late, found))
    assert len(set(found)) == 3


def test_the_undelivered_twin_is_the_one_that_is_left(journal: Journal) -> None:
    journal.record(KEY_A, "delivered", NOW)
    journal.record(KEY_A + b"-2", "seen", NOW)
    assert keys(journal, Mailbox((b"", A))) == [KEY_A + b"-2"]


def test_deleted_twins_count_again_only_if_all_are_listed(journal: Journal) -> None:
    for key in (KEY_A, KEY_A + b"-2"):
        journal.record(key, "deleted", NOW)
    assert keys(journal, Mailbox((b"", A), (b"", A))) == [KEY_A, KEY_A + b"-2"]
    assert len(journal.entries) == 2
    assert keys(journal, Mailbox((b"", A))) == [KEY_A]
    assert not journal.entries


@pytest.mark.parametrize("top", [True, False])
def test_a_duplicate_of_what_is_known_by_its_uidl_alone(journal: Journal, top: bool) -> None:
    journal.record(b"u", "delivered", NOW, octets=len(A), fingerprint=fingerprint(A))
    assert keys(journal, Mailbox((b"u", B), (b"u", A), top=top), read=True) == [b"u" + KEY_B, b"u"]


def test_if_both_may_be_the_known_one_neither_is(journal: Journal) -> None:
    journal.record(b"u", "delivered", NOW, octets=len(A), fingerprint=fingerprint(A))
    other = b"Received: elsewhere\r\n" + A
    assert b"u" not in keys(journal, Mailbox((b"u", A), (b"u", other)))


@pytest.mark.parametrize("top", [True, False])
def test_doubt_is_inherited(journal: Journal, top: bool) -> None:
    journal.record(b"u", "sending", NOW)
    mailbox = Mailbox((b"u", A), (b"u", B), top=top)
    if top:
        assert {journal.entries[key].status for key in keys(journal, mailbox)} == {"sending"}
        return
    identity = Identity(journal, ServerCopy(), ConnectorReport("office"))
    message = mailbox.message(1)
    identity.settle(mailbox, identity.listing(mailbox)[0], message)  # type: ignore[arg-type]
    assert message.in_doubt


def test_a_uidl_known_with_a_digest_stays_so(journal: Journal) -> None:
    journal.record(b"u" + KEY_B, "delivered", NOW)
    assert keys(journal, Mailbox((b"u", B), (b"v", A))) == [b"u" + KEY_B, b"v"]


def test_twins_are_deleted_together() -> None:
    listing = [Listed(number, key, 9) for number, key in enumerate((b"u", KEY_A, KEY_A + b"-2", KEY_B), 1)]
    steps = [Step(listed, "delivered") for listed in listing]
    assert together(steps, listing) == steps
    assert together(steps[:2] + steps[3:], listing) == [steps[0], steps[3]]
    assert together(steps[:1], listing) == steps[:1]
    assert together(steps[2:3], listing) == []
