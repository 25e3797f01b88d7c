"""Results as a plot: one row a program in each workload, seconds on a logarithmic scale, as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import Any

from benchmarks.figures import is_other, is_ours, part_of, times
from benchmarks.peers import POPREP

WIDTH, LEFT, RIGHT = 900, 200, 110  # pixels: the whole, the names, room for the last figure
ROW, HEAD, GAP, TOP, FOOT = 17, 28, 14, 62, 30
SMALLEST, LARGEST = -2, 3  # powers of ten, in seconds
_POWERS = range(SMALLEST, LARGEST + 1)
# Its own ground under everything, so that it is the same in a light page and in a dark one.
_GROUND, _INK, _FAINT, _GRID = "#ffffff", "#1f2328", "#59636e", "#d8dee4"
_OURS, _LIMIT, _OTHERS = "#0a7d4f", "#8c959f", "#4c78a8"
_LEGEND = ((_LIMIT, "the limit, and yardsticks"), (_OURS, POPREP), (_OTHERS, "other programs"))


def svg(results: Mapping[str, Any]) -> str:
    """Return the plot. Programs without a time are left out."""
    parts: list[str] = []
    top = TOP
    for name, workload in results["workloads"].items():
        parts.append(_text(12, top + 16, f"{name}: {workload['title']}", 'font-weight="bold"'))
        top += HEAD
        found = _ordered(times(workload))
        parts += [_line(power, top, top + len(found) * ROW) for power in _POWERS]
        for one, time in found:
            parts.append(_bar(one, time, top, scaled=bool(part_of(workload["runs"][one]))))
            top += ROW
        top += GAP
    height = top + FOOT
    font = 'font-family="-apple-system, Segoe UI, Helvetica, Arial, sans-serif" font-size="12"'
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {font}>',
        "<title>Seconds of each program in each workload, on a logarithmic scale</title>",
        f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="6" fill="{_GROUND}" stroke="{_GRID}"/>',
        *_legend(),
        *(_mark(power, y) for power in _POWERS for y in (TOP - 12, top + 12)),
        *parts,
        "</svg>",
    ]
    return "\n".join([*lines, ""])


def _ordered(found: Mapping[str, float]) -> list[tuple[str, float]]:
    """Return the limit and yardsticks, then poprep, then the others, the fastest first."""
    groups = {name: 2 if is_other(name) else 1 if is_ours(name) else 0 for name in found}
    return sorted(found.items(), key=lambda one: (groups[one[0]], one[1]))


def _legend() -> list[str]:
    parts = [_text(12, 24, "Seconds, shorter is better; each line is ten times the one before", f'fill="{_FAINT}"')]
    left = 470
    for colour, label in _LEGEND:
        parts.append(f'<rect x="{left}" y="14" width="12" height="12" fill="{colour}"/>')
        parts.append(_text(left + 17, 24, label))
        left += 40 + 7 * len(label)
    return parts


def _bar(name: str, time: float, top: int, *, scaled: bool) -> str:
    colour = _OTHERS if is_other(name) else _OURS if is_ours(name) else _LIMIT
    end = _place(time)
    weight = 'font-weight="bold"' if name == POPREP else ""
    figure = f"{_amount(time)}{', scaled' if scaled else ''}"
    parts = [
        _text(LEFT - 6, top + 12, name, f'text-anchor="end" {weight}'),
        f'<rect x="{LEFT}" y="{top + 2}" width="{end - LEFT:.1f}" height="{ROW - 4}" fill="{colour}"/>',
        # On its own ground, or a line of the grid would go through the figure.
        f'<rect x="{end:.1f}" y="{top}" width="{8 + 7 * len(figure)}" height="{ROW}" fill="{_GROUND}"/>',
        _text(end + 5, top + 12, figure, weight),
    ]
    return "".join(parts)


def _amount(time: float) -> str:
    return f"{time:.0f} s" if time >= 100 else f"{time:.3g} s"


def _mark(power: int, y: float) -> str:
    return _text(_place(10.0**power), y, f"{10.0**power:,g} s", f'text-anchor="middle" fill="{_FAINT}"')


def _line(power: int, top: int, bottom: int) -> str:
    place = _place(10.0**power)
    return f'<line x1="{place:.1f}" y1="{top}" x2="{place:.1f}" y2="{bottom}" stroke="{_GRID}"/>'


def _text(x: float, y: float, text: str, style: str = "") -> str:
    ink = "" if "fill=" in style else f' fill="{_INK}"'
    return f'<text x="{x:.1f}" y="{y}"{ink} {style}>{escape(text)}</text>'


def _place(time: float) -> float:
    share = (math.log10(max(time, 10.0**SMALLEST)) - SMALLEST) / (LARGEST - SMALLEST)
    return LEFT + share * (WIDTH - LEFT - RIGHT)
