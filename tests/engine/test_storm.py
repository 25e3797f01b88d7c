"""The storm guard: honest and dishonest cases, decided from what is known and what is listed."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poprep_cli.engine.state import Entry
from poprep_cli.engine.storm import BURST, Recognition, Sight, doubtful, recognise, suspects
from poprep_cli.engine.survey import survey
from poprep_cli.net.maildrop import Listed

DAY = "2026-11-01T00:00:00Z"
LATER = "2026-11-20T09:00:00Z"  # when it was missed


def entry(fingerprint: str = "", *, octets: int = 0, status: str = "delivered", gone: str = "") -> Entry:
    return Entry(DAY, status, DAY, octets, fingerprint, gone=gone)


def sight(number: int, fingerprint: str = "", size: int = 1) -> Sight:
    return Sight(Listed(number, b"new%d" % number, size), fingerprint)


def known(entries: Iterable[Entry]) -> list[tuple[bytes, Entry]]:
    return [(b"old%d" % number, one) for number, one in enumerate(entries, 1)]


def suspected(missing: int, kept: int, new: int, *, gone: int = 0, status: str = "delivered") -> int:
    entries = {b"m%d" % n: entry("f", status=status) for n in range(missing)}
    entries |= {b"k%d" % n: entry("f") for n in range(kept)}
    entries |= {b"g%d" % n: entry("f", gone=LATER) for n in range(gone)}
    listed = [Listed(n, b"k%d" % n, 1) for n in range(kept)] + [Listed(n, b"n%d" % n, 1) for n in range(100, 100 + new)]
    return len(suspects(survey(listed, entries), entries))


# missing, still listed, new, gone for days -> how many known ones are compared
REASONS = [
    (60, 0, 60, 0, 60),
    (31, 30, 31, 0, 31),
    (30, 30, 30, 0, 30),
    (1, 0, 1, 0, 1),
    (60, 0, 0, 0, 0),
    (0, 60, 60, 0, 0),
    (0, 0, 60, 0, 0),
    (5, 0, 5, 7, 12),
    (0, 5, BURST, BURST, BURST),
    (0, 5, BURST - 1, BURST, 0),
    (0, 5, BURST, BURST - 1, 0),
]


@pytest.mark.parametrize(("missing", "kept", "new", "gone", "compared"), REASONS)
def test_when_there_is_a_reason_to_suspect(missing: int, kept: int, new: int, gone: int, compared: int) -> None:
    assert suspected(missing, kept, new, gone=gone) == compared


@pytest.mark.parametrize("status", ["seen", "sending", "oversize", "deleted"])
def test_what_was_not_settled_is_no_reason(status: str) -> None:
    assert suspected(20, 0, 20, status=status) == 0


def test_each_known_message_is_one_new_one() -> None:
    found = recognise([sight(1, "a"), sight(2, "a"), sight(3, "b"), sight(4)], known([entry("a"), entry("c"), entry()]))
    assert {key: listed.number for key, listed in found.adopted.items()} == {b"old1": 1}
    assert [one.listed.number for one in found.strange] == [2, 3, 4]
    assert sorted(one.fingerprint for one in found.left) == ["", "c"]


def test_of_several_the_one_of_that_size() -> None:
    found = recognise([sight(1, "a", 30)], known([entry("a", octets=10), entry("a", octets=30), entry("a", octets=20)]))
    assert list(found.adopted) == [b"old2"]


def left(strange: Iterable[Sight], entries: Iterable[Entry]) -> Recognition:
    return Recognition({}, tuple(strange), tuple(entries))


def named(count: int, size: int = 1) -> list[Entry]:
    return [entry(f"old{number}", octets=size + number) for number in range(count)]


def nameless(count: int, size: int = 1) -> list[Entry]:
    return [entry(octets=size + 100 * number if size else 0, status="ignored") for number in range(count)]


def clear(count: int, size: int = 1) -> list[Sight]:
    return [sight(number, f"new{number}", size + 100 * number) for number in range(count)]


def dark(count: int, size: int = 1) -> list[Sight]:
    return [sight(number, "", size + number) for number in range(count)]


# strange messages, entries without a message -> how many are in doubt
CASES = {
    "60 new, 60 known ones gone, all with fingerprints": (clear(60), named(60), 0),
    "60 new, nothing known is left over": (clear(60), [], 0),
    "60 new without fingerprint, nothing known is left over": (dark(60), [], 0),
    "no TOP, 60 known": (dark(60), named(60), 60),
    "no TOP, 60 known of other sizes": (dark(60, 7000), named(60), 60),
    "no TOP, 9 known of other sizes": (dark(60, 7000), named(9), 0),
    "no TOP, 9 known of the same sizes": (dark(9), named(9), 9),
    "no TOP, 3 of the same sizes among many new": (dark(60), named(3), 0),
    "no TOP, 2 of the same sizes": (dark(2), named(2), 0),
    "60 new, 60 ignored": (clear(60), nameless(60, 0), 60),
    "60 new, 9 ignored": (clear(60), nameless(9, 0), 0),
    "5 new, 5 ignored of the same sizes": (clear(5), nameless(5), 5),
    "5 new, 5 ignored of other sizes": (clear(5, 50), nameless(5), 0),
    "5 new, 5 ignored of unknown size": (clear(5), nameless(5, 0), 0),
    "60 new, one of them without fingerprint": ([*clear(59), *dark(1, 9000)], named(60), 0),
    "60 new, one ignored one": (clear(60), [*named(60), *nameless(1, 0)], 0),
    "no TOP, what is left went days ago": (dark(60), [entry("a", gone=LATER) for _ in range(60)], 0),
}


@pytest.mark.parametrize(("strange", "entries", "doubt"), CASES.values(), ids=list(CASES))
def test_when_it_is_in_doubt(strange: list[Sight], entries: list[Entry], doubt: int) -> None:
    assert doubtful(left(strange, entries)) == doubt


fingerprints = st.sampled_from(["", "a", "b", "c", "d"])


@given(st.lists(st.tuples(fingerprints, st.integers(1, 3))), st.lists(st.tuples(fingerprints, st.integers(1, 3))))
def test_nothing_is_lost_and_nothing_adopted_twice(new: list[tuple[str, int]], old: list[tuple[str, int]]) -> None:
    sights = [sight(number, fingerprint, size) for number, (fingerprint, size) in enumerate(new)]
    entries = known(entry(fingerprint, octets=size) for fingerprint, size in old)
    found = recognise(sights, entries)
    numbers = [listed.number for listed in found.adopted.values()] + [one.listed.number for one in found.strange]
    assert sorted(numbers) == list(range(len(new)))
    assert len(found.adopted) + len(found.left) == len(old)
    by_key = dict(entries)
    assert all(by_key[key].fingerprint == new[listed.number][0] != "" for key, listed in found.adopted.items())
    unmatched = {one.fingerprint for one in found.left}
    assert not any(one.fingerprint in unmatched for one in found.strange if one.fingerprint)
