# SPDX-License-Identifier: Apache-2.0
"""Draws comparisons in the terminal: each a line with its interval, and no difference in the middle.

Relative effects and differences in percentage points have an axis of their own each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import click

from pliant.cli.effect_words import change, label
from pliant.observe.lift import Comparison, Scale, Verdict

WIDTH = 49  # odd: no difference has a column
COLOURS = {Verdict.BETTER: "green", Verdict.WORSE: "red", Verdict.DIFFERS: "yellow"}
LARGEST = {Scale.RELATIVE: 2.0, Scale.POINTS: 1.0}
ROUND = (1, 2, 5)


def draw_lines(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """The lines of the drawing."""
    width = max(len(label(comparison)) for comparison in comparisons)
    for scale in Scale:
        chosen = [comparison for comparison in comparisons if comparison.question.scale is scale]
        reach = _reach(chosen, LARGEST[scale])
        yield _axis(width, reach, scale)
        for comparison in chosen:
            bar = _bar(comparison, reach)
            colour = COLOURS.get(comparison.verdict)
            told = f"{change(comparison):>9}  {comparison.verdict.value}"
            yield f"{label(comparison):<{width}}  {click.style(bar, fg=colour)}  {click.style(told, fg=colour)}"


def _reach(comparisons: Sequence[Comparison], largest: float) -> float:
    """A round number that the axis goes to on both sides, so that the intervals fit where they reasonably can."""
    ends = [max(-c.effect.low, c.effect.high) for c in comparisons if c.effect]
    wanted = min(max(ends, default=0.01), largest)
    power = 10.0 ** math.floor(math.log10(max(wanted, 1e-4)))
    return next((step * power for step in ROUND if step * power >= wanted), 10 * power)


def _axis(width: int, reach: float, scale: Scale) -> str:
    unit = "%" if scale is Scale.RELATIVE else "pp"
    left, right = f"{-100 * reach:+g}{unit}", f"{100 * reach:+g}{unit}"
    middle = WIDTH // 2 - len(left)
    return f"{'':<{width}}  {left}{'0':>{middle + 1}}{right:>{WIDTH - WIDTH // 2 - 1}}"


def _bar(comparison: Comparison, reach: float) -> str:
    cells = [" "] * WIDTH
    cells[WIDTH // 2] = "│"
    limits = comparison.effect
    if limits is None:
        return "".join(cells)
    low, middle, high = (_column(number, reach) for number in (limits.low, limits.estimate, limits.high))
    cells[low : high + 1] = "─" * (high - low + 1)
    if low <= WIDTH // 2 <= high:
        cells[WIDTH // 2] = "┼"
    cells[low] = "├" if limits.low >= -reach else "◄"
    cells[high] = "┤" if limits.high <= reach else "►"
    cells[middle] = "●"
    return "".join(cells)


def _column(number: float, reach: float) -> int:
    part = min(max(number / reach, -1.0), 1.0)
    return round((part + 1) / 2 * (WIDTH - 1))
