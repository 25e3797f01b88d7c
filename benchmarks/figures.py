"""What the figures of a workload say: medians of runs, its limit, the fastest other program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.contenders import IMPORTS, RAW, RAW_BDAT, RAW_DATA
from benchmarks.peers import POPREP

Runs = Sequence[Mapping[str, Any]]

_LIMITS = (RAW_BDAT, RAW_DATA, RAW)


def good(runs: Runs) -> list[Mapping[str, Any]]:
    """Return the runs without error."""
    return [run for run in runs if not run["error"]]


def seconds(runs: Runs) -> float | None:
    """Return the median time of runs of which none had an error, else None."""
    return median(run["seconds"] for run in runs) if runs and len(good(runs)) == len(runs) else None


def processor(runs: Runs) -> float:
    """Return the median seconds of CPU of runs."""
    return float(median(run["cpu"] for run in runs))


def part_of(runs: Runs) -> int:
    """Return how many messages the runs moved if they are scaled, 0 if they moved all."""
    return max((run.get("part", 0) for run in runs), default=0)


def times(workload: Mapping[str, Any]) -> dict[str, float]:
    """Return the seconds of all that have some, by name."""
    return {name: time for name, runs in workload["runs"].items() if (time := seconds(runs)) is not None}


def limit_of(workload: Mapping[str, Any]) -> tuple[str, float] | None:
    """Return the limit's name and seconds, those of the faster raw copy, if it was measured."""
    found = times(workload)
    return min(((name, found[name]) for name in _LIMITS if name in found), key=lambda one: one[1], default=None)


def is_ours(name: str) -> bool:
    """Return whether a row is a pass of poprep's, by default or with other options."""
    return name == POPREP or name.startswith(f"{POPREP}, ")


def is_other(name: str) -> bool:
    """Return whether a row is another program."""
    return name not in (*_LIMITS, IMPORTS) and not name.startswith(POPREP)


def fastest_other(workload: Mapping[str, Any]) -> tuple[str, float] | None:
    """Return the name and seconds of the fastest other program, if there is one."""
    found = ((name, time) for name, time in times(workload).items() if is_other(name))
    return min(found, key=lambda one: one[1], default=None)
