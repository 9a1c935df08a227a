# SPDX-License-Identifier: Apache-2.0
"""Why something is not accelerated: a code for programs, a sentence for people, and where to see the fact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

CODES: Mapping[str, str] = MappingProxyType(
    {
        "down": "The interface is down.",
        "not-ethernet": "The interface does not carry Ethernet frames.",
        "xdp-taken": "A program of somebody else is at the interface's XDP hook.",
        "tc-ingress": "Programs or filters at the interface's tc ingress hook would not see the packets.",
        "netdev-chain": "A chain of nftables at the interface's ingress would not see the packets.",
        "in-bond": "The interface is part of a bond, a team, a VRF or another device, which takes what it receives.",
        "below": "A device on top of the interface (macvlan, ipvlan, VLAN, macsec) takes some of what it receives.",
        "bridge-device": "What comes to a bridge comes in at its ports, and is routed by the kernel.",
        "not-forwarding": "The kernel does not forward packets that come in there.",
        "filtered": "nftables accepts nothing of what is forwarded without having to see it, as far as can be told.",
        "left-by-rule": "A rule of nftables has to see the packets that come to it, or is not understood.",
        "legacy-iptables": "Rules of legacy iptables have a say in what is forwarded.",
        "netfilter-program": "A BPF program at a netfilter hook may have a say in what is forwarded.",
        "conntrack": "The kernel tracks connections in a way that the fast path cannot follow.",
        "conntrack-accounting": "The kernel counts the packets of each connection, and would not see all of them.",
        "conntrack-windows": "The kernel checks the windows of TCP, and has to see every packet for that.",
        "ipsec": "IPsec policies apply to what is forwarded.",
        "ipvs": "IPVS balances loads and takes packets out of their way.",
        "rule": "A policy rule chooses by something that the fast path does not tell apart.",
        "multipath-hash": "The way of a flow is chosen by more than the fast path tells apart.",
        "shared-mtu": "IPv6 routes of different MTUs may share a next hop object: the kernel applies either to both.",
        "vlan-filtering": "The bridge filters VLANs.",
        "bridge-down": "The bridge is down.",
        "port-state": "The bridge port does not forward.",
        "port-option": "The bridge port has an option that the fast path does not know.",
        "bridge-filtered": "A chain of nftables of the bridge family has a say in what is bridged.",
        "bridge-netfilter": "The bridge hands what it forwards to iptables or nftables (br_netfilter), with rules.",
        "no-pod": "The interface is no veth pair into another network namespace.",
        "tc-egress": "Programs or filters at the interface's tc egress hook would not see the packets.",
        "netdev-egress-chain": "A chain of nftables at the interface's egress would not see the packets.",
        "no-xdp-transmit": "The interface takes no packets from XDP; a veth does when its other end has GRO or XDP.",
        "no-native-xdp": "The interface, or its driver, cannot run XDP programs itself.",
        "no-such-mode": "There are no programs of this build for the way that is asked for.",
        "large-mtu": "Frames may be larger than native XDP takes.",
        "queues": "A veth has fewer receive queues than its other end sends by.",
        "offload-lost": "Native XDP on a veth switches off segmentation offload at its other end, which costs bulk "
        "traffic more than is won: it has to be asked for by name.",
        "not-asked-for": "The policy does not ask for the module.",
        "refused": "The kernel has refused the program.",
        "kernel-lacks": "This kernel has not got what the program needs.",
        "qdisc": "The interface shapes or orders what it sends, which redirected packets would not take part in.",
    }
)
"""Every code there is, with what it means."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why an interface lacks a module (``module``).

    Or ``send``: why nothing is redirected to it; or a mode: why it does not run so. ``sentence`` names the fact;
    ``look`` is a command that shows it.
    """

    code: str
    module: str
    sentence: str
    look: str

    def __post_init__(self) -> None:
        if self.code not in CODES:
            raise ValueError(f"{self.code} is not the code of a reason")
