"""Shards: disjoint, complete, even, and stable when their number changes."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poprep_cli.engine.shard import Shard, owner, parse

NAMES = [f"mailbox-{number:05d}" for number in range(10_000)]


def test_sixteen_shards_of_ten_thousand_connectors_and_a_seventeenth() -> None:
    owners = {}
    for count in (16, 17):
        owners[count] = {name: owner(name, count) for name in NAMES}
        sizes = Counter(owners[count].values())
        mean = len(NAMES) / count
        assert set(sizes) == set(range(count))
        assert all(abs(size - mean) <= 0.15 * mean for size in sizes.values()), sizes
    moved = [name for name in NAMES if owners[16][name] != owners[17][name]]
    assert all(owners[17][name] == 16 for name in moved)  # nothing moves between those that were there
    assert abs(len(moved) - len(NAMES) / 17) <= 0.15 * len(NAMES) / 17


def test_shards_are_disjoint_and_complete() -> None:
    for name in NAMES[:200]:
        assert [Shard(index, 5).has(name) for index in range(5)].count(True) == 1


@given(name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True), count=st.integers(1, 40))
def test_case_makes_no_difference(name: str, count: int) -> None:
    had = [index for index in range(count) if Shard(index, count).has(name)]
    assert len(had) == 1
    assert [index for index in range(count) if Shard(index, count).has(name.swapcase())] == had


def test_what_other_machines_have_found() -> None:
    """The assignment must not change between versions: two shards of different versions must not share a mailbox."""
    assert [owner(name, 16) for name in ("office", "sales", "a", "B.c-d_e")] == [12, 2, 5, 1]


@pytest.mark.parametrize(
    ("text", "environment", "shard"),
    [
        ("0/1", {}, (0, 1)),
        ("15/16", {}, (15, 16)),
        ("auto/16", {"JOB_COMPLETION_INDEX": "3"}, (3, 16)),
        ("auto", {"SLURM_ARRAY_TASK_ID": "12", "SLURM_ARRAY_TASK_MIN": "10", "SLURM_ARRAY_TASK_COUNT": "5"}, (2, 5)),
        ("auto/8", {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "5"}, (7, 8)),
        ("auto/4", {"NOMAD_ALLOC_INDEX": "0"}, (0, 4)),
        ("auto/4", {"AWS_BATCH_JOB_ARRAY_INDEX": "1"}, (1, 4)),
        ("auto/4", {"PARALLEL_SEQ": "4"}, (3, 4)),
    ],
)
def test_what_may_be_said(text: str, environment: dict[str, str], shard: tuple[int, int]) -> None:
    assert parse(text, environment) == shard


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "/",
        "1/",
        "/2",
        "2/2",
        "-1/2",
        "1/0",
        "1/x",
        "x/2",
        "1/2/3",
        "auto",
        "auto/4",
        "1/100001",
        "\uff11/2",
        "0/9999999999",
    ],
)
def test_what_may_not(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse(text, {})
