"""The survey: what a listing says compared with what is known, and how long the missing are remembered."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from poprep_cli.engine.clock import stamp
from poprep_cli.engine.state import LATE, STATUSES, Entry, Journal, message_key
from poprep_cli.engine.survey import Survey, note_missing, survey
from poprep_cli.net.maildrop import Listed

NOW = datetime(2026, 11, 23, 9, 41, tzinfo=UTC)


def entry(status: str = "delivered", *, gone: str = "") -> Entry:
    return Entry(stamp(NOW), status, stamp(NOW), gone=gone)


def listing(*uidls: bytes) -> list[Listed]:
    return [Listed(number, uidl, 100) for number, uidl in enumerate(uidls, 1)]


def days_ago(days: float) -> str:
    return stamp(NOW - timedelta(days=days))


def test_it_tells_new_kept_missing_gone_and_returned() -> None:
    known = {
        b"kept": entry(),
        b"seen": entry("seen"),
        b"missing": entry("held"),
        b"gone": entry(gone=days_ago(3)),
        b"back": entry(gone=days_ago(3)),
        b"deleted": entry("deleted"),
    }
    found = survey(listing(b"new", b"kept", b"seen", b"back", b"new", b""), known)
    assert found == Survey(
        new=(Listed(1, b"new", 100),),
        returned=(Listed(4, b"back", 100),),
        missing=(b"missing",),
        gone=(b"gone",),
        kept=1,
    )


@pytest.mark.parametrize("status", sorted(STATUSES))
def test_whatever_is_known_can_be_missing_but_what_was_deleted(status: str) -> None:
    found = survey(listing(b"other"), {b"u": entry(status)})
    assert found.missing == (() if status == "deleted" else (b"u",))


def test_an_empty_listing_says_nothing() -> None:
    assert survey([], {b"u": entry(), b"v": entry(gone=days_ago(99))}) == Survey()
    assert survey(listing(b""), {b"u": entry()}) == Survey()


def test_what_must_be_read_first_may_be_what_has_its_uidl() -> None:
    known = {b"u": entry(), message_key(b"u", "ab"): entry(), b"v": entry()}
    found = survey(listing(b"u" + LATE + b"1", b"w"), known)
    assert (found.missing, found.new) == ((b"v",), (Listed(2, b"w", 100),))


# ---------------------------------------------------------------------- what the journal is told


def journal(folder: Path, **gone: str) -> Journal:
    made = Journal(folder / "office.jsonl", "joe@pop.example.net:995")
    for uidl, since in gone.items():
        made.record(uidl.encode(), "delivered", days_ago(60), gone=since)
    made.flush()
    return made


def look(made: Journal, *, before: str, stored: frozenset[bytes] = frozenset()) -> dict[bytes, str]:
    """Note what is missing when only "x" is listed; return what is still known, and since when it is gone."""
    note_missing(made, survey(listing(b"x"), made.entries), NOW, before, lambda: stored)
    made.flush()
    return {key: entry.gone for key, entry in made.entries.items()}


def test_missing_is_noted_once(tmp_path: Path) -> None:
    made = journal(tmp_path, u="")
    assert look(made, before=days_ago(1)) == {b"u": stamp(NOW)}
    before = made.path.read_bytes()
    assert look(made, before=days_ago(1)) == {b"u": stamp(NOW)}
    assert made.path.read_bytes() == before
    assert Journal(made.path, "").entries[b"u"].gone == stamp(NOW)


AGES = [
    (29.9, 0, True),  # days gone, days since the last pass -> still known
    (30, 0, False),
    (400, 0.01, False),
    (30.5, 1, True),  # the last pass was less than 30 days after it vanished
    (3650, 3650, True),  # the clock may have jumped: the next pass decides
]


@pytest.mark.parametrize(("gone", "last", "known"), AGES)
def test_after_thirty_days_it_is_forgotten(tmp_path: Path, gone: float, last: float, known: bool) -> None:
    assert (b"u" in look(journal(tmp_path, u=days_ago(gone)), before=days_ago(last))) == known


@pytest.mark.parametrize("before", ["", "garbage"])
def test_without_a_last_pass_nothing_is_forgotten(tmp_path: Path, before: str) -> None:
    assert b"u" in look(journal(tmp_path, u=days_ago(99)), before=before)


@pytest.mark.parametrize("since", [days_ago(-1), days_ago(-4000), "1970-01-01T00:15:00Z", "yesterday"])
def test_a_wrong_date_counts_from_now(tmp_path: Path, since: str) -> None:
    assert look(journal(tmp_path, u=since), before=days_ago(1)) == {b"u": stamp(NOW)}


def test_what_is_forgotten_stays_so(tmp_path: Path) -> None:
    made = journal(tmp_path, u=days_ago(99), v="")
    look(made, before=days_ago(1))
    assert set(Journal(made.path, "").entries) == {b"v"}


def test_what_waits_in_a_store_is_not_forgotten(tmp_path: Path) -> None:
    made = journal(tmp_path, u=days_ago(99), v=days_ago(99))
    assert set(look(made, before=days_ago(1), stored=frozenset((b"u",)))) == {b"u"}
