# SPDX-License-Identifier: Apache-2.0
"""Modules of the fast path with the constants that make them right for one interface."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pliant.kernel.rtnetlink import NO_MTU

Family = Literal[4, 6]


@dataclass(frozen=True, slots=True)
class Route:
    """Routing of IPv4 (``route4``) or IPv6 (``route6``) packets that come in by an interface.

    ``mac`` is what packets for this router are addressed to. ``reverse_path`` is 0 for no check of the way back, 1
    strict, 2 loose. ``keys`` is what tells flows apart beside both addresses and the traffic class: ``protocol``,
    ``ports``, ``flow_label``. ``errors_by_content``: ICMP errors take the way of the packet they carry a part of
    (multipath), which the fast path leaves to the kernel, as it does packets longer than ``route_mtu``, the smallest
    MTU that a route has as a metric.
    """

    family: Family
    mac: str
    reverse_path: int = 0
    keys: tuple[str, ...] = ()
    errors_by_content: bool = False
    route_mtu: int = NO_MTU

    @property
    def name(self) -> str:
        """``route4`` or ``route6``."""
        return f"route{self.family}"


@dataclass(frozen=True, slots=True)
class Bridge:
    """Bridging of frames that come in by a port.

    ``bridge`` is the index of the bridge, ``mac`` its own address. ``ageing_time`` is in hundredths of a second.
    ``checks_ip4``, ``checks_ip6``: br_netfilter looks at headers, so that malformed packets are the kernel's to drop.
    """

    bridge: int
    mac: str
    ageing_time: int
    learning: bool = True
    hairpin: bool = False
    isolated: bool = False
    checks_ip4: bool = False
    checks_ip6: bool = False

    @property
    def name(self) -> str:
        """``bridge``."""
        return "bridge"


@dataclass(frozen=True, slots=True)
class Filter:
    """nftables' rules for packets of an IP version that are forwarded, asked once a flow.

    ``rows`` is what they have become; ``left`` has a sentence for each rule at which packets are left to the kernel
    because it is not understood, or has to see them. ``tracks``: they are about connections. ``counts``: the fast path
    counts for those that do.
    """

    family: Family
    rows: int
    left: tuple[str, ...] = ()
    tracks: bool = False
    counts: bool = False

    @property
    def name(self) -> str:
        """``filter4`` or ``filter6``."""
        return f"filter{self.family}"


@dataclass(frozen=True, slots=True)
class Track:
    """Established connections as conntrack has them; all other packets of an IP version are the kernel's.

    ``tcp``: of TCP as well, since conntrack does not check its windows.
    """

    family: Family
    tcp: bool = False

    @property
    def name(self) -> str:
        """``track4`` or ``track6``."""
        return f"track{self.family}"


@dataclass(frozen=True, slots=True)
class Nat:
    """Addresses and ports of established connections translated as conntrack has it."""

    family: Family

    @property
    def name(self) -> str:
        """``nat4`` or ``nat6``."""
        return f"nat{self.family}"


@dataclass(frozen=True, slots=True)
class Overlay:
    """Pod to pod (IPv4, TCP and UDP) for what comes from a pod, or, ``from_tunnel``, from another node.

    ``bridge`` is the index of the bridge that the pods are ports of, ``tunnel`` that of the device to other nodes
    (None: there is none). ``tracks_bridged``, ``tracks_routed``: connections are tracked, and only packets of
    established ones are accelerated. ``pods`` is what both addresses have to be in for the rules to let them pass.
    """

    bridge: int
    tunnel: int | None
    from_tunnel: bool = False
    tracks_bridged: bool = False
    tracks_routed: bool = False
    pods: str = "0.0.0.0/0"
    updates_priority: bool = True
    route_mtu: int = NO_MTU

    @property
    def name(self) -> str:
        """``overlay``."""
        return "overlay"


Module = Route | Bridge | Filter | Track | Nat | Overlay
