# SPDX-License-Identifier: Apache-2.0
"""How long packets take through a router that has more to do than it can, with the fast path and without."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext

from pliant.bench.acceleration import Acceleration
from pliant.bench.bench import Bench, Options, Sample
from pliant.bench.forwarding import (
    CHUNK_PACKETS,
    KERNEL,
    PLIANT,
    WARM_UP_PACKETS,
    WINDOW_S,
    Row,
    Variant,
    one_core,
)
from pliant.bench.place import private_mounts
from pliant.errors import PliantError
from pliant.lab import Lab
from pliant.lab.frames import udp_frame
from pliant.lab.packets import TIME_UNIT_NS, PacketSource, packet_timer

FLOWS = 1024
PERCENTILES = (50, 99)


def run(options: Options) -> Iterator[Sample]:
    """Yield percentiles of the time through the router, and how many times the kernel's ours are."""
    private_mounts()
    with Lab("bench") as lab:
        row = Row(lab)
        row.router.add_route("198.19.0.0/16", row.far[0].address_of(row.sink))
        macs, source = row.macs(), row.near[0].address_of(row.source)
        destinations = (f"198.19.{n // 250}.{n % 250 + 1}" for n in range(FLOWS))
        frames = [udp_frame(*macs, source, to, checksum=False) for to in destinations]
        variants: dict[str, Variant] = {KERNEL: nullcontext, PLIANT: Acceleration(row.router).on}
        names = [link.interface_of(row.source) for link in row.near]
        with closing(PacketSource(row.source, names, frames, stamps=True)) as packets:
            for number in range(options.runs):
                found = {}
                for name in list(variants) if number % 2 else reversed(list(variants)):
                    with variants[name]():
                        found[name] = times_us(row, packets, WINDOW_S * options.scale)
                said = "; ".join(f"{name} " + ", ".join(f"{t:.1f}" for t in found[name]) for name in variants)
                options.progress(f"run {number + 1} of {options.runs}, us at P50 and P99: {said}")
                yield from samples(found[KERNEL], found[PLIANT])


def samples(kernel: Sequence[float], pliant: Sequence[float]) -> Iterator[Sample]:
    """Yield each percentile of both, and ours over the kernel's: below 1 is better."""
    for number, percentile in enumerate(PERCENTILES):
        yield Sample(f"latency_kernel_p{percentile}_us", "us", kernel[number])
        yield Sample(f"latency_pliant_p{percentile}_us", "us", pliant[number])
        yield Sample(f"latency_p{percentile}_ratio", "ratio", pliant[number] / kernel[number])


def times_us(row: Row, packets: PacketSource, seconds: float) -> list[float]:
    """The percentiles of the time from the source to the sink, over a window.

    Raises :class:`PliantError` when nothing arrives.
    """
    with packet_timer(row.sink, row.far[0].interface_of(row.sink)) as timer, one_core():
        packets.send(WARM_UP_PACKETS)
        before, taken = timer.counts(), 0.0
        while taken < seconds:
            taken += packets.send(CHUNK_PACKETS).seconds
        counts = [after - earlier for after, earlier in zip(timer.counts(), before, strict=True)]
    if not any(counts):
        raise PliantError("no packet arrived at the sink")
    return [_percentile(counts, percentile) for percentile in PERCENTILES]


def _percentile(counts: Sequence[int], percentile: int) -> float:
    """The upper end, in us, of what the given share of all does not exceed."""
    wanted = sum(counts) * percentile / 100
    at = next(n for n, total in enumerate(itertools.accumulate(counts)) if total >= wanted)
    return (at + 1) * TIME_UNIT_NS / 1e3


BENCH = Bench(
    name="latency",
    summary="How long packets take through a router under load, against the kernel alone.",
    run=run,
    runs=10,
)
