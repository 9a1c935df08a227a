# SPDX-License-Identifier: Apache-2.0
"""The demo's picture: completion times and rounds to finish, before and after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pliant.demo.report import change
from pliant.demo.samples import Summary
from pliant.lab.plot import COLOURS

BEFORE, AFTER = COLOURS[0], COLOURS[1]
INK, FAINT = "#222222", "#e3e5e8"
INCHES, DPI = (9.0, 4.9), 200  # 1800 pixels wide: sharp at 900
BAR = 0.42
NOTABLE = 0.05  # a smaller change is not coloured
APART = 0.25  # rounds; closer than this, the two are one dot and one number

Summaries = Mapping[str, Summary]


@dataclass(frozen=True, slots=True)
class Caption:
    """The words of the picture."""

    title: str
    subtitle: str
    footnote: str


def save(path: Path, before: Summaries, after: Summaries, caption: Caption) -> None:
    """Draw the two phases into a PNG file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.family": "DejaVu Sans", "font.size": 10, "text.color": INK}):
        figure = Figure(figsize=INCHES, dpi=DPI, facecolor="white")
        times, rounds = figure.subplots(1, 2, width_ratios=(2.15, 1))
        figure.subplots_adjust(left=0.075, right=0.985, top=0.765, bottom=0.205, wspace=0.2)
        _draw_times(times, before, after)
        _draw_rounds(rounds, before, after)
        figure.text(0.02, 0.945, caption.title, fontsize=14, fontweight="bold", va="center")
        figure.text(0.02, 0.885, caption.subtitle, fontsize=10, va="center", color="#555555")
        figure.text(0.02, 0.035, caption.footnote, fontsize=8, va="center", color="#777777")
        figure.savefig(path)


def _draw_times(axes: Any, before: Summaries, after: Summaries) -> None:
    for phase, colour, side, label in ((before, BEFORE, -1, "before"), (after, AFTER, 1, "with the policy")):
        places = [index + side * BAR / 2 for index in range(len(phase))]
        medians = [one.p50_ms for one in phase.values()]
        tails = [one.tail_ms for one in phase.values()]
        axes.bar(places, medians, BAR * 0.94, color=colour, label=label, zorder=2)
        axes.vlines(places, medians, tails, color=INK, linewidth=1, zorder=3)
        axes.hlines(
            tails, [x - 0.07 for x in places], [x + 0.07 for x in places], color=INK, linewidth=1.2, zorder=3
        )
        for x, median in zip(places, medians, strict=True):
            axes.annotate(
                f"{median:.0f}",
                (x, median),
                (0, -13),
                textcoords="offset points",
                ha="center",
                fontsize=9.5,
                color="white",
                fontweight="bold",
                zorder=4,
            )
    axes.set_xticks(range(len(before)), before)
    for index, file in enumerate(before):
        less = after[file].p50_ms / before[file].p50_ms - 1
        notable = abs(less) >= NOTABLE
        axes.annotate(
            change(before[file].p50_ms, after[file].p50_ms).replace("-", "−"),
            (index, 0),
            (0, -34),
            textcoords="offset points",
            annotation_clip=False,
            ha="center",
            fontsize=11,
            fontweight="bold" if notable else "normal",
            color=AFTER if notable else "#777777",
        )
    axes.margins(y=0.1)
    axes.set_ylim(bottom=0)
    tail = next(iter(before.values())).tail_name
    _tidy(axes, f"Completion time, ms (bar: P50, whisker: {tail})")
    axes.legend(
        loc="upper left",
        facecolor="white",
        edgecolor="none",
        framealpha=1,
        borderaxespad=0.2,
        handlelength=1.2,
    )


def _draw_rounds(axes: Any, before: Summaries, after: Summaries) -> None:
    for index, file in enumerate(before):
        first, last = before[file].rounds, after[file].rounds
        row = len(before) - 1 - index
        axes.plot([last, first], [row, row], color="#c4c8ce", linewidth=3, zorder=1, solid_capstyle="round")
        axes.scatter([first], [row], s=64, color=BEFORE, zorder=2)
        axes.scatter([last], [row], s=64, color=AFTER, zorder=3)
        _label(axes, last, row, colour=AFTER)
        if first - last > APART:
            _label(axes, first, row, colour="#6b7078")
    most = max(one.rounds for some in (before, after) for one in some.values())
    axes.set_xlim(0, most * 1.08)
    axes.set_ylim(-0.5, len(before) - 0.45)
    axes.set_yticks(range(len(before)), list(before)[::-1])
    axes.set_xlabel("round trips", fontsize=9, color="#555555")
    _tidy(axes, "Rounds to finish (P50)", grid="x")


def _label(axes: Any, rounds: float, row: int, *, colour: str) -> None:
    axes.annotate(
        f"{rounds:.1f}",
        (rounds, row),
        (0, 7),
        textcoords="offset points",
        ha="center",
        fontsize=9,
        color=colour,
        fontweight="bold",
    )


def _tidy(axes: Any, title: str, grid: str = "y") -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#b5b9c0")
    axes.grid(axis=grid, color=FAINT, linewidth=0.8, zorder=0)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelcolor="#444444")
    axes.set_title(title, loc="left", fontsize=10, pad=8)
