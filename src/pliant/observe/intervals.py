# SPDX-License-Identifier: Apache-2.0
"""How sure a number is: confidence intervals of means, quantiles and proportions, and of how two of them compare.

Each quantity of one sample gets limits that need not lie evenly around it. Two samples are compared from the limits of
each (the method of variance estimates recovery, MOVER: Zou and Donner, Statistics in Medicine 27, 2008), ratios on the
logarithmic scale.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from statistics import NormalDist
from typing import NamedTuple

from pliant.observe.histogram import Histogram, Moments

LEAST_MEAN_COUNT = 30
LEAST_BEYOND_QUANTILE = 5
SKEW_FACTOR = 3.0
"""A mean needs ``count >= SKEW_FACTOR * skewness**2``: else a few values decide it, and no interval can be trusted."""

_NORMAL = NormalDist()


class Interval(NamedTuple):
    """An estimate and its confidence limits.

    ``blur_below`` and ``blur_above`` are how much further out the limits may be because buckets have lost where in
    them the values lie. That is no chance: of two samples it adds up, where chance evens out.
    """

    estimate: float
    low: float
    high: float
    blur_below: float = 0.0
    blur_above: float = 0.0


class NotEnoughData(Exception):
    """A sample does not allow the interval; the text says why."""


def normal_quantile(confidence: float) -> float:
    """How many standard errors a two-sided interval of a confidence in 0..1 reaches to each side."""
    return -_NORMAL.inv_cdf((1 - confidence) / 2)


def student_quantile(confidence: float, degrees: int) -> float:
    """The same for Student's t, by the expansion of Cornish and Fisher (Abramowitz and Stegun 26.7.5)."""
    z = normal_quantile(confidence)
    first = (z**3 + z) / (4 * degrees)
    second = (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
    return z + first + second


def mean_interval(sample: Histogram, pooled: Moments, confidence: float) -> Interval:
    """The mean with limits that follow the skewness (Hall, JRSS B 54, 1992).

    ``pooled`` are the moments of both arms together. A small sample that happens to have missed the large values of its
    distribution has a low mean and, by the same accident, a low variance, and would be sure of the wrong thing. So
    the relative variance is at least that of both arms, and the skewness is theirs. Raises :class:`NotEnoughData` for
    fewer than 30 values, or where a few of them decide the mean.
    """
    if sample.count < LEAST_MEAN_COUNT:
        raise NotEnoughData(f"{sample.count} values, a mean needs {LEAST_MEAN_COUNT}")
    own = sample.moments()
    count, mean, skew = own.count, own.mean, pooled.skewness
    needed = math.ceil(SKEW_FACTOR * skew**2)
    if count < needed:
        raise NotEnoughData(f"a few large values decide the mean: {count} values, it needs some {needed}")
    relative = math.sqrt(pooled.variance) / pooled.mean if pooled.mean else 0.0
    deviation = max(math.sqrt(own.variance), relative * mean)
    reach = student_quantile(confidence, count - 1) / math.sqrt(count)
    low, high = (mean - deviation * _unskewed(end, skew, count) for end in (reach, -reach))
    return Interval(mean, low, high)


def _unskewed(q: float, skew: float, count: int) -> float:
    """Solve w + skew w²/3 + skew² w³/27 + skew/(6 count) = q for w."""
    shifted = q - skew / (6 * count)
    if abs(skew) < 1e-6:
        return shifted
    return 3 / skew * (math.cbrt(1 + skew * shifted) - 1)


def quantile_interval(sample: Histogram, fraction: float, confidence: float) -> Interval:
    """A quantile with the limits that order statistics give it (Woodruff, JASA 47, 1952), whatever the distribution.

    How many values lie below the quantile is binomial; the ranks at the ends of that are looked up in the histogram,
    and moved outwards by what the buckets have lost (:meth:`Histogram.bracket`). Raises :class:`NotEnoughData` when a
    rank lies outside the sample, or fewer than five values are expected beyond the quantile.
    """
    count = sum(sample.buckets)
    low, high = rank_limits(count, fraction, confidence)
    if not _is_inside(count, fraction, low, high):
        needed = least_count(fraction, confidence)
        raise NotEnoughData(f"{count} values, P{fraction * 100:g} needs {needed}")
    estimate, lower, upper = (sample.quantile(part) for part in (fraction, low / count, high / count))
    here = sample.bracket(fraction)
    return Interval(
        estimate,
        lower,
        upper,
        max(estimate - here[0], lower - sample.bracket(low / count)[0]),
        max(here[1] - estimate, sample.bracket(high / count)[1] - upper),
    )


def _is_inside(count: int, fraction: float, low: float, high: float) -> bool:
    return low >= 1 and high <= count and count * min(fraction, 1 - fraction) >= LEAST_BEYOND_QUANTILE


def rank_limits(count: int, fraction: float, confidence: float) -> tuple[float, float]:
    """The ranks between which a quantile lies: binomial limits, corrected for skewness (Cornish and Fisher)."""
    z = normal_quantile(confidence)
    spread = z * math.sqrt(count * fraction * (1 - fraction))
    middle = count * fraction + (1 - 2 * fraction) * (z * z - 1) / 6
    return middle - spread, middle + spread + 1


def least_count(fraction: float, confidence: float) -> int:
    """The smallest sample for which :func:`quantile_interval` gives an interval."""
    return bisect_left(
        range(1_000_000), True, key=lambda n: _is_inside(n, fraction, *rank_limits(n, fraction, confidence))
    )


def proportion_interval(successes: int, count: int, confidence: float) -> Interval:
    """A proportion with Clopper and Pearson's limits, which hold for any count and any confidence."""
    if not count:
        raise NotEnoughData("0 values")
    tail = (1 - confidence) / 2
    low = _beta_quantile(tail, successes, count - successes + 1) if successes else 0.0
    high = _beta_quantile(1 - tail, successes + 1, count - successes) if successes < count else 1.0
    return Interval(successes / count, low, high)


def difference(first: Interval, second: Interval) -> Interval:
    """The first minus the second; of proportions this is Newcombe's interval."""
    estimate = first.estimate - second.estimate
    below = math.hypot(first.estimate - first.low, second.high - second.estimate)
    above = math.hypot(first.high - first.estimate, second.estimate - second.low)
    low = estimate - below - first.blur_below - second.blur_above
    return Interval(estimate, low, estimate + above + first.blur_above + second.blur_below)


def ratio(first: Interval, second: Interval) -> Interval:
    """The first over the second. Raises :class:`NotEnoughData` where a limit is not above zero."""
    if min(first.low - first.blur_below, second.low - second.blur_below) <= 0:
        raise NotEnoughData("too near to zero for a ratio")
    logarithm = difference(_logarithm(first), _logarithm(second))
    return Interval(*(math.exp(value) for value in logarithm[:3]))


def _logarithm(interval: Interval) -> Interval:
    low, high = math.log(interval.low), math.log(interval.high)
    blur_below = low - math.log(interval.low - interval.blur_below)
    blur_above = math.log(interval.high + interval.blur_above) - high
    return Interval(math.log(interval.estimate), low, high, blur_below, blur_above)


def _beta_quantile(probability: float, a: float, b: float) -> float:
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if _beta_distribution(middle, a, b) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _beta_distribution(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function (DLMF 8.17.22: its continued fraction)."""
    if not 0 < x < 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta_distribution(1 - x, b, a)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    return front * _continued_fraction(x, a, b) / a


def _continued_fraction(x: float, a: float, b: float) -> float:
    """Evaluated from the left by Lentz's method."""
    tiny = 1e-300
    c, d = 1.0, 1 / max(1 - (a + b) * x / (a + 1), tiny)
    value = d
    for m in range(1, 10_000):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / (1 + term * d or tiny)
            c = 1 + term / c or tiny
            value *= c * d
        if abs(c * d - 1) < 1e-12:
            break
    return value
