# SPDX-License-Identifier: Apache-2.0
"""How many frames a second a bridge forwards on one core, with the fast path and without."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, nullcontext

from pliant.bench.acceleration import Acceleration
from pliant.bench.bench import Bench, Options, Sample
from pliant.bench.forwarding import KERNEL, PLIANT, Row, Variant, rounds, samples
from pliant.bench.place import private_mounts
from pliant.lab import Lab
from pliant.lab.frames import udp_frame
from pliant.lab.packets import interface

STATIONS = {"bridge": 1, "bridge_stations": 64}
"""How many stations send to how many others, by the metric."""
_BRIDGE = "br0"


def run(options: Options) -> Iterator[Sample]:
    """Yield rates and ratios for the shortest frames, between two stations and between many."""
    private_mounts()
    with Lab("bench") as lab:
        row = Row(lab)
        near, far = row.names(row.router)
        row.router.sysctl("net.bridge.bridge-nf-call-iptables", "0")
        row.router.sysctl("net.bridge.bridge-nf-call-ip6tables", "0")
        row.router.ip(f"link add {_BRIDGE} type bridge", f"link set {_BRIDGE} up")
        row.router.ip(*(f"link set {name} master {_BRIDGE}" for name in (near, far)))
        variants: dict[str, Variant] = {KERNEL: nullcontext, PLIANT: Acceleration(row.router, [near]).on}
        first = (row.macs()[1], interface(row.sink, row.names(row.sink)[0]).address)
        for metric, count in STATIONS.items():
            pairs = [tuple(_numbered(address, number) for address in first) for number in range(count)]
            row.router.run(
                ["bridge", "-batch", "-"],
                given="".join(f"fdb replace {to.hex(':')} dev {far} master dynamic\n" for _, to in pairs),
            )
            options.progress(f"{metric}: {count} stations to as many others")
            frames = [udp_frame(to, sender, "198.18.0.1", "198.18.0.2") for sender, to in pairs]
            with closing(row.packets(frames)) as packets:
                for found in rounds(row, packets, variants, options):
                    yield from samples(metric, found)


def _numbered(address: bytes, number: int) -> bytes:
    return address[:-1] + bytes([(address[-1] + number) % 256])


BENCH = Bench(
    name="bridge",
    summary="Frames a second over a bridge on one core, against the kernel alone.",
    run=run,
    runs=10,
)
