"""All results in one table: how far poprep is from the limit and from the fastest other program; and how its time grows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.contenders import FIRST_QUIET, IMPORTS, RAW
from benchmarks.figures import fastest_other, is_ours, limit_of, processor, times
from benchmarks.peers import POPREP

_HEAD = ["workload", "limit", "poprep", "of the limit", "above it", "fastest other program", "times poprep's"]


def written(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as a table of Markdown; the first one is its head."""
    head, *rest = rows
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rest]
    return "\n".join(["| " + " | ".join(row) + " |" for row in lines] + [""])


def summary(results: Mapping[str, Any]) -> str:
    """Return a table with a row for each workload, and each set of options, that poprep has a time for."""
    rows = [_HEAD]
    for name, workload in results["workloads"].items():
        rows += [_row(name, workload, ours) for ours in times(workload) if is_ours(ours)]
    return written(rows)


def _row(name: str, workload: Mapping[str, Any], ours: str) -> list[str]:
    found = times(workload)
    time = found[ours]
    # What starts up is compared with a Python that starts up: the limit's own start doesn't count.
    base = (IMPORTS, found[IMPORTS]) if IMPORTS in found else limit_of(workload)
    other = fastest_other(workload)
    return [
        name if ours == POPREP else f"{name}, {ours.removeprefix(f'{POPREP}, ')}",
        f"{_amount(base[1])} ({base[0]})" if base else "",
        _amount(time),
        f"{time / base[1]:.2f} x" if base else "",
        f"{time - base[1]:+.3f} s" if base else "",
        f"{_amount(other[1])} ({other[0]})" if other else "",
        f"{other[1] / time:.1f} x" if other else "",
    ]


def _amount(time: float) -> str:
    return f"{time:.3f} s" if time < 10 else f"{time:.1f} s"


def growth(results: Mapping[str, Any]) -> list[str]:
    """Return sentences on how poprep's time grows with the mail, as far as it was measured."""
    workloads: Mapping[str, Any] = results["workloads"]
    found = [_more_mail(workloads["W1"], workloads["W1x"])] if {"W1", "W1x"} <= workloads.keys() else []
    kept = sorted((one for one in workloads.values() if one.get("kept")), key=lambda one: int(one["kept"]))
    if len(kept) > 1:
        found += [_more_kept(kept, ours) for ours in (POPREP, FIRST_QUIET)]
    return [text for text in found if text]


def _more_mail(once: Mapping[str, Any], more: Mapping[str, Any]) -> str:
    """Return how many times the messages cost how many times the seconds."""
    first, second = times(once), times(more)
    limits = limit_of(once), limit_of(more)
    if POPREP not in first or POPREP not in second or limits[0] is None or limits[1] is None:
        return ""
    return (
        f"{more['messages'] / once['messages']:.0f} times the messages of W1 (W1x) take poprep "
        f"{second[POPREP] / first[POPREP]:.1f} times as long, the raw copy {limits[1][1] / limits[0][1]:.1f} times."
    )


def _more_kept(kept: Sequence[Mapping[str, Any]], ours: str) -> str:
    """Return what kept messages cost above the raw listing: of all, and of each between the two largest mailboxes.

    The latter has no part of the program's start in it.
    """
    found = [times(one) for one in kept]
    if not all({RAW, ours} <= one.keys() for one in found):
        return ""
    above = [one[ours] - one[RAW] for one in found]
    more = kept[-1]["kept"] - kept[-2]["kept"]
    cpu = [processor(one["runs"][ours]) - processor(one["runs"][RAW]) for one in kept[-2:]]
    sizes = _listed(f"{one['kept']:,}" for one in kept)
    what = "A quiet pass" if ours == POPREP else "The first quiet pass"
    return (
        f"{what} takes {_listed(f'{time * 1e3:.0f}' for time in above)} ms above the raw listing of "
        f"{sizes} kept messages: between the last two "
        f"{(above[-1] - above[-2]) / more * 1e6:.2f} \u00b5s, and {(cpu[1] - cpu[0]) / more * 1e6:.2f} \u00b5s of CPU, "
        "per kept message."
    )


def _listed(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} and {last}"
