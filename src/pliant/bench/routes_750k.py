# SPDX-License-Identifier: Apache-2.0
"""A router that knows as many routes as the Internet has, and packets to thousands of places at random."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext

from pliant.bench.acceleration import Acceleration
from pliant.bench.bench import Bench, Options, Sample
from pliant.bench.forwarding import KERNEL, PLIANT, Row, Variant, rounds, samples
from pliant.bench.place import private_mounts
from pliant.lab import Lab
from pliant.lab.frames import udp_frame

ROUTES = 750_000
DESTINATIONS = 4096
LENGTHS = {24: 60, 23: 10, 22: 12, 21: 5, 20: 5, 19: 3, 18: 2, 17: 1, 16: 2}
"""How many in a hundred prefixes are how long, roughly as in the tables of Internet routers."""
_SEED = 750


def run(options: Options) -> Iterator[Sample]:
    """Yield rates and ratios, and what our tables take in memory with one route and with all of them."""
    private_mounts()
    chosen = random.Random(_SEED)
    with Lab("bench") as lab:
        row = Row(lab)
        acceleration = Acceleration(row.router)
        via = row.far[0].address_of(row.sink)
        row.router.add_route("198.19.0.0/16", via)
        with acceleration.on():
            before = acceleration.table_bytes()
        networks = prefixes(chosen, options.scaled(ROUTES))
        options.progress(f"adding {len(networks)} routes")
        row.router.ip(*(f"route add {network} via {via}" for network in networks))
        acceleration.look()
        frames = list(packets_to(row, addresses(chosen, networks, DESTINATIONS)))
        variants: dict[str, Variant] = {KERNEL: nullcontext, PLIANT: acceleration.on}
        with closing(row.packets(frames)) as packets:
            for found in rounds(row, packets, variants, options):
                yield from samples("routes_750k", found)
        with acceleration.on():
            after = acceleration.table_bytes()
        yield Sample("routes_750k_tables_mb", "MB", after / 1e6)
        yield Sample("routes_750k_tables_growth_bytes", "bytes", after - before)


def prefixes(chosen: random.Random, count: int) -> list[str]:
    """So many different prefixes of unicast addresses."""
    lengths = chosen.choices(list(LENGTHS), list(LENGTHS.values()), k=count * 2)
    found: dict[str, None] = {}
    for length in lengths:
        if len(found) < count:
            first = chosen.randrange(1, 224)
            if first not in (10, 127, 169, 172, 192, 198):
                number = (first << 24 | chosen.getrandbits(24)) >> (32 - length) << (32 - length)
                found[f"{ipaddress.IPv4Address(number)}/{length}"] = None
    return list(found)


def addresses(chosen: random.Random, networks: Sequence[str], count: int) -> list[str]:
    """So many addresses, each in a network that is chosen at random."""
    picked = (network.split("/") for network in chosen.choices(networks, k=count))
    return [
        str(ipaddress.IPv4Address(first) + chosen.randrange(1, 1 << (32 - int(length))))
        for first, length in picked
    ]


def packets_to(row: Row, destinations: Sequence[str]) -> Iterator[bytes]:
    """A frame to each of these addresses."""
    macs, source = row.macs(), row.near[0].address_of(row.source)
    return (udp_frame(*macs, source, destination, checksum=False) for destination in destinations)


BENCH = Bench(
    name="routes_750k",
    summary="Packets a second through a router with 750,000 routes, to thousands of destinations at random.",
    run=run,
    runs=10,
)
