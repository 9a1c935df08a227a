# SPDX-License-Identifier: Apache-2.0
"""Simulated arms of a policy: connections with heavy tails, and effects of known size planted in them.

Sizes are log-normal, losses come by the segment and cost a timeout now and then, round trips have a floor and a queue:
so completion times have a tail some hundred times their median, most connections retransmit nothing, and metrics of
one connection depend on each other, as on a real host.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pliant.observe.effects import ArmEffect
from pliant.observe.histogram import BUCKETS, SUB_BITS, SUB_BUCKETS, Histogram

Values = npt.NDArray[np.int64]
SEGMENT_BYTES = 1448


@dataclass(frozen=True, slots=True)
class Traffic:
    """What the connections of an arm are like; the defaults are those of an arm left alone.

    ``slowness`` multiplies completion times, ``loss`` is the probability that a segment is sent again, ``failure`` that
    a connection is never established, ``size_spread`` the standard deviation of the logarithm of sizes.
    """

    slowness: float = 1.0
    loss: float = 0.002
    failure: float = 0.003
    median_bytes: int = 30_000
    size_spread: float = 1.4
    floor_rtt_us: int = 48_000


def arm(random: np.random.Generator, connections: int, traffic: Traffic) -> ArmEffect:
    """What would have been measured of so many connections."""
    failures = int(random.binomial(connections, traffic.failure))
    count = connections - failures
    size = 1 + traffic.median_bytes * random.lognormal(0.0, traffic.size_spread, count)
    minimum_rtt_us = traffic.floor_rtt_us + random.exponential(400.0, count)
    rtt_us = minimum_rtt_us + random.exponential(6_000.0, count)
    segments = np.ceil(size / SEGMENT_BYTES)
    lost = random.binomial(segments.astype(np.int64), traffic.loss)
    rounds = 1 + np.log2(1 + segments / 10)
    timeouts = random.binomial(lost, 0.3)
    served_us = random.lognormal(9.0, 1.0, count)
    completion_us = traffic.slowness * (rtt_us * rounds + served_us + 220_000 * timeouts)
    goodput = size * 1e6 / completion_us
    delivery = goodput * random.lognormal(0.7, 0.4, count)
    metrics = (
        completion_us, goodput, delivery, rtt_us, minimum_rtt_us, lost * 1e6 / (segments + lost), size
    )  # fmt: skip
    return ArmEffect(connections, failures, tuple(histogram(values.astype(np.int64)) for values in metrics))


def histogram(values: Values) -> Histogram:
    """The histogram of an array of values; the same as :meth:`Histogram.of`, some hundred times as fast."""
    octave = np.maximum(np.frexp(values.astype(np.float64))[1] - 1 - SUB_BITS, 0)
    bucket = np.where(
        values < SUB_BUCKETS, values, (octave + 1) * SUB_BUCKETS + (values >> octave) % SUB_BUCKETS
    )
    counts = np.bincount(np.minimum(bucket, BUCKETS - 1), minlength=BUCKETS)
    return Histogram(len(values), int(values.sum()), tuple(map(int, counts)))
