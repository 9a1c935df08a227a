# SPDX-License-Identifier: Apache-2.0
"""The network configuration of one namespace as facts: all that decides what becomes of a packet that comes in.

Routes and neighbours are not among them: the fast path asks the kernel for those, packet by packet or flow by flow.
"""

from __future__ import annotations

from dataclasses import dataclass

from pliant.kernel.interface_programs import NetfilterLink, TcxProgram
from pliant.kernel.netdev import XdpFeatures
from pliant.kernel.nftables import BaseChain, RuleCount, Ruleset, TrackingObject
from pliant.kernel.nftables_rules import Rules
from pliant.kernel.rtnetlink import RouteKinds
from pliant.kernel.rtnetlink_links import (
    BridgeOptions,
    BridgePort,
    Conf4,
    Conf6,
    Interface,
    VxlanOptions,
    XdpAttachment,
)
from pliant.kernel.rtnetlink_rules import Address, Qdisc, Rule, TcFilter
from pliant.kernel.xfrm import XfrmPolicies
from pliant.kernel.xtables import LegacyTable

__all__ = [
    "Address",
    "BaseChain",
    "BridgeOptions",
    "BridgePort",
    "Conf4",
    "Conf6",
    "Facts",
    "Interface",
    "LegacyTable",
    "NetfilterLink",
    "Qdisc",
    "RouteKinds",
    "Rule",
    "RuleCount",
    "Ruleset",
    "Settings",
    "TcFilter",
    "TcxProgram",
    "TrackingObject",
    "VxlanOptions",
    "XdpAttachment",
    "XdpFeatures",
    "XfrmPolicies",
]


_NO_ROUTES, _NO_RULES, _NO_POLICIES = RouteKinds(), Ruleset(), XfrmPolicies()
_NO_EXPRESSIONS = Rules()


@dataclass(frozen=True, slots=True)
class Settings:
    """Sysctls that are not of one interface; the fields of ``conf.all`` count for every interface.

    Names are those of the sysctls under net.ipv4, net.ipv6 (``6``), net.bridge and net.netfilter. Those
    this kernel lacks have the value that means what a kernel without them does.
    """

    rp_filter_all: int = 0
    accept_local_all: bool = False
    src_valid_mark_all: bool = False
    forwarding6_all: bool = False
    fib_multipath_hash_policy: int = 0
    fib_multipath_hash_policy6: int = 0
    fib_multipath_use_neigh: bool = False
    ip_forward_use_pmtu: bool = False
    ip_forward_update_priority: bool = True
    bridge_nf_call_iptables: bool = False
    bridge_nf_call_ip6tables: bool = False
    bridge_nf_call_arptables: bool = False
    conntrack_acct: bool = False
    conntrack_tcp_be_liberal: bool = False
    conntrack_tcp_ignore_invalid_rst: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """One namespace's configuration. Two of them are equal when nothing that matters has changed in between.

    ``ruleset`` says where nftables hooks in; ``nftables`` has its rules, as far as they may be about packets that are
    forwarded, and is of the same generation if it could be read. ``namespace`` is the namespace's number
    (``net:[NUMBER]`` in /proc), 0 where it is none of this host's.
    """

    interfaces: tuple[Interface, ...] = ()
    addresses: tuple[Address, ...] = ()
    rules: tuple[Rule, ...] = ()
    qdiscs: tuple[Qdisc, ...] = ()
    filters: tuple[TcFilter, ...] = ()
    tcx: tuple[TcxProgram, ...] = ()
    settings: Settings = Settings()
    routes: RouteKinds = _NO_ROUTES
    ruleset: Ruleset = _NO_RULES
    nftables: Rules = _NO_EXPRESSIONS
    legacy: tuple[LegacyTable, ...] = ()
    netfilter_links: tuple[NetfilterLink, ...] = ()
    xfrm: XfrmPolicies = _NO_POLICIES
    ipvs_services: int = 0
    xdp_features: tuple[XdpFeatures, ...] | None = None
    namespace: int = 0

    def interface(self, which: int | str) -> Interface | None:
        """The interface of an index or a name; None when there is none."""
        return next((i for i in self.interfaces if which in (i.index, i.name)), None)

    def xdp_of(self, index: int) -> XdpFeatures | None:
        """What an interface can do for XDP; None where the kernel cannot say (before Linux 6.3)."""
        return next((f for f in self.xdp_features or () if f.interface == index), None)

    def reverse_path(self, interface: Interface) -> int:
        """How the way back is checked for packets that come in: 0 not, 1 strictly, 2 loosely (RFC 3704)."""
        own = interface.conf4.rp_filter if interface.conf4 else 0
        return max(own, self.settings.rp_filter_all)
