# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import pytest

from pliant.observe.bounds import mean_at_least, mean_at_most, quantile_at_least, quantile_at_most
from pliant.observe.histogram import Histogram


def test_bounds_of_a_mean_are_where_its_probability_has_fallen_to_the_error() -> None:
    assert mean_at_most(0.0, 100, 0.01) == pytest.approx(1 - 0.01 ** (1 / 100), rel=1e-6)
    assert mean_at_least(1.0, 100, 0.01) == pytest.approx(0.01 ** (1 / 100), rel=1e-6)
    assert mean_at_least(0.0, 100, 0.01) == 0.0
    low, high = mean_at_least(0.3, 1000, 1e-6), mean_at_most(0.3, 1000, 1e-6)
    for bound in (low, high):
        divergence = 0.3 * math.log(0.3 / bound) + 0.7 * math.log(0.7 / (1 - bound))
        assert 1000 * divergence == pytest.approx(math.log(1e6), rel=1e-6)
    assert low < 0.3 < high


def test_bounds_of_a_quantile_hold_as_often_as_they_say() -> None:
    random = np.random.default_rng(8)
    median, error, missed = 1_000 * math.log(2), 0.05, 0
    for _ in range(1_000):
        sample = Histogram.of(map(int, random.exponential(1_000, 80)))
        missed += not quantile_at_least(sample, 0.5, error / 2) <= median
        missed += not median <= quantile_at_most(sample, 0.5, error / 2)
    assert missed <= error * 1_000


def test_too_few_values_bound_nothing() -> None:
    sample = Histogram.of([5, 6, 7])
    assert quantile_at_least(sample, 0.5, 0.01) == 0
    assert quantile_at_most(sample, 0.5, 0.01) == math.inf
    assert quantile_at_most(Histogram(), 0.5, 0.01) == math.inf
    assert mean_at_most(0.0, 0, 0.01) == 1.0
