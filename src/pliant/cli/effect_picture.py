# SPDX-License-Identifier: Apache-2.0
"""Draws the effect of a policy into a file: the intervals, and how completion times are distributed in both arms."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path
from typing import Any

from pliant.agent.effects import PolicyEffect
from pliant.cli.effect_words import change, interval, label
from pliant.errors import PliantError
from pliant.observe.effects import Metric
from pliant.observe.histogram import Histogram, bucket_bounds
from pliant.observe.lift import Comparison, Scale, Verdict

# Hues that stay apart for every kind of colour vision (Okabe and Ito).
COLOURS = {Verdict.BETTER: "#009e73", Verdict.WORSE: "#d55e00", Verdict.DIFFERS: "#cc79a7"}
GREY, TREATED = "#8a8f98", "#0072b2"
SHOWN_REACH = 2.0


def save(path: Path, one: PolicyEffect) -> None:
    """Draw into a file. Raises :class:`PliantError` where matplotlib is missing or the file cannot be written."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PliantError(
            "pictures need matplotlib, which is not installed",
            remedy="pip install 'pliant[lab]', or leave the file out to draw in the terminal",
        ) from error
    with matplotlib.rc_context({"font.family": "DejaVu Sans", "font.size": 9, "svg.hashsalt": "pliant"}):
        figure = Figure(figsize=(11, 6.4), dpi=150, layout="constrained")
        forest, times = figure.subplots(1, 2, width_ratios=(3, 2))
        relative = [c for c in one.comparisons if c.question.scale is Scale.RELATIVE and c.effect]
        _draw_forest(forest, relative)
        _draw_times(times, one)
        treated, held_out = one.effect
        points = [c for c in one.comparisons if c.question.scale is Scale.POINTS and c.effect]
        shares = "; ".join(f"{label(c)} {change(c)} ({interval(c)}, {c.verdict.value})" for c in points)
        figure.suptitle(
            f"What {one.policy.name} is worth: {treated.connections:,} connections treated, "
            f"{held_out.connections:,} held out\n{shares}",
            x=0.01, ha="left", fontsize=10,
        )  # fmt: skip
        try:
            figure.savefig(path)
        except OSError as error:
            raise PliantError(
                f"{path} cannot be written: {error.strerror}", remedy="name another file"
            ) from error


def _draw_forest(axes: Any, comparisons: list[Comparison]) -> None:
    for place, comparison in enumerate(reversed(comparisons)):
        limits = comparison.effect
        assert limits
        colour = COLOURS.get(comparison.verdict, GREY)
        axes.plot([100 * limits.low, 100 * min(limits.high, SHOWN_REACH)], [place, place], color=colour)
        axes.plot([100 * limits.estimate], [place], "o", color=colour, markersize=4)
    axes.axvline(0, color="#222222", linewidth=0.8)
    axes.set_yticks(range(len(comparisons)), [label(c) for c in reversed(comparisons)])
    axes.set_xlabel("treated against held out, %")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", color="#e3e5e8")


def _draw_times(axes: Any, one: PolicyEffect) -> None:
    arms = (("treated", one.effect.treated, TREATED), ("held out", one.effect.held_out, GREY))
    for name, arm, colour in arms:
        places, shares = _distribution(arm[Metric.COMPLETION_TIME])
        axes.plot(places, shares, color=colour, label=name)
    axes.set_xscale("log")
    axes.set_xlabel("completion time, ms")
    axes.set_ylabel("share of connections")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e3e5e8")
    axes.legend(frameon=False)


def _distribution(sample: Histogram) -> tuple[list[float], list[float]]:
    counted = sum(sample.buckets)
    rows = [(bucket_bounds(i)[1], n) for i, n in enumerate(accumulate(sample.buckets)) if sample.buckets[i]]
    return [end / 1000 for end, _ in rows], [n / counted for _, n in rows]
