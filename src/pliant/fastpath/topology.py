# SPDX-License-Identifier: Apache-2.0
"""From facts to what can be accelerated: a pure function.

For every interface it says which modules may take what comes in there, with their constants, or why not; whether others
may redirect to it; and it draws the way of a packet through the kernel as a graph, in the order in which things happen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pliant.fastpath import obstacles, tracking
from pliant.fastpath.graph import Edge, Graph, Node, draw
from pliant.fastpath.modules import Bridge, Family, Filter, Module, Overlay, Route
from pliant.fastpath.pods import ground_of, of_tcp, overlay
from pliant.fastpath.reasons import Reason
from pliant.fastpath.ruleset_compile import compiled, said_of, why_left
from pliant.fastpath.ruleset_rows import Begins
from pliant.kernel.rtnetlink_links import LOOPBACK
from pliant.observe.network import Facts, Interface

__all__ = ["Edge", "Graph", "Node", "Port", "Topology", "topology"]

_FAMILIES: tuple[Family, ...] = (4, 6)
_MOST_RULES = 4


@dataclass(frozen=True, slots=True)
class Port:
    """An interface as the fast path sees it.

    ``modules`` may take what comes in. ``reasons`` say why others that would fit do not: each module that an interface
    could have is in one of the two. ``counts``: its fast path is to count for rules of nftables that do. ``sends``:
    others may redirect to it; else ``send_reasons`` say why not.
    """

    index: int
    name: str
    kind: str | None
    modules: tuple[Module, ...]
    reasons: tuple[Reason, ...]
    send_reasons: tuple[Reason, ...]
    counts: bool = False

    @property
    def sends(self) -> bool:
        """Whether others may redirect packets to it."""
        return not self.send_reasons

    def module(self, name: str) -> Module | None:
        """A module by its name; None where the interface has none of that name."""
        return next((m for m in self.modules if m.name == name), None)


@dataclass(frozen=True, slots=True)
class Topology:
    """Every interface but loopback, and the facts that it was worked out from."""

    ports: tuple[Port, ...]
    facts: Facts

    @property
    def graph(self) -> Graph:
        """The way of a packet from each interface; drawn when asked for."""
        accelerated = {port.index: tuple(m.name for m in port.modules) for port in self.ports}
        return draw(self.facts, accelerated)

    def port(self, which: int | str) -> Port | None:
        """The port of an index or a name; None when there is none."""
        return next((p for p in self.ports if which in (p.index, p.name)), None)

    def data(self) -> dict[str, Any]:
        """All of it as plain data."""
        graph = self.graph
        return {
            "interfaces": [_port_data(port) for port in self.ports],
            "graph": {
                "nodes": [dataclasses.asdict(node) for node in graph.nodes],
                "edges": [dataclasses.asdict(edge) for edge in graph.edges],
            },
        }


def topology(
    facts: Facts,
    *,
    own: Iterable[int] = (),
    only: Iterable[str] = (),
    counts: Callable[[str], bool] = lambda name: False,
) -> Topology:
    """Work out what can be accelerated.

    ``own`` are the ids of programs that are Pliant's, which stand in nobody's way. ``only`` names the interfaces that
    are asked about, all when there are none; the others are still ways out. ``counts`` says of an interface whether its
    fast path is to count for rules of nftables that do.
    """
    ours, named = frozenset(own), frozenset(only)
    chosen = (i for i in facts.interfaces if i.media != LOOPBACK and (not named or i.name in named))
    above = obstacles.stacked(facts)
    return Topology(
        tuple(_port(facts, at, ours, above.get(at.index, ()), counts=counts(at.name)) for at in chosen), facts
    )


def flow_keys(facts: Facts, family: Family) -> tuple[str, ...]:
    """What tells flows apart, for the kernel's choice of a way, beside both addresses and the traffic class."""
    keys = set()
    for rule in facts.rules:
        if rule.family != family:
            continue
        if rule.protocol is not None:
            keys.add("protocol")
        if rule.source_ports or rule.destination_ports:
            keys |= {"protocol", "ports"}
        if rule.flow_label is not None:
            keys.add("flow_label")
    policy, several = obstacles.hash_policy(facts, family)
    if several and policy == 1:
        keys |= {"protocol", "ports"}
    if several and policy == 0 and family == 6:
        keys |= {"protocol", "flow_label"}
    return tuple(sorted(keys))


