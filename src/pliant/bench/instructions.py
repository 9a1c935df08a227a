# SPDX-License-Identifier: Apache-2.0
"""How many instructions the verifier goes through for the fast path's programs, by what their constants switch on.

No timing: the counts are the same on every machine with the same kernel and compiler, so that a program that has become
longer is seen however busy the machine is. Loading takes about as long as there are instructions to go through.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from pliant.bench.bench import Bench, Options, Sample
from pliant.fastpath.objects import shipped_object
from pliant.kernel.objects import load

_COMMON: dict[str, int | bytes] = {
    "max_age": 25,
    "confirm_every": 250,
    "network_namespace": 1,
}
_ROUTES = {"forwards_ipv4": 1, "forwards_ipv6": 1, "follows_ruleset": 1, "comes_with_skb": 1}
_PORTS = {"ports_decide4": 1, "ports_decide6": 1}
_FILTERS = {"filters_ipv4": 1, "filters_ipv6": 1}
_TRACKS = {"tracks4": 1, "tracks6": 1}
_PODS = {"follows_ruleset": 1, "tracks_bridged": 1, "tracks_routed": 1}
_TRANSLATES = {"translates4": 1, "translates6": 1}


class Program(NamedTuple):
    """A program of an object with its constants, beside those that all have."""

    object: str
    constants: Mapping[str, int]


VARIANTS = MappingProxyType(
    {
        "route4": Program("route_xdp", {"forwards_ipv4": 1}),
        "route6": Program("route_xdp", {"forwards_ipv6": 1}),
        "route": Program("route_xdp", _ROUTES),
        "route_ports": Program("route_xdp", _ROUTES | _PORTS),
        "route_filter": Program("route_xdp", _ROUTES | _PORTS | _FILTERS),
        "route_filter_track": Program("route_xdp", _ROUTES | _PORTS | _FILTERS | _TRACKS),
        "route_nat": Program("route_xdp", _ROUTES | _PORTS | _TRACKS | _TRANSLATES),
        "route_all": Program("route_xdp", _ROUTES | _PORTS | _FILTERS | _TRACKS | _TRANSLATES),
        "bridge": Program("bridge_xdp", {"comes_with_skb": 1}),
        "bridge_checks": Program("bridge_xdp", {"comes_with_skb": 1, "checks_ipv4": 1, "checks_ipv6": 1}),
        "overlay": Program("overlay_tc", {"bridge_ifindex": 2, "tunnel_ifindex": 3, **_PODS}),
        "overlay_tunnel": Program("overlay_tc", {"bridge_ifindex": 2, "from_tunnel": 1, **_PODS}),
    }
)
"""The programs that are counted, by the name of their metric."""


def run(options: Options) -> Iterator[Sample]:
    """Yield the counts; they are the same in every run."""
    for name, (source, constants) in VARIANTS.items():
        options.progress(name)
        with load(shipped_object(source), feature=source, rodata={**_COMMON, **constants}) as loaded:
            program = loaded.programs[source]
            for _ in range(options.runs):
                yield Sample(f"{name}_verified", "instructions", program.verified_instructions)
                yield Sample(f"{name}_size", "instructions", program.instructions)


BENCH = Bench(
    name="instructions",
    summary="Instructions of the fast path's programs, and how many of them the verifier goes through.",
    run=run,
    runs=1,
)
