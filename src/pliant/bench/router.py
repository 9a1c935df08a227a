# SPDX-License-Identifier: Apache-2.0
"""How many packets a second a router forwards on one core, with the fast path and without."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, nullcontext

from pliant.bench.acceleration import Acceleration
from pliant.bench.bench import Bench, Options, Sample
from pliant.bench.forwarding import KERNEL, PLIANT, Row, Variant, rounds, samples
from pliant.bench.place import private_mounts
from pliant.lab import Lab
from pliant.lab.frames import udp_frame

BEYOND = {"router": ("198.19.0.0/16", "198.19.0.1"), "router6": ("2001:2:1::/48", "2001:2:1::1")}
"""A network behind the sink and an address in it, of each family, by the metric."""


def run(options: Options) -> Iterator[Sample]:
    """Yield rates and ratios for one flow of the shortest packets, of each family."""
    private_mounts()
    with Lab("bench") as lab:
        row = Row(lab)
        near, far = row.near[0], row.far[0]
        row.router.add_route(BEYOND["router"][0], far.address_of(row.sink))
        row.router.add_route(BEYOND["router6"][0], far.address6_of(row.sink))
        variants: dict[str, Variant] = {KERNEL: nullcontext, PLIANT: Acceleration(row.router).on}
        senders = {"router": near.address_of(row.source), "router6": near.address6_of(row.source)}
        for metric, (_, destination) in BEYOND.items():
            options.progress(f"{metric}: from {senders[metric]} to {destination}")
            frame = udp_frame(*row.macs(), senders[metric], destination, checksum=":" in destination)
            with closing(row.packets([frame])) as packets:
                for found in rounds(row, packets, variants, options):
                    yield from samples(metric, found)


BENCH = Bench(
    name="router",
    summary="Packets a second through a router on one core, against the kernel alone.",
    run=run,
    runs=10,
)
