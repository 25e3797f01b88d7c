"""Results as a plot: one row a program in each workload, seconds on a logarithmic scale, as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import Any

from benchmarks.peers import POPREP
from benchmarks.table import seconds

WIDTH, LEFT, RIGHT = 900, 190, 90  # pixels: the whole, the names, room for the last figure
ROW, HEAD, FOOT = 18, 30, 34
SMALLEST, LARGEST = -2, 3  # powers of ten, in seconds
_OURS, _LIMIT, _OTHERS = "#0a7d4f", "#9aa0a6", "#4c78a8"


def svg(results: Mapping[str, Any]) -> str:
    """Return the plot. Programs without a time are left out."""
    parts: list[str] = []
    top = 10
    for name, workload in results["workloads"].items():
        times = {one: time for one, runs in workload["runs"].items() if (time := seconds(runs)) is not None}
        parts.append(
            f'<text x="8" y="{top + 18}" font-weight="bold">{escape(name)}: {escape(workload["title"])}</text>'
        )
        top += HEAD
        for one, time in times.items():
            parts.append(_bar(one, time, top))
            top += ROW
    grid = [_mark(power, top) for power in range(SMALLEST, LARGEST + 1)]
    height = top + FOOT
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="12">',
            f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
            *grid,
            *parts,
            "</svg>",
            "",
        ]
    )


def _bar(name: str, time: float, top: int) -> str:
    colour = _OURS if name.startswith(POPREP) else _LIMIT if name.startswith(("raw", "python")) else _OTHERS
    end = _place(time)
    return (
        f'<text x="{LEFT - 6}" y="{top + 12}" text-anchor="end">{escape(name)}</text>'
        f'<rect x="{LEFT}" y="{top + 3}" width="{end - LEFT:.1f}" height="{ROW - 6}" fill="{colour}"/>'
        f'<text x="{end + 5:.1f}" y="{top + 12}">{time:.3g} s</text>'
    )


def _mark(power: int, bottom: int) -> str:
    place = _place(10.0**power)
    return (
        f'<line x1="{place:.1f}" y1="10" x2="{place:.1f}" y2="{bottom}" stroke="#e3e3e3"/>'
        f'<text x="{place:.1f}" y="{bottom + 18}" text-anchor="middle">{10.0**power:g} s</text>'
    )


def _place(time: float) -> float:
    share = (math.log10(max(time, 10.0**SMALLEST)) - SMALLEST) / (LARGEST - SMALLEST)
    return LEFT + share * (WIDTH - LEFT - RIGHT)
