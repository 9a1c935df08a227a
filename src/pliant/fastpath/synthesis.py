# SPDX-License-Identifier: Apache-2.0
"""From what can be accelerated to the programs that do it: a pure function.

Each interface gets an object that is shipped, made what it needs by constants; nothing is compiled, and the verifier
removes what a constant switches off. No constant is an interface's own: those that need the same get the same program.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping

from pliant.fastpath.modules import Bridge, Filter, Nat, Overlay, Route, Track
from pliant.fastpath.objects import BRIDGING, PODS, ROUTING, build_of, object_for
from pliant.fastpath.ruleset_compile import compiled
from pliant.fastpath.target import Acceleration, FastpathTarget
from pliant.fastpath.topology import Port as Way
from pliant.fastpath.topology import Topology
from pliant.kernel.jiffies import jiffies, jiffy_us
from pliant.kernel.rtnetlink import NO_MTU
from pliant.observe.fastpath import Mode, Port

BELIEVED_US = 100_000
"""How long a neighbour's address or a path MTU is believed that has changed since."""
CONFIRMED_EVERY_US = 1_000_000
"""How often the kernel sees a packet to each neighbour, which keeps its entry fresh."""

COUNTS_RULES = "counts_rules"
"""The constant of programs that count for rules of nftables."""

Constants = dict[str, int | bytes]


def synthesize(
    topology: Topology, modes: Mapping[int, Mode], only: Collection[str] | None = None
) -> FastpathTarget:
    """What each interface should run, and where packets may leave.

    ``modes`` has how an interface of an index can run it; one that is not in it runs nothing. ``only`` names the
    interfaces that are wanted (None: all); packets may leave by the others.
    """
    wanted = {}
    narrowest = _narrowest(topology)
    for way in topology.ports:
        if way.index not in modes or not (only is None or way.name in only):
            continue
        port = Port(way.index, modes[way.index])
        object_ = object_for(port.mode, way.modules)
        if object_ == PODS:
            constants = _between_pods(way)
        elif object_ == BRIDGING:
            constants = _bridging(way, port.mode)
        else:
            constants = _routing(way, port.mode, narrowest)
        if constants:
            constants |= _common(way, port.mode, topology.facts.namespace)
            wanted[port] = Acceleration(port, way.name, object_, constants, build_of(object_, constants))
    if not wanted:
        return FastpathTarget()
    exits = frozenset(way.index for way in topology.ports if way.sends)
    if not any(acceleration.object in (ROUTING, PODS) for acceleration in wanted.values()):
        return FastpathTarget(wanted, exits)
    asked = exits | {port.ifindex for port in wanted}
    names = {at.index: at.name for at in topology.facts.interfaces if at.index in asked}
    # Also for one that runs nothing for now: its counts are kept.
    counts = any(way.counts for way in topology.ports)
    return FastpathTarget(wanted, exits, compiled(topology.facts.nftables, counts=counts), names)


def _narrowest(topology: Topology) -> int:
    """The smallest MTU of the interfaces that packets may leave by."""
    exits = {way.index for way in topology.ports if way.sends}
    return min((at.mtu for at in topology.facts.interfaces if at.index in exits), default=NO_MTU)


def _route_mtu(of_routes: int, narrowest: int) -> int:
    """Beyond what length packets are the kernel's: a route may have a larger MTU than the interface it leads to.

    The kernel sends such packets, and XDP loses them. Without MTUs of routes the lookup tells of the interface's.
    """
    return min(of_routes, narrowest) if of_routes < NO_MTU else NO_MTU


def _routing(way: Way, mode: Mode, narrowest: int) -> Constants:
    filtered = {module.family for module in way.modules if isinstance(module, Filter)}
    tracked = {module.family for module in way.modules if isinstance(module, Track)}
    constants: Constants = {}
    for route in (module for module in way.modules if isinstance(module, Route)):
        decided = {"protocol", "ports"}.intersection(route.keys) or route.family in filtered | tracked
        constants |= {
            f"forwards_ipv{route.family}": 1,
            f"ports_decide{route.family}": int(bool(decided)),
            "follows_ruleset": 1,
            f"filters_ipv{route.family}": int(route.family in filtered),
            f"errors_decide{route.family}": int(route.errors_by_content),
            f"route_mtu{route.family}": _route_mtu(route.route_mtu, narrowest),
            f"tracks{route.family}": int(route.family in tracked),
            f"translates{route.family}": int(mode is Mode.NATIVE and Nat(route.family) in way.modules),
            "jiffy_us": jiffy_us(),
        }
    if any(isinstance(module, Filter) and module.counts for module in way.modules):
        constants[COUNTS_RULES] = 1
    return constants


def _bridging(way: Way, mode: Mode) -> Constants:
    """What else there is to know of a bridge the program reads in the kernel, frame by frame."""
    module = next(module for module in way.modules if isinstance(module, Bridge))
    return {
        "checks_ipv4": int(module.checks_ip4),
        "checks_ipv6": int(module.checks_ip6),
        "runs_in_driver": int(mode is Mode.NATIVE),
    }


def _between_pods(way: Way) -> Constants:
    found = next((module for module in way.modules if isinstance(module, Overlay)), None)
    if found is None:
        return {}
    pods = ipaddress.IPv4Network(found.pods)
    return {
        "bridge_ifindex": found.bridge,
        "tunnel_ifindex": found.tunnel or 0,
        "from_tunnel": int(found.from_tunnel),
        "tracks_bridged": int(found.tracks_bridged),
        "tracks_routed": int(found.tracks_routed),
        "pods_network": pods.network_address.packed,
        "pods_mask": pods.netmask.packed,
        "updates_priority": int(found.updates_priority),
        "route_mtu": min(found.route_mtu, NO_MTU),
        "jiffy_us": jiffy_us(),
        "follows_ruleset": 1,
    }


def _common(way: Way, mode: Mode, namespace: int) -> Constants:
    constants: Constants = {
        "max_age": jiffies(BELIEVED_US),
        "confirm_every": jiffies(CONFIRMED_EVERY_US),
        "network_namespace": namespace,
    }
    if mode is not Mode.TC:
        constants["comes_with_skb"] = int(way.kind == "veth" and mode is Mode.NATIVE)
    return constants
