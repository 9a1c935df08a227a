# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pliant.lab.arms import histogram
from pliant.observe.histogram import BUCKETS, Histogram, bucket_bounds, bucket_of

VALUES = st.lists(st.integers(0, 2**40), max_size=40)


@given(st.integers(0, 2**64 - 1))
def test_a_value_lies_within_the_bounds_of_its_bucket_and_no_bucket_is_wider_than_an_eighth(
    value: int,
) -> None:
    bucket = bucket_of(value)
    low, high = bucket_bounds(bucket)
    assert low <= value
    assert value <= high or bucket == BUCKETS - 1
    assert high - low + 1 <= max(1, low / 8)


def test_buckets_follow_each_other_without_gap() -> None:
    for bucket in range(BUCKETS - 1):
        assert bucket_bounds(bucket)[1] + 1 == bucket_bounds(bucket + 1)[0]
        assert bucket_of(bucket_bounds(bucket)[0]) == bucket_of(bucket_bounds(bucket)[1]) == bucket


@given(VALUES, VALUES)
def test_merging_is_counting_together_and_subtracting_takes_an_earlier_reading_away(
    first: list[int], second: list[int]
) -> None:
    together = Histogram.of(first) + Histogram.of(second)
    assert together == Histogram.of(first + second)
    assert together - Histogram.of(first) == Histogram.of(second)


@given(st.lists(st.integers(0, 2**33), min_size=1, max_size=60), st.floats(0, 1))
def test_a_quantile_lies_in_the_bucket_of_the_order_statistic(values: list[int], fraction: float) -> None:
    rank = max(1, math.ceil(fraction * len(values)))
    exact = sorted(values)[rank - 1]
    low, high = bucket_bounds(bucket_of(exact))
    sample = Histogram.of(values)
    below, above = sample.bracket(fraction)
    assert low <= below <= sample.quantile(fraction) <= above <= high


def test_the_bracket_of_a_spike_is_its_bucket_and_that_of_a_smooth_sample_is_narrow() -> None:
    spike = Histogram.of([50_000] * 10_000)
    assert spike.bracket(0.5) == pytest.approx(bucket_bounds(bucket_of(50_000)), rel=0.001)
    smooth = Histogram.of(range(20_000, 120_000))
    low, high = smooth.bracket(0.5)
    assert high / low < 1.001
    assert low <= smooth.quantile(0.5) == pytest.approx(70_000, rel=0.001)


def test_the_mean_is_exact_and_variance_and_skewness_are_near_those_of_the_values() -> None:
    values = (60_000 * np.random.default_rng(5).lognormal(0, 0.8, 20_000)).astype(np.int64)
    moments = histogram(values).moments()
    assert moments.mean == values.sum() / len(values)
    assert math.sqrt(moments.variance) == pytest.approx(values.std(), rel=0.02)
    deviations = values - values.mean()
    assert moments.skewness == pytest.approx((deviations**3).mean() / values.std() ** 3, rel=0.05)


def test_the_variance_is_not_understated_where_values_hide_inside_one_bucket() -> None:
    low, high = bucket_bounds(bucket_of(50_000))
    values = [low, high] * 500
    assert Histogram.of(values).moments().variance >= 0.99 * statistics.variance(values)


def test_values_beyond_the_last_bucket_keep_their_weight_in_the_mean_and_the_variance() -> None:
    values = [2**35] * 50 + [2**20] * 50
    moments = Histogram.of(values).moments()
    assert moments.mean == statistics.mean(values)
    assert moments.variance == pytest.approx(statistics.variance(values), rel=0.01)


@given(st.lists(st.integers(0, 2**45), max_size=50))
def test_the_quick_way_to_a_histogram_gives_the_same(values: list[int]) -> None:
    assert histogram(np.array(values, dtype=np.int64)) == Histogram.of(values)
