# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools

import pytest

from pliant.kernel.codec import Array, Codec, Integer, Member, Record
from pliant.kernel.maps import Map, MapType
from pliant.kernel.pins import PinDirectory
from pliant.lab import PrivateMounts
from pliant.observe.effects import (
    EFFECTS,
    HELD_OUT,
    METRICS,
    TREATED,
    ArmEffect,
    Effect,
    Metric,
    effect_key,
    read_effects,
)
from pliant.observe.histogram import BUCKETS, Histogram
from pliant.observe.pin_tree import PinTree

U64 = Integer(8)
HISTOGRAM = Record(
    16 + 8 * BUCKETS,
    (Member("count", 0, U64), Member("sum", 8, U64), Member("buckets", 16, Array(U64, BUCKETS))),
)
CODEC = Codec(
    "effect",
    Record(
        16 + len(METRICS) * HISTOGRAM.size,
        (
            Member("connections", 0, U64),
            Member("failures", 8, U64),
            Member("metric", 16, Array(HISTOGRAM, len(METRICS))),
        ),
    ),
)
_trees = itertools.count(1)


def packed(arm: ArmEffect) -> bytes:
    histograms = [{"count": h.count, "sum": h.total, "buckets": h.buckets} for h in arm.histograms]
    return CODEC.pack({"connections": arm.connections, "failures": arm.failures, "metric": histograms})


def sample(seed: int) -> ArmEffect:
    values = (Histogram.of(range(seed + index, seed + 1000 * index, 7)) for index in range(len(METRICS)))
    return ArmEffect(100 + seed, seed, tuple(values))


@pytest.fixture
def pins(mounts: PrivateMounts) -> PinTree:
    return PinTree(mounts.bpffs / f"effects{next(_trees)}", "0123456789ab")


@pytest.mark.root
def test_both_arms_of_every_policy_are_read_from_the_map(pins: PinTree) -> None:
    entries = {(number, arm): sample(10 * number + arm) for number in (3, 7) for arm in (TREATED, HELD_OUT)}
    path = pins.map(EFFECTS)
    path.parent.mkdir(parents=True)
    with Map.create(MapType.HASH, 8, CODEC.size, 16) as held:
        held.pin(path)
        for (number, arm), value in entries.items():
            held.put(effect_key(number, arm), packed(value))
    try:
        wanted = {number: Effect(entries[number, TREATED], entries[number, HELD_OUT]) for number in (3, 7)}
        assert read_effects(pins, CODEC) == wanted
        assert read_effects(pins, CODEC, [7, 8]) == {7: wanted[7]}
    finally:
        PinDirectory(pins.root).remove_tree()


def test_nothing_is_measured_where_nothing_is_loaded(tmp_path_factory: pytest.TempPathFactory) -> None:
    assert read_effects(PinTree(tmp_path_factory.mktemp("pins"), "0123456789ab"), CODEC) == {}


def test_merging_hosts_and_taking_an_earlier_reading_away_are_inverse() -> None:
    one, other = Effect(sample(1), sample(2)), Effect(sample(3), sample(4))
    both = one.merged(other)
    assert both.treated.connections == one.treated.connections + other.treated.connections
    assert both.held_out[Metric.BYTES] == one.held_out[Metric.BYTES] + other.held_out[Metric.BYTES]
    assert both.since(one) == other