def _port(
    facts: Facts, at: Interface, own: frozenset[int], above: Sequence[Interface], *, counts: bool
) -> Port:
    modules: list[Module] = []
    reasons: list[Reason] = []
    bridge = obstacles.bridge_of(facts, at)
    if bridge is not None:
        found = [
            *obstacles.of_interface(facts, at, own, above, "bridge"),
            *obstacles.of_bridging(facts, at, bridge),
        ]
        reasons += found
        modules += [] if found else [_bridge(facts, at, bridge)]
    else:
        for family in _FAMILIES:
            found = [
                *obstacles.of_interface(facts, at, own, above, f"route{family}"),
                *obstacles.of_routing(facts, at, family, counts=counts),
            ]
            reasons += found
            if not found:
                modules += [
                    _route(facts, at, family),
                    *_filter(facts, family, counts=counts),
                    *tracking.modules(facts, family),
                ]
                reasons += [*tracking.of_tcp(facts, family), *_left(facts, family, counts=counts)]
    if (ground := ground_of(facts, at)) is not None:
        between_pods = overlay(facts, at, ground, own, above)
        if isinstance(between_pods, Overlay):
            modules.append(between_pods)
            reasons += of_tcp(facts, between_pods)
        else:
            reasons += between_pods
    sending = tuple(obstacles.of_sending(facts, at, own))
    return Port(at.index, at.name, at.kind, tuple(modules), tuple(dict.fromkeys(reasons)), sending, counts)


def _route(facts: Facts, at: Interface, family: Family) -> Route:
    policy, several = obstacles.hash_policy(facts, family)
    return Route(
        family=family,
        mac=at.mac or "",
        reverse_path=facts.reverse_path(at) if family == 4 else 0,
        keys=flow_keys(facts, family),
        errors_by_content=several and policy == 0,
        route_mtu=facts.routes.mtu4 if family == 4 else facts.routes.mtu6,
    )


def _left(facts: Facts, family: Family, *, counts: bool) -> Iterator[Reason]:
    """At which rules packets are left to the kernel; of many the first."""
    found = why_left(compiled(facts.nftables, counts=counts), family)
    for number, left in enumerate(found[:_MOST_RULES]):
        more = len(found) - _MOST_RULES if number == _MOST_RULES - 1 else 0
        others = f"; and at {more} more rules" if more > 0 else ""
        sentence = f"packets are the kernel's where they come to it: {said_of(left)}{others}"
        look = f"nft -a list chain {left.family} {left.table} {left.chain}"
        yield Reason("left-by-rule", f"rules{family}", sentence, look)


def _filter(facts: Facts, family: Family, *, counts: bool) -> Iterator[Filter]:
    rows = compiled(facts.nftables, counts=counts)
    begins = rows.begins(family)
    if not begins & Begins.EMPTY:
        left = tuple(map(str, why_left(rows, family)))
        yield Filter(family, len(rows.rows), left, bool(begins & Begins.TRACKED), bool(rows.counters))


def _bridge(facts: Facts, at: Interface, bridge: Interface) -> Bridge:
    families = tuple(obstacles.calls_iptables(facts, bridge))
    return Bridge(
        bridge=bridge.index,
        mac=bridge.mac or "",
        ageing_time=bridge.bridge.ageing_time if bridge.bridge else 0,
        learning=at.port is None or at.port.learning,
        hairpin=at.port is not None and at.port.hairpin,
        isolated=at.port is not None and at.port.isolated,
        checks_ip4=4 in families,
        checks_ip6=6 in families,
    )


def _port_data(port: Port) -> dict[str, Any]:
    return {
        "name": port.name,
        "index": port.index,
        "kind": port.kind,
        "modules": [{"name": m.name, **dataclasses.asdict(m)} for m in port.modules],
        "reasons": [dataclasses.asdict(reason) for reason in port.reasons],
        "sends": port.sends,
        "sendReasons": [dataclasses.asdict(reason) for reason in port.send_reasons],
    }
