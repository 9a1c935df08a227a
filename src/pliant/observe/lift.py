# SPDX-License-Identifier: Apache-2.0
"""What a policy is worth: its treated connections against those it holds out, metric by metric.

The first comparison is the one that decides: the median completion time, at the confidence asked for. All others share
their probability of error (Bonferroni): between two arms that do not differ, the chance that any of them is reported as
a difference is as small as that of the first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from pliant.observe.effects import ArmEffect, Direction, Effect, Metric
from pliant.observe.histogram import Histogram
from pliant.observe.intervals import (
    Interval,
    NotEnoughData,
    difference,
    mean_interval,
    proportion_interval,
    quantile_interval,
    ratio,
)

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
PPM = 1_000_000
FAILURES = "connection_failures"
LEAST_RETRANSMITTING = 10
IMPOSSIBLE = "what was counted cannot be"


class Scale(Enum):
    """How two numbers are compared."""

    RELATIVE = "relative"
    """By their ratio: an effect of 0.1 is a tenth more."""

    POINTS = "points"
    """Shares, by their difference: an effect of 0.01 is a percentage point more."""


class Verdict(Enum):
    """What may be said of a comparison."""

    BETTER = "better"
    WORSE = "worse"
    DIFFERS = "differs"
    NO_DIFFERENCE = "no difference seen"
    NOT_ENOUGH_DATA = "not enough data"


class Question(NamedTuple):
    """One thing to compare: a statistic of a metric."""

    metric: str
    statistic: str
    unit: str
    scale: Scale
    better: Direction


@dataclass(frozen=True, slots=True)
class Comparison:
    """The answer to one question.

    ``treated`` and ``held_out`` are the two numbers in the question's unit (None where there is none), with the
    samples they are from; ``effect`` is the treated against the held-out one on the question's scale, 0 for no
    difference, with limits of ``confidence``; None where there is not enough data, for the reason in ``why``.
    """

    question: Question
    confidence: float
    treated: float | None
    held_out: float | None
    treated_count: int
    held_out_count: int
    effect: Interval | None
    why: str = ""

    @property
    def verdict(self) -> Verdict:
        """What the limits allow to say."""
        if self.effect is None:
            return Verdict.NOT_ENOUGH_DATA
        if self.effect.low <= 0 <= self.effect.high:
            return Verdict.NO_DIFFERENCE
        if self.question.better is Direction.NEITHER:
            return Verdict.DIFFERS
        lower = self.effect.high < 0
        return Verdict.BETTER if lower == (self.question.better is Direction.LOWER) else Verdict.WORSE


def questions() -> tuple[Question, ...]:
    """Everything that is compared, the deciding one first."""
    asked = []
    for metric in Metric:
        if metric is Metric.RETRANSMISSION_RATIO:
            asked.append(Question(metric.label, "mean", "share", Scale.POINTS, metric.better))
            continue
        for statistic in ("p50", "mean", "p90", "p99"):
            asked.append(Question(metric.label, statistic, metric.unit, Scale.RELATIVE, metric.better))
    asked.append(Question(FAILURES, "share", "share", Scale.POINTS, Direction.LOWER))
    return tuple(asked)


def compare(effect: Effect, confidence: float = 0.95) -> tuple[Comparison, ...]:
    """Compare the arms of a policy; ``confidence`` in 0..1 is that of the first answer, and of all others together."""
    first, *others = questions()
    shared = 1 - (1 - confidence) / len(others)
    return (_answer(first, effect, confidence), *(_answer(q, effect, shared) for q in others))


def _answer(question: Question, effect: Effect, confidence: float) -> Comparison:
    if question.metric == FAILURES:
        return _failures(question, effect, confidence)
    metric = next(metric for metric in Metric if metric.label == question.metric)
    treated, held_out = effect.treated[metric], effect.held_out[metric]
    if question.scale is Scale.POINTS:
        return _shares(question, treated, held_out, confidence)

    def limits(sample: Histogram) -> Interval:
        if question.statistic == "mean":
            return mean_interval(sample, pooled, confidence)
        return quantile_interval(sample, QUANTILES[question.statistic], confidence)

    pooled = (treated + held_out).moments()
    return _compared(
        question, confidence, treated, held_out, lambda: _minus_one(ratio(limits(treated), limits(held_out)))
    )


def _minus_one(interval: Interval) -> Interval:
    return Interval(interval.estimate - 1, interval.low - 1, interval.high - 1)


def _compared(
    question: Question,
    confidence: float,
    treated: Histogram,
    held_out: Histogram,
    work_out: Callable[[], Interval],
) -> Comparison:
    numbers = _number(question, treated), _number(question, held_out)
    effect, why = _worked_out(work_out)
    return Comparison(question, confidence, *numbers, treated.count, held_out.count, effect, why)


def _worked_out(work_out: Callable[[], Interval]) -> tuple[Interval | None, str]:
    """An interval, or why there is none."""
    try:
        return work_out(), ""
    except NotEnoughData as lack:
        return None, str(lack)
    except (ArithmeticError, ValueError):  # anybody may write the tables
        return None, IMPOSSIBLE


def _number(question: Question, sample: Histogram) -> float | None:
    if not sum(sample.buckets) or not sample.count:
        return None
    if question.statistic != "mean":
        return sample.quantile(QUANTILES[question.statistic])
    return sample.mean / PPM if question.scale is Scale.POINTS else sample.mean


def _shares(question: Question, treated: Histogram, held_out: Histogram, confidence: float) -> Comparison:
    """The mean share of segments sent again, in percentage points.

    Where hardly a connection of an arm sends any again, its mean share is still at most the share of connections that
    do, which bounds it.
    """
    pooled = (treated + held_out).moments()

    def limits(sample: Histogram) -> Interval:
        if sample.positive < LEAST_RETRANSMITTING:
            share = proportion_interval(sample.positive, sample.count, confidence)
            return Interval(sample.mean / PPM, 0.0, share.high)
        mean = mean_interval(sample, pooled, confidence)
        return Interval(mean.estimate / PPM, mean.low / PPM, mean.high / PPM)

    return _compared(
        question, confidence, treated, held_out, lambda: difference(limits(treated), limits(held_out))
    )


def _failures(question: Question, effect: Effect, confidence: float) -> Comparison:
    treated, held_out = effect
    limits, why = _worked_out(lambda: difference(_failed(treated, confidence), _failed(held_out, confidence)))
    first, second = (arm.failures / arm.connections if arm.connections else None for arm in effect)
    return Comparison(
        question, confidence, first, second, treated.connections, held_out.connections, limits, why
    )


def _failed(arm: ArmEffect, confidence: float) -> Interval:
    if arm.failures > arm.connections:  # the kernel counts on while they are read
        raise NotEnoughData("more failures than connections were counted")
    return proportion_interval(arm.failures, arm.connections, confidence)
