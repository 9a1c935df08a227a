# SPDX-License-Identifier: Apache-2.0
"""Bounds that hold for every sample size and every distribution, at any error probability.

Where a decision is taken again and again, each may be wrong only once in a million times, and approximations are worth
nothing that far out. These bounds come from one inequality (Chernoff; Hoeffding, JASA 58, 1963, theorem 1): the mean
of ``count`` values between 0 and 1 with expectation p is at or beyond x with a probability of at most
exp(-count KL(x, p)). What they cost is some width: for one in a hundred they reach a third further than they need to.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from pliant.observe.histogram import Histogram

HALVINGS = 50


def mean_at_least(mean: float, count: int, error: float) -> float:
    """What the expectation of values between 0 and 1 exceeds, but for a probability of ``error``."""
    allowed = _allowed(count, error)
    return _last(lambda p: _divergence(mean, p) <= allowed, mean, 0.0)


def mean_at_most(mean: float, count: int, error: float) -> float:
    """What the expectation of values between 0 and 1 stays below, but for a probability of ``error``."""
    allowed = _allowed(count, error)
    return _last(lambda p: _divergence(mean, p) <= allowed, mean, 1.0)


def quantile_at_least(sample: Histogram, fraction: float, error: float) -> float:
    """What a quantile exceeds, but for a probability of ``error``; 0 while there are too few values to say."""
    allowed = _allowed(sum(sample.buckets), error)
    if _divergence(0.0, fraction) < allowed:
        return 0.0
    return sample.bracket(_last(lambda x: _divergence(x, fraction) <= allowed, fraction, 0.0))[0]


def quantile_at_most(sample: Histogram, fraction: float, error: float) -> float:
    """What a quantile stays below, but for a probability of ``error``; infinite while there are too few values."""
    allowed = _allowed(sum(sample.buckets), error)
    if _divergence(1.0, fraction) < allowed:
        return math.inf
    return sample.bracket(_last(lambda x: _divergence(x, fraction) <= allowed, fraction, 1.0))[1]


def _allowed(count: int, error: float) -> float:
    return math.log(1 / error) / count if count else math.inf


def _divergence(x: float, p: float) -> float:
    """The Kullback-Leibler divergence of two coins that show heads with probabilities x and p."""
    total = 0.0
    for share, expected in ((x, p), (1 - x, 1 - p)):
        if share > 0:
            total += share * math.log(share / expected) if expected > 0 else math.inf
    return total


def _last(holds: Callable[[float], bool], start: float, end: float) -> float:
    """How far from ``start`` (where it holds) towards ``end`` a condition holds."""
    if holds(end):
        return end
    for _ in range(HALVINGS):
        middle = (start + end) / 2
        if holds(middle):
            start = middle
        else:
            end = middle
    return end
