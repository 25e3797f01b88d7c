"""A workload's results as a table: medians, and how many times the limit's and poprep's each is; all of them as one document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.figures import Runs, limit_of, part_of, processor, seconds
from benchmarks.peers import POPREP
from benchmarks.summary import growth, summary, written

_TRIPS = {"pop3_round_trips": "POP3 round trips a message", "smtp_round_trips": "SMTP round trips a message"}


def markdown(results: Mapping[str, Any]) -> str:
    """Return the circumstances of a measurement, its summary, and all workloads' tables."""
    parts = [circumstances(results), "### Summary\n", summary(results)]
    parts += [f"{text}\n" for text in growth(results)]
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
    _, limit = limit_of(workload) or ("", None)
    ours = seconds(runs.get(POPREP, ()))
    away = [key for key in _TRIPS if any(run[key] is not None for one in runs.values() for run in one)]
    head = ["", "seconds", "of the limit", "of poprep", "CPU s", "peak MiB", "runs"]
    head += [_TRIPS[key] for key in away]
    rows = [_row(name, one, limit, ours, away, workload["messages"]) for name, one in runs.items()]
    return written([head, *rows])


def _row(
    name: str, runs: Runs, limit: float | None, ours: float | None, away: Sequence[str], messages: int
) -> list[str]:
    time = seconds(runs)
    if time is None:
        why = next((run["error"] for run in runs if run["error"]), "not installed")
        return [name, why, "", "", "", "", str(len(runs)), *([""] * len(away))]
    part = part_of(runs)
    cells = [
        name,
        f"{time:.3f}",
        _ratio(time, limit),
        _ratio(time, ours),
        f"{processor(runs):.2f}",
        f"{median(run['peak_kib'] for run in runs) / 1024:.0f}",
        f"{len(runs)}, of {part:,} messages, scaled" if part else str(len(runs)),
    ]
    return [*cells, *(f"{median(run[key] for run in runs) / (part or messages):.2f}" for key in away)]


def _ratio(time: float, base: float | None) -> str:
    return f"{time / base:.2f}" if base else ""
