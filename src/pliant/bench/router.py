# SPDX-License-Identifier: Apache-2.0
"""How many packets a second a router forwards on one core, with the fast path and without."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext

from pliant.bench.acceleration import Acceleration
from pliant.bench.bench import Bench, Options, Sample
from pliant.bench.forwarding import KERNEL, PLIANT, Row, Variant, rounds, samples
from pliant.bench.place import private_mounts
from pliant.lab import Lab
from pliant.lab.frames import udp_frame

XDP_FORWARD = "xdp-forward"
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
        if shutil.which(XDP_FORWARD):
            variants["xdp_forward"] = lambda: xdp_forward(row)
        senders = {"router": near.address_of(row.source), "router6": near.address6_of(row.source)}
        for metric, (_, destination) in BEYOND.items():
            options.progress(f"{metric}: from {senders[metric]} to {destination}")
            frame = udp_frame(*row.macs(), senders[metric], destination, checksum=":" in destination)
            with closing(row.packets([frame])) as packets:
                for found in rounds(row, packets, variants, options):
                    yield from samples(metric, found)


@contextmanager
def xdp_forward(row: Row) -> Iterator[None]:
    """Have xdp-tools' xdp-forward on all interfaces of the router, for the time of a block."""
    names = row.names(row.router)
    env = {**os.environ, "LIBXDP_BPFFS": str(private_mounts().bpffs)}
    row.router.run([XDP_FORWARD, "load", *names], env=env)
    try:
        yield
    finally:
        row.router.run([XDP_FORWARD, "unload", *names], env=env)


BENCH = Bench(
    name="router",
    summary="Packets a second through a router on one core, against the kernel alone.",
    run=run,
    runs=10,
)
