# SPDX-License-Identifier: Apache-2.0
"""What the programs have measured of each policy's connections, treated and held out."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from pliant.kernel.codec import Array, Codec, Layout, Record
from pliant.kernel.maps import Map
from pliant.observe.histogram import BUCKETS, Histogram
from pliant.observe.pin_tree import PinTree
from pliant.observe.tables import Table
from pliant.policy.desired import SCOPE

EFFECTS = Table(SCOPE, "effects")
WORD = 8  # bytes of every field of struct effect
NUMBER = 4  # bytes of a policy's number and of an arm in struct effect_key
TREATED, HELD_OUT = 0, 1  # enum arm in effect.h


class Direction(Enum):
    """Which way a metric is better."""

    LOWER = "lower"
    HIGHER = "higher"
    NEITHER = "neither"


class Metric(Enum):
    """What is measured of a connection: name, unit, and which way is better.

    The order is that of ``enum effect_metric``. Goodput is what both ends acknowledged, over the completion time;
    delivery rate, smoothed and minimum RTT are the kernel's last (``tcp_sock``).
    """

    COMPLETION_TIME = ("completion_time", "us", Direction.LOWER)
    GOODPUT = ("goodput", "bytes/s", Direction.HIGHER)
    DELIVERY_RATE = ("delivery_rate", "bytes/s", Direction.HIGHER)
    SMOOTHED_RTT = ("smoothed_rtt", "us", Direction.LOWER)
    MINIMUM_RTT = ("minimum_rtt", "us", Direction.LOWER)
    RETRANSMISSION_RATIO = ("retransmission_ratio", "ppm", Direction.LOWER)
    BYTES = ("bytes", "bytes", Direction.NEITHER)

    def __init__(self, label: str, unit: str, better: Direction) -> None:
        self.label = label
        self.unit = unit
        self.better = better


METRICS = tuple(Metric)


@dataclass(frozen=True, slots=True)
class ArmEffect:
    """One arm of one policy: its connections, how many of them were never established, and a histogram per metric.

    Arms of several hosts are merged by ``+``; ``-`` takes an earlier reading of the same arm away.
    """

    connections: int = 0
    failures: int = 0
    histograms: tuple[Histogram, ...] = (Histogram(),) * len(METRICS)

    def __getitem__(self, metric: Metric) -> Histogram:
        return self.histograms[METRICS.index(metric)]

    def __add__(self, other: ArmEffect) -> ArmEffect:
        return ArmEffect(
            self.connections + other.connections,
            self.failures + other.failures,
            tuple(a + b for a, b in zip(self.histograms, other.histograms, strict=True)),
        )

    def __sub__(self, other: ArmEffect) -> ArmEffect:
        return ArmEffect(
            self.connections - other.connections,
            self.failures - other.failures,
            tuple(a - b for a, b in zip(self.histograms, other.histograms, strict=True)),
        )


class Effect(NamedTuple):
    """Both arms of one version of one policy."""

    treated: ArmEffect = ArmEffect()
    held_out: ArmEffect = ArmEffect()

    def merged(self, other: Effect) -> Effect:
        """This and another host's, arm by arm."""
        return Effect(self.treated + other.treated, self.held_out + other.held_out)

    def since(self, earlier: Effect) -> Effect:
        """What has come since an earlier reading."""
        return Effect(self.treated - earlier.treated, self.held_out - earlier.held_out)


def read_effects(pins: PinTree, effect: Codec, numbers: Iterable[int] | None = None) -> dict[int, Effect]:
    """The effect of each measured policy number, or of those asked for; empty when nothing is loaded.

    ``effect`` is the codec of ``struct effect``. A policy that is not measured is not in the result. The kernel goes on
    counting while it is read: the parts of one reading may be a connection apart.
    """
    pin = pins.map(EFFECTS)
    if not pin.exists():
        return {}
    arms: dict[tuple[int, int], ArmEffect] = {}
    with Map.pinned(pin) as held:
        if numbers is None:
            found: Iterable[tuple[bytes, bytes | None]] = held.items()
        else:
            keys = (effect_key(number, arm) for number in numbers for arm in (TREATED, HELD_OUT))
            found = ((key, held.get(key)) for key in keys)
        for key, value in found:
            if value is not None:
                number, arm = (int.from_bytes(key[i : i + NUMBER], sys.byteorder) for i in (0, NUMBER))
                arms[number, arm] = decode_arm(value, effect)
    return {
        number: Effect(arms.get((number, TREATED), ArmEffect()), arms.get((number, HELD_OUT), ArmEffect()))
        for number in sorted({number for number, _ in arms})
    }


def effect_key(number: int, arm: int) -> bytes:
    """The key of one arm of one policy number: ``struct effect_key``."""
    return number.to_bytes(NUMBER, sys.byteorder) + arm.to_bytes(NUMBER, sys.byteorder)


def decode_arm(value: bytes, effect: Codec) -> ArmEffect:
    """One entry of the map; the places of fields are those of the codec.

    The buckets are taken as a block: thousands of integers, of which nearly all are zero, by hand would take
    milliseconds an entry.
    """
    places = {field.name: field.offset // WORD for field in effect.fields}
    metrics = _element(effect.layout, "metric")
    inner = {member.name: member.offset // WORD for member in metrics.members}
    words = memoryview(value).cast("Q")
    histograms = []
    for index in range(len(METRICS)):
        base = places["metric"] + index * metrics.size // WORD
        buckets = base + inner["buckets"]
        counted = tuple(words[buckets : buckets + BUCKETS])
        histograms.append(Histogram(words[base + inner["count"]], words[base + inner["sum"]], counted))
    return ArmEffect(words[places["connections"]], words[places["failures"]], tuple(histograms))


def _element(layout: Layout, name: str) -> Record:
    """The elements of an array of structures within a structure."""
    assert isinstance(layout, Record)
    array = next(member.layout for member in layout.members if member.name == name)
    assert isinstance(array, Array)
    assert isinstance(array.element, Record)
    return array.element
