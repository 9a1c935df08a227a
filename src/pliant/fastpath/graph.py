# SPDX-License-Identifier: Apache-2.0
"""The way of a packet through the kernel, from each interface, as a graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pliant.fastpath.obstacles import has_effect
from pliant.kernel.rtnetlink_links import LOOPBACK
from pliant.observe.network import BaseChain, Facts, Interface

KINDS = ("in", "ingress hook", "bridge", "prerouting", "router", "forward", "host", "postrouting", "out")
"""Kinds of nodes, in the order in which a packet meets them."""

_FAMILIES: dict[int, tuple[str, ...]] = {4: ("ip", "inet"), 6: ("ip6", "inet")}
_HOST = "host"
_ROUTING = ("route", "filter", "track", "nat")


@dataclass(frozen=True, slots=True)
class Node:
    """A place where something is decided; ``kind`` is one of :data:`KINDS`, ``details`` are lines for people."""

    id: str
    kind: str
    label: str
    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Edge:
    """From one place to the next; ``modules`` are those that take packets this way without the kernel."""

    source: str
    target: str
    modules: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes and edges; every edge goes between two of the nodes."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]


class _Drawing:
    """Nodes and edges in the order they are added, each once."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.edges: dict[Edge, None] = {}

    def add(self, node: Node) -> str:
        self.nodes.setdefault(node.id, node)
        return node.id

    def join(self, source: str, target: str, modules: Iterable[str] = ()) -> None:
        self.edges.setdefault(Edge(source, target, tuple(modules)))


def draw(facts: Facts, accelerated: Mapping[int, tuple[str, ...]]) -> Graph:
    """Draw the ways between interfaces; from those that are in ``accelerated``, by index, with their modules."""
    drawing = _Drawing()
    chosen = [i for i in facts.interfaces if i.media != LOOPBACK]
    routers = {
        family: _router(drawing, facts, chosen, family) for family in _FAMILIES if _forwards(facts, family)
    }
    for at in chosen:
        if at.index in accelerated:
            _way_in(drawing, facts, at, routers, accelerated)
    return Graph(tuple(drawing.nodes.values()), tuple(drawing.edges))


def _forwards(facts: Facts, family: int) -> bool:
    if family == 4:
        return any(i.conf4 and i.conf4.forwarding for i in facts.interfaces)
    return facts.settings.forwarding6_all or any(
        i.conf6 and i.conf6.force_forwarding for i in facts.interfaces
    )


def _router(drawing: _Drawing, facts: Facts, chosen: Sequence[Interface], family: int) -> str:
    """The part of the graph that all interfaces share; returns the node at which packets enter it."""
    router = drawing.add(Node(f"router{family}", "router", f"IPv{family} routing", _rules(facts, family)))
    first = _hooks(drawing, facts, family, "prerouting", router)
    drawing.join(router, drawing.add(Node(_HOST, "host", "this host")))
    leaving = drawing.add(Node("leave", "postrouting", "send"))
    after = _hooks(drawing, facts, family, "postrouting", leaving)
    drawing.join(router, _hooks(drawing, facts, family, "forward", after))
    for at in chosen:
        if at.is_up and at.master_kind != "bridge":
            drawing.join(leaving, _out(drawing, facts, at))
    return first


def _hooks(drawing: _Drawing, facts: Facts, family: int, hook: str, then: str) -> str:
    """The chains at a hook, one after the other, and what comes after them; returns the first."""
    for chain in reversed(_chains_at(facts, family, hook)):
        node = drawing.add(_chain_node(facts, chain))
        drawing.join(node, then)
        then = node
    for table in facts.legacy:
        if table.family == family and hook in table.hooks and not table.does_nothing:
            name = f"iptables{'' if family == 4 else '6'} {table.name}"
            node = drawing.add(Node(f"legacy:{family}:{table.name}:{hook}", hook, name, (hook,)))
            drawing.join(node, then)
            then = node
    return then


def _chains_at(facts: Facts, family: int, hook: str) -> list[BaseChain]:
    found = [c for c in facts.ruleset.chains if c.family in _FAMILIES[family] and c.hook == hook]
    return sorted((c for c in found if has_effect(facts, c)), key=lambda c: c.priority)


def _chain_node(facts: Facts, chain: BaseChain) -> Node:
    rules = facts.ruleset.rules_of(chain)
    kind = (
        "ingress hook" if chain.hook == "ingress" else "postrouting" if chain.hook == "egress" else chain.hook
    )
    return Node(
        f"nft:{chain.family}:{chain.table}:{chain.name}",
        kind,
        f"nft {chain.family} {chain.table} {chain.name}",
        (f"{chain.hook} {chain.priority}, {rules.rules if rules else 0} rules, policy {chain.policy}",),
    )


def _way_in(
    drawing: _Drawing,
    facts: Facts,
    at: Interface,
    routers: Mapping[int, str],
    accelerated: Mapping[int, tuple[str, ...]],
) -> None:
    modules = accelerated[at.index]
    here = _entrance(drawing, facts, at)
    for chain in facts.ruleset.chains:
        if chain.hook == "ingress" and chain.is_at(at.name) and has_effect(facts, chain):
            node = drawing.add(_chain_node(facts, chain))
            drawing.join(here, node)
            here = node
    if at.master is not None:
        _to_master(drawing, facts, at, here, modules)
        return
    for family, router in routers.items():
        taking = [*(f"{module}{family}" for module in _ROUTING), *(["overlay"] if family == 4 else [])]
        drawing.join(here, router, (m for m in modules if m in taking))
    if not routers:
        drawing.join(here, drawing.add(Node(_HOST, "host", "this host")))


def _entrance(drawing: _Drawing, facts: Facts, at: Interface) -> str:
    """A bridge, and whatever else is the master of others, is entered from its ports."""
    kind = "bridge" if at.kind == "bridge" or any(i.master == at.index for i in facts.interfaces) else "in"
    label = f"bridge {at.name}" if at.kind == "bridge" else at.name
    return drawing.add(Node(f"{kind}:{at.name}", kind, label, tuple(_details(at))))


def _to_master(drawing: _Drawing, facts: Facts, at: Interface, here: str, modules: tuple[str, ...]) -> None:
    master = facts.interface(at.master) if at.master is not None else None
    if master is None:
        gone = Node(f"bridge:{at.master}", "bridge", f"interface {at.master}")  # behind the hooks of its port
        drawing.join(here, drawing.add(gone))
        return
    entrance = _entrance(drawing, facts, master)
    drawing.join(here, entrance, modules)
    for other in facts.interfaces:
        if other.master == at.master and other.port and other.port.state == "forwarding":
            drawing.join(entrance, _out(drawing, facts, other))


def _out(drawing: _Drawing, facts: Facts, at: Interface) -> str:
    queues = [
        q.kind for q in facts.qdiscs if q.interface == at.index and not q.is_ingress and q.kind != "noqueue"
    ]
    return drawing.add(Node(f"out:{at.name}", "out", at.name, tuple(queues)))


def _details(at: Interface) -> Iterable[str]:
    yield f"{at.kind or 'hardware'}, MTU {at.mtu}" + ("" if at.is_up else ", down")
    if at.port:
        yield at.port.state


def _rules(facts: Facts, family: int) -> tuple[str, ...]:
    count = sum(rule.family == family for rule in facts.rules)
    several = facts.routes.multipath4 if family == 4 else facts.routes.multipath6
    return (f"{count} policy rules", *(["routes of several ways"] if several else []))
