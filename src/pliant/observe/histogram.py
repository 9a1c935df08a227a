# SPDX-License-Identifier: Apache-2.0
"""Histograms as the programs keep them: eight buckets an octave, with an exact count and sum.

A value below 8 has a bucket of its own; above, each octave is cut into eight equal parts, so that a bucket is at most
an eighth of its lower bound wide. What a bucket has lost is where in it the values lie. Whoever reads a number off a
histogram must know how much that may matter: :meth:`Histogram.bracket` says it.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from typing import Self

BUCKETS = 256
SUB_BUCKETS = 8  # an octave
SUB_BITS = 3


def bucket_of(value: int) -> int:
    """The bucket of a value; the last one takes all that are larger."""
    if value < SUB_BUCKETS:
        return value
    octave = value.bit_length() - 1 - SUB_BITS
    return min((octave + 1) * SUB_BUCKETS + (value >> octave) % SUB_BUCKETS, BUCKETS - 1)


def bucket_bounds(bucket: int) -> tuple[int, int]:
    """The smallest and the largest value of a bucket; the last one's as if it were like the others."""
    if bucket < SUB_BUCKETS:
        return bucket, bucket
    octave = bucket // SUB_BUCKETS - 1
    low = (SUB_BUCKETS + bucket % SUB_BUCKETS) << octave
    return low, low + (1 << octave) - 1


_BOUNDS = tuple(map(bucket_bounds, range(BUCKETS)))


@dataclass(frozen=True, slots=True)
class Moments:
    """Mean, variance and skewness of a sample: the mean exact, the others as far as buckets tell."""

    count: int
    mean: float
    variance: float
    skewness: float


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often values fell into each bucket, how many there were, and their exact sum.

    Two are merged by ``+``; ``-`` takes an earlier reading of the same histogram away.
    """

    count: int = 0
    total: int = 0
    buckets: tuple[int, ...] = (0,) * BUCKETS

    @classmethod
    def of(cls, values: Iterable[int]) -> Self:
        """The histogram of values."""
        buckets, count, total = [0] * BUCKETS, 0, 0
        for value in values:
            buckets[bucket_of(value)] += 1
            count += 1
            total += value
        return cls(count, total, tuple(buckets))

    def __add__(self, other: Histogram) -> Histogram:
        merged = tuple(map(int.__add__, self.buckets, other.buckets))
        return Histogram(self.count + other.count, self.total + other.total, merged)

    def __sub__(self, other: Histogram) -> Histogram:
        left = tuple(map(int.__sub__, self.buckets, other.buckets))
        return Histogram(self.count - other.count, self.total - other.total, left)

    @property
    def mean(self) -> float:
        """The exact mean; not a number when nothing was counted."""
        return self.total / self.count if self.count else math.nan

    @property
    def positive(self) -> int:
        """How many values were not zero."""
        return self.count - self.buckets[0]

    def quantile(self, fraction: float) -> float:
        """The value that ``fraction`` of the sample do not exceed, interpolated inside its bucket."""
        bucket, part = self._place(fraction)
        low, high = _BOUNDS[bucket]
        return low + part * (high - low)

    def bracket(self, fraction: float) -> tuple[float, float]:
        """Between which values the quantile lies, given how the counts around its bucket look.

        Interpolating takes a bucket's values for evenly spread. Where the counts go on evenly to both sides, they are;
        where they jump, all may lie at one end. The bracket reaches from the interpolated value towards the bucket's
        ends by the unevenness: the square of the relative jump, which is 1 for a bucket that stands alone.
        """
        bucket, part = self._place(fraction)
        low, high = _BOUNDS[bucket]
        reach = self._unevenness(bucket)
        value = low + part * (high - low)
        return value - reach * (value - low), value + reach * (high - value)

    def moments(self) -> Moments:
        """Mean, variance and skewness, with the values of a bucket spread as unfavourably as its neighbours allow."""
        counted = sum(self.buckets)
        if counted < 2:
            return Moments(counted, self.mean, math.nan, math.nan)
        mean, second, third = self.mean, 0.0, 0.0
        for bucket, number in enumerate(self.buckets):
            if not number:
                continue
            low, high = _BOUNDS[bucket]
            middle = self._last_bucket_mean() if bucket == BUCKETS - 1 else (low + high) / 2
            spread = (high - low) ** 2 / 12 * (1 + 2 * self._unevenness(bucket))
            second += number * ((middle - mean) ** 2 + spread)
            third += number * (middle - mean) ** 3
        variance = second / (counted - 1)
        skewness = third / counted / variance**1.5 if variance else 0.0
        return Moments(counted, mean, variance, skewness)

    def _place(self, fraction: float) -> tuple[int, float]:
        """The bucket of a quantile, and how far inside it."""
        ranks = list(accumulate(self.buckets))
        if not ranks[-1]:
            raise ValueError("a histogram without values has no quantiles")
        rank = min(max(fraction, 0.0), 1.0) * ranks[-1]
        bucket = bisect_left(ranks, rank) if rank > 0 else next(i for i, n in enumerate(self.buckets) if n)
        here = self.buckets[bucket]
        return bucket, (rank - (ranks[bucket] - here)) / here

    def _unevenness(self, bucket: int) -> float:
        """The square of the largest relative difference between the density of a bucket and of a neighbour, 0 to 1.

        Counts differ by chance as well: its expected square is taken off, except from a neighbour that has none.
        """
        here, by_chance = self._density(bucket)
        largest = 0.0
        for neighbour in (bucket - 1, bucket + 1):
            there, also_by_chance = self._density(neighbour) if 0 <= neighbour < BUCKETS else (0.0, 0.0)
            squared = (here - there) ** 2 - (by_chance + also_by_chance if there else 0.0)
            largest = max(largest, squared / max(here, there) ** 2)
        return largest

    def _density(self, bucket: int) -> tuple[float, float]:
        """Values for each unit of a bucket's width, and the variance of that."""
        low, high = _BOUNDS[bucket]
        width = high - low + 1
        return self.buckets[bucket] / width, self.buckets[bucket] / width**2

    def _last_bucket_mean(self) -> float:
        """What the exact sum leaves for the last bucket, which has no upper end."""
        others = sum(number * sum(_BOUNDS[bucket]) / 2 for bucket, number in enumerate(self.buckets[:-1]))
        return max((self.total - others) / self.buckets[-1], float(_BOUNDS[-1][0]))
