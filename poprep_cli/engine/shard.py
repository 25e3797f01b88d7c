"""Which connectors this machine polls, when many share the work: `--shard K/N` by rendezvous hashing. Pure.

Every machine finds the same answer by itself, from the names alone. When N changes, only about 1/N of the connectors
move. (Thaler, Ravishankar: Using name-based mappings to increase hit rates, 1998.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

MAX_SHARDS = 100_000

# Where schedulers tell a job its index, and how many there are, if they do. Slurm's may start at any number.
_INDEXES = (
    "JOB_COMPLETION_INDEX",
    "SLURM_ARRAY_TASK_ID",
    "NOMAD_ALLOC_INDEX",
    "AWS_BATCH_JOB_ARRAY_INDEX",
    "PARALLEL_SEQ",
)
_COUNTS = {"SLURM_ARRAY_TASK_ID": "SLURM_ARRAY_TASK_COUNT"}
_FIRST = {"SLURM_ARRAY_TASK_ID": "SLURM_ARRAY_TASK_MIN", "PARALLEL_SEQ": ""}  # GNU parallel counts from 1


class Shard(NamedTuple):
    """One of `of` shards, `number` counted from 0."""

    number: int
    of: int

    def has(self, connector: str) -> bool:
        """Return whether this shard has the connector. Names are compared without regard to case."""
        return owner(connector, self.of) == self.number


def owner(connector: str, count: int) -> int:
    """Return the index of the one shard of `count` that has the connector: the one with the greatest weight for it."""
    name = connector.lower().encode()
    return max(range(count), key=lambda index: (_weight(name, index), index))


def parse(text: str, environment: Mapping[str, str]) -> Shard:
    """Return the shard of "K/N", or of "auto/N" and "auto" with what the scheduler says. Raises ValueError, saying why."""
    index_text, slash, count_text = text.partition("/")
    if index_text == "auto":
        index, counted = _index(environment)
    else:
        index, counted = _number(index_text, "K"), None
    if slash:
        count = _number(count_text, "N")
    elif counted is not None:
        count = counted
    else:
        raise ValueError("it must be K/N with K from 0 to N-1, such as 0/16, or auto/16")
    if not 1 <= count <= MAX_SHARDS:
        raise ValueError(f"N must be from 1 to {MAX_SHARDS}")
    if not 0 <= index < count:
        raise ValueError(f"K is {index}, but must be from 0 to {count - 1}")
    return Shard(index, count)


def _index(environment: Mapping[str, str]) -> tuple[int, int | None]:
    for name in _INDEXES:
        if name not in environment:
            continue
        first = 0
        if name in _FIRST:
            first = _number(environment.get(_FIRST[name], "1" if name == "PARALLEL_SEQ" else "0"), _FIRST[name])
        counted = environment.get(_COUNTS.get(name, ""))
        count = _number(counted, _COUNTS[name]) if counted is not None else None
        return _number(environment[name], f"${name}") - first, count
    raise ValueError(f"auto needs one of {', '.join(f'${name}' for name in _INDEXES)} in the environment")


def _number(text: str, what: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise ValueError(f"{what} must be a whole number, not {text!r}")
    return int(text)


def _weight(name: bytes, index: int) -> bytes:
    return hashlib.blake2b(b"%d/" % index + name, digest_size=8).digest()
