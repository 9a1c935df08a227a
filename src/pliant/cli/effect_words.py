# SPDX-License-Identifier: Apache-2.0
"""Comparisons in words and numbers that people read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pliant.observe.lift import Comparison, Scale, Verdict

STATISTICS = {"p50": "P50", "p90": "P90", "p99": "P99", "mean": "mean", "share": "share"}
_DURATIONS = ((1e6, "s"), (1e3, "ms"), (1, "us"))
_SIZES = ((1e9, "GB"), (1e6, "MB"), (1e3, "KB"), (1, "B"))
NONE = "-"


def label(comparison: Comparison) -> str:
    """What is compared."""
    question = comparison.question
    return f"{question.metric.replace('_', ' ').replace('rtt', 'RTT')} {STATISTICS[question.statistic]}"


def value(number: float | None, unit: str) -> str:
    """A number in a unit people use."""
    if number is None:
        return NONE
    if unit == "share":
        return f"{100 * number:.3g}%"
    scales = _DURATIONS if unit == "us" else _SIZES
    scale, name = next((pair for pair in scales if abs(number) >= pair[0]), scales[-1])
    return f"{_short(number / scale)} {name}{'/s' if unit.endswith('/s') else ''}"


def _short(number: float) -> str:
    return f"{number:.0f}" if abs(number) >= 100 else f"{number:.3g}"


def change(comparison: Comparison) -> str:
    """The estimate, such as ``-12.3%`` or ``+0.4pp``."""
    return _percent(comparison.effect.estimate, comparison.question.scale) if comparison.effect else NONE


def interval(comparison: Comparison) -> str:
    """The limits."""
    limits, scale = comparison.effect, comparison.question.scale
    return f"{_percent(limits.low, scale)} to {_percent(limits.high, scale)}" if limits else NONE


def _percent(part: float, scale: Scale) -> str:
    if scale is Scale.POINTS:
        return f"{100 * part:+.2f}pp"
    return f"{100 * part:+.1f}%" if abs(part) < 10 else f"{100 * part:+,.0f}%"


def counts(comparison: Comparison) -> str:
    """How many connections of each arm it is from."""
    return f"{comparison.treated_count:,}/{comparison.held_out_count:,}"


def verdict(comparison: Comparison) -> str:
    """The verdict, with its limits or its reason."""
    if comparison.verdict is Verdict.NOT_ENOUGH_DATA:
        return f"{comparison.verdict.value} ({comparison.why})"
    return f"{comparison.verdict.value} ({interval(comparison)} at {100 * comparison.confidence:.4g}%)"


def summary(comparisons: Iterable[Comparison]) -> str:
    """What differs, such as ``worse: completion time P90, P99; better: goodput P50``."""
    found: dict[Verdict, dict[str, list[str]]] = {}
    for comparison in comparisons:
        if comparison.verdict not in (Verdict.NO_DIFFERENCE, Verdict.NOT_ENOUGH_DATA):
            metric, _, statistic = label(comparison).rpartition(" ")
            found.setdefault(comparison.verdict, {}).setdefault(metric, []).append(statistic)
    return "; ".join(
        f"{kind.value}: {_listed(found[kind])}"
        for kind in (Verdict.WORSE, Verdict.BETTER, Verdict.DIFFERS)
        if kind in found
    )


def _listed(statistics: Mapping[str, Sequence[str]]) -> str:
    return ", ".join(f"{metric} {'/'.join(which)}" for metric, which in statistics.items())
