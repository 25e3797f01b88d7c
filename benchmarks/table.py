"""Results as tables: medians, and how many times the limit's and poprep's each is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.contenders import RAW, RAW_BDAT, RAW_DATA
from benchmarks.peers import POPREP

Runs = Sequence[Mapping[str, Any]]

_TRIPS = {"pop3_round_trips": "POP3 round trips a message", "smtp_round_trips": "SMTP round trips a message"}


def good(runs: Runs) -> list[Mapping[str, Any]]:
    """Return the runs without error."""
    return [run for run in runs if not run["error"]]


def seconds(runs: Runs) -> float | None:
    """Return the median time of runs of which none had an error, else None."""
    return median(run["seconds"] for run in runs) if runs and len(good(runs)) == len(runs) else None


def markdown(results: Mapping[str, Any]) -> str:
    """Return all workloads' tables, and under which circumstances they were measured."""
    parts = [circumstances(results)]
    for name, workload in results["workloads"].items():
        parts.append(f"### {name}: {workload['title']}\n")
        parts.append(table(workload))
    return "\n".join(parts)


def circumstances(results: Mapping[str, Any]) -> str:
    """Return date, machine and versions as a list."""
    lines = [f"- Date: {results['date']}", *(f"- {key}: {value}" for key, value in results["machine"].items())]
    lines += [f"- {name}: {version}" for name, version in results["versions"].items()]
    return "\n".join([*lines, ""])


def table(workload: Mapping[str, Any]) -> str:
    """Return a workload's table."""
    runs: Mapping[str, Runs] = workload["runs"]
    limits = [time for name in (RAW_BDAT, RAW_DATA, RAW) if (time := seconds(runs.get(name, ()))) is not None]
    limit = min(limits, default=None)
    ours = seconds(runs.get(POPREP, ()))
    messages = workload["messages"]
    away = [key for key in _TRIPS if any(run[key] is not None for one in runs.values() for run in one)]
    head = ["", "seconds", "of the limit", "of poprep", "CPU s", "peak MiB", "runs"]
    head += [_TRIPS[key] for key in away]
    rows = [head, ["---", *["---:"] * (len(head) - 1)]]
    for name, one in runs.items():
        rows.append(_row(name, one, limit, ours, away, messages))
    return "\n".join(["| " + " | ".join(row) + " |" for row in rows] + [""])


def _row(
    name: str, runs: Runs, limit: float | None, ours: float | None, away: Sequence[str], messages: int
) -> list[str]:
    time = seconds(runs)
    if time is None:
        why = next((run["error"] for run in runs if run["error"]), "not installed")
        return [name, why, "", "", "", "", str(len(runs)), *([""] * len(away))]
    cells = [
        name,
        f"{time:.3f}",
        _ratio(time, limit),
        _ratio(time, ours),
        f"{median(run['cpu'] for run in runs):.2f}",
        f"{median(run['peak_kib'] for run in runs) / 1024:.0f}",
        str(len(runs)),
    ]
    return [*cells, *(f"{median(run[key] for run in runs) / messages:.2f}" for key in away)]


def _ratio(time: float, base: float | None) -> str:
    return f"{time / base:.2f}" if base else ""
