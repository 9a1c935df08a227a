# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from pliant.lab.arms import histogram
from pliant.observe.histogram import Histogram, Moments
from pliant.observe.intervals import (
    Interval,
    NotEnoughData,
    difference,
    least_count,
    mean_interval,
    normal_quantile,
    proportion_interval,
    quantile_interval,
    ratio,
    student_quantile,
)

NORMAL = Moments(1000, 1.0, 0.0, 0.0)
Draw = Callable[[np.random.Generator, int], "np.ndarray[tuple[int], np.dtype[np.float64]]"]
DISTRIBUTIONS: dict[str, Draw] = {
    "exponential": lambda random, count: random.exponential(50_000, count),
    "lognormal": lambda random, count: 50_000 * random.lognormal(0, 1.2, count),
    "pareto": lambda random, count: 20_000 * (1 + random.pareto(2.5, count)),
    "two humps": lambda random, count: np.where(
        random.random(count) < 0.7, random.normal(52_000, 900, count), random.lognormal(12, 0.7, count)
    ),
}


def test_quantiles_of_the_normal_and_of_students_distribution_are_those_of_the_tables() -> None:
    assert normal_quantile(0.95) == pytest.approx(1.959964, abs=1e-6)
    assert student_quantile(0.95, 29) == pytest.approx(2.04523, rel=1e-3)
    assert student_quantile(0.99, 60) == pytest.approx(2.66028, rel=1e-3)


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),  # R: binom.test(x, n)$conf.int
    [
        (0, 100, 0.0, 0.0362167),
        (3, 100, 0.006229972, 0.08517605),
        (50, 100, 0.3983211, 0.6016789),
        (10, 10, 0.6915029, 1.0),
        (1, 100_000, 2.531778e-07, 5.571516e-05),
    ],
)
def test_limits_of_a_proportion_are_those_of_clopper_and_pearson(
    successes: int, count: int, low: float, high: float
) -> None:
    limits = proportion_interval(successes, count, 0.95)
    assert limits.low == pytest.approx(low, rel=1e-4)
    assert limits.high == pytest.approx(high, rel=1e-4)


def test_a_mean_of_unskewed_values_has_students_interval() -> None:
    sample = Histogram.of([7] * 50 + [5] * 50)
    limits = mean_interval(sample, Moments(100, 6.0, 0.0, 0.0), 0.95)
    reach = 1.98422 * math.sqrt(100 / 99) / math.sqrt(100)
    assert limits[:3] == pytest.approx((6, 6 - reach, 6 + reach), rel=1e-4)


def test_differences_and_ratios_lean_the_way_their_parts_do() -> None:
    first, second = Interval(10, 9, 13), Interval(5, 4, 5.5)
    assert difference(first, second)[:3] == pytest.approx((5, 5 - math.hypot(1, 0.5), 5 + math.hypot(3, 1)))
    logarithms = difference(*(Interval(*map(math.log, one[:3])) for one in (first, second)))
    assert ratio(first, second) == pytest.approx((*map(math.exp, logarithms[:3]), 0, 0))
    with pytest.raises(NotEnoughData, match="near to zero"):
        ratio(first, Interval(1, 0, 2))


@pytest.mark.parametrize(("fraction", "confidence"), [(0.5, 0.95), (0.9, 0.95), (0.99, 0.95), (0.99, 0.998)])
def test_a_quantile_has_an_interval_from_its_least_count_on(fraction: float, confidence: float) -> None:
    needed = least_count(fraction, confidence)
    assert quantile_interval(Histogram.of(range(needed)), fraction, confidence).high > 0
    with pytest.raises(NotEnoughData, match=f"P{fraction * 100:g} needs {needed}"):
        quantile_interval(Histogram.of(range(needed - 1)), fraction, confidence)


def test_a_mean_that_one_value_decides_has_no_interval() -> None:
    values = Histogram.of([100] * 200 + [10**9])
    with pytest.raises(NotEnoughData, match="few large values"):
        mean_interval(values, values.moments(), 0.95)
    with pytest.raises(NotEnoughData, match="29 values"):
        mean_interval(Histogram.of([5] * 29), NORMAL, 0.95)


def misses(draw: Draw, statistic: float | str, counts: tuple[int, int], factor: float) -> tuple[int, int]:
    """How many of 400 intervals of a ratio miss the true one, of those that there were."""
    random = np.random.default_rng(11)
    missed = given = 0
    for _ in range(400):
        first = histogram((factor * draw(random, counts[0])).astype(np.int64))
        second = histogram(draw(random, counts[1]).astype(np.int64))
        pooled = (first + second).moments()
        try:
            limits = ratio(
                *(
                    mean_interval(sample, pooled, 0.95)
                    if isinstance(statistic, str)
                    else quantile_interval(sample, statistic, 0.95)
                    for sample in (first, second)
                )
            )
        except NotEnoughData:
            continue
        given += 1
        missed += not limits.low <= factor <= limits.high
    return missed, given


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("counts", [(600, 600), (6_000, 300)])
@pytest.mark.parametrize("factor", [1.0, 0.7, 1.3])
@pytest.mark.parametrize("statistic", ["mean", 0.5, 0.9])
def test_an_interval_covers_the_true_ratio_as_often_as_it_says(
    name: str, counts: tuple[int, int], factor: float, statistic: float | str
) -> None:
    missed, given = misses(DISTRIBUTIONS[name], statistic, counts, factor)
    if given >= 100:  # a mean of heavy tails is often not given
        assert missed <= 0.05 * given + 3.3 * math.sqrt(0.05 * 0.95 * given)


def test_a_small_shift_across_the_bound_of_a_bucket_is_not_taken_for_a_large_one() -> None:
    """Round-trip times lie within a fraction of a percent: a bound of a bucket that runs through them is no effect."""
    below, above = Histogram.of([53_240] * 2_000), Histogram.of([53_250] * 2_000)
    limits = ratio(*(quantile_interval(sample, 0.5, 0.95) for sample in (above, below)))
    assert limits.low <= 53_250 / 53_240 <= limits.high
