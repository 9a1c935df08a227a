# SPDX-License-Identifier: Apache-2.0
"""Pods on a node, and what can be accelerated between them: a bridge with a veth pair for each, a tunnel to others.

What stands in the way is said as in :mod:`pliant.fastpath.obstacles`. Only packets of established connections are
meant (and all, where connections are not tracked): chains that translate addresses do not see those, and whether the
other rules let them pass is :mod:`pliant.fastpath.ruleset_passage`'s to say.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from pliant.fastpath import obstacles, tracking
from pliant.fastpath.modules import Overlay
from pliant.fastpath.reasons import Reason
from pliant.fastpath.ruleset_passage import EVERYWHERE, Passage, Prefix, obstruction, prefixes
from pliant.observe.network import Facts, Interface

MODULE = "overlay"
_HOOKS = ("prerouting", "forward", "postrouting")


@dataclass(frozen=True, slots=True)
class Ground:
    """Where the pods of a node are: their bridge, and the tunnel to other nodes if there is one."""

    bridge: Interface
    tunnel: Interface | None


def ground_of(facts: Facts, at: Interface) -> Ground | None:
    """The ground that an interface is part of, as the port of a pod or as the tunnel; None when it is not of any."""
    tunnel = _tunnel(facts)
    if at.kind == "veth":
        bridge = obstacles.bridge_of(facts, at)
        return Ground(bridge, tunnel) if bridge is not None else None
    if tunnel is None or at.index != tunnel.index:
        return None
    bridge = _bridge(facts)
    return Ground(bridge, tunnel) if bridge is not None else None


def _tunnel(facts: Facts) -> Interface | None:
    """The VXLAN device that packets are routed to; the first, where there are several."""
    found = (i for i in facts.interfaces if i.kind == "vxlan" and i.master is None and i.is_up)
    return min(found, key=lambda i: i.index, default=None)


def _bridge(facts: Facts) -> Interface | None:
    """The bridge with the most veth pairs; the first, where there are several."""
    ports = Counter(i.master for i in facts.interfaces if i.kind == "veth" and i.master_kind == "bridge")
    found = (i for i in facts.interfaces if ports[i.index] and i.kind == "bridge")
    return min(found, key=lambda i: (-ports[i.index], i.index), default=None)


def overlay(
    facts: Facts, at: Interface, ground: Ground, own: frozenset[int], above: Iterable[Interface]
) -> Overlay | list[Reason]:
    """What can be accelerated of what comes in by an interface, or why nothing can."""
    found = list(_against(facts, at, ground, own, above))
    pods = _pods(facts, at, ground)
    if isinstance(pods, Reason):
        found.append(pods)
    if found or isinstance(pods, Reason):
        return found
    tracks = tracking.tracks(facts, 4) or any(t.family == 4 and t.name == "nat" for t in facts.legacy)
    return Overlay(
        bridge=ground.bridge.index,
        tunnel=ground.tunnel.index if ground.tunnel is not None and _routes(ground) else None,
        from_tunnel=at.kind == "vxlan",
        tracks_bridged=tracks and 4 in obstacles.calls_iptables(facts, ground.bridge),
        tracks_routed=tracks,
        pods=str(pods),
        updates_priority=facts.settings.ip_forward_update_priority,
        route_mtu=facts.routes.mtu4,
    )


def of_tcp(facts: Facts, found: Overlay) -> Iterator[Reason]:
    """What leaves TCP to the kernel, while UDP is accelerated."""
    if found.tracks_bridged or found.tracks_routed:
        for reason in tracking.of_tcp(facts, 4):
            yield replace(reason, module="overlay-tcp")


def _against(
    facts: Facts, at: Interface, ground: Ground, own: frozenset[int], above: Iterable[Interface]
) -> Iterator[Reason]:
    yield from obstacles.of_interface(facts, at, own, above, MODULE)
    bridge = ground.bridge
    for attached in bridge.xdp:
        sentence = f"XDP program {attached.program_id} is on {bridge.name} ({attached.mode})"
        yield Reason("xdp-taken", MODULE, sentence, f"ip -d link show dev {bridge.name}")
    if at.kind == "veth":
        yield from obstacles.of_port(at, bridge, MODULE)
        if at.link_namespace is None:
            show = f"ip -d link show dev {at.name}"
            yield Reason("no-pod", MODULE, f"the other end of {at.name} is in this network namespace", show)
    elif not _routes(ground):
        for device in (at, bridge):
            if not (device.conf4 and device.conf4.forwarding):
                sysctl = f"net.ipv4.conf.{device.name.replace('.', '/')}.forwarding"
                yield Reason("not-forwarding", MODULE, f"{sysctl} is 0", f"sysctl {sysctl}")
    yield from obstacles.of_bridge_rules(facts, MODULE)
    yield from obstacles.of_selectors(facts, 4, MODULE)
    yield from obstacles.ipsec_and_ipvs(facts, MODULE)
    yield from tracking.of_tracking(facts, 4, MODULE)
    for table in facts.legacy:
        if (
            table.family == 4
            and table.name != "nat"
            and not table.does_nothing
            and set(table.hooks) & set(_HOOKS)
        ):
            sentence = f"the table {table.name} of iptables-legacy has rules or a policy to drop"
            yield Reason("legacy-iptables", MODULE, sentence, f"iptables-legacy -t {table.name} -S")
    for link in facts.netfilter_links:
        if link.family == 4 and link.hook in _HOOKS:
            sentence = f"BPF program {link.program_id} is at the {link.hook} hook of some network namespace"
            yield Reason("netfilter-program", MODULE, sentence, f"bpftool link show id {link.link_id}")


def _routes(ground: Ground) -> bool:
    """Whether packets go on from the bridge to the tunnel, and back."""
    ends = (ground.bridge, ground.tunnel)
    return all(end is not None and end.conf4 is not None and end.conf4.forwarding for end in ends)


def _pods(facts: Facts, at: Interface, ground: Ground) -> Prefix | Reason:
    """The widest prefix within which rules let packets pass."""
    passages = list(_passages(facts, at, ground))
    chains = [c for c in facts.ruleset.chains if c.family in ("ip", "inet") and c.hook in _HOOKS]
    effective = [c for c in chains if c.type != "nat" and obstacles.has_effect(facts, c)]
    if not effective or not passages:
        return EVERYWHERE
    look = "nft list ruleset ip"
    if facts.nftables.generation != facts.ruleset.generation:
        return Reason("filtered", MODULE, "the rules of nftables have not been read", look)
    why: str | None = None
    for prefix in prefixes(facts.nftables, _addresses(facts, ground.bridge)):
        ways = (Passage(came_in, goes_out, prefix) for came_in, goes_out in passages)
        objections = [said for way in ways if (said := obstruction(facts.nftables, way))]
        if not objections:
            return prefix
        why = why or objections[0]
    return Reason("filtered", MODULE, f"rules may not let all packets between pods pass: {why}", look)


def _addresses(facts: Facts, bridge: Interface) -> Iterator[ipaddress.IPv4Address]:
    """Those of the bridge, by which its pods leave: they are within the pods' prefix."""
    for held in facts.addresses:
        if held.interface == bridge.index and held.family == 4:
            yield ipaddress.IPv4Address(held.address)


def _passages(facts: Facts, at: Interface, ground: Ground) -> Iterator[tuple[str, str]]:
    """Which interfaces rules see packets come from and go to."""
    bridge, tunnel = ground.bridge.name, ground.tunnel
    if at.kind == "vxlan":
        yield at.name, bridge
        return
    if 4 in obstacles.calls_iptables(facts, ground.bridge):
        yield bridge, bridge
    if tunnel is not None and _routes(ground):
        yield bridge, tunnel.name
