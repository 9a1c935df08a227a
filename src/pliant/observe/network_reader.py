# SPDX-License-Identifier: Apache-2.0
"""Reading the facts of a network namespace, all of them or those that may have changed."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable
from enum import Flag, auto
from pathlib import Path
from typing import Any

from pliant.kernel import sysctls
from pliant.kernel.errors import KernelError, NotSupported
from pliant.kernel.interface_programs import NetfilterLinks, tcx_programs
from pliant.kernel.namespaces import entered, namespace_number
from pliant.kernel.netdev import xdp_features
from pliant.kernel.netlink import NETLINK_NETFILTER, Netlink
from pliant.kernel.nftables import ruleset_through
from pliant.kernel.nftables_rules import Rules, rules_through
from pliant.kernel.rtnetlink import Rtnetlink, route_kinds
from pliant.kernel.xfrm import read_policies
from pliant.kernel.xtables import legacy_tables
from pliant.observe.network import Facts, Interface, Settings

MOST_SINGLE = 32
"""Interfaces that are asked about one by one, of more all are read; and those all of which are read often."""

_FIELDS = {
    "rp_filter_all": "net.ipv4.conf.all.rp_filter",
    "accept_local_all": "net.ipv4.conf.all.accept_local",
    "src_valid_mark_all": "net.ipv4.conf.all.src_valid_mark",
    "forwarding6_all": "net.ipv6.conf.all.forwarding",
    "fib_multipath_hash_policy": "net.ipv4.fib_multipath_hash_policy",
    "fib_multipath_hash_policy6": "net.ipv6.fib_multipath_hash_policy",
    "fib_multipath_use_neigh": "net.ipv4.fib_multipath_use_neigh",
    "ip_forward_use_pmtu": "net.ipv4.ip_forward_use_pmtu",
    "ip_forward_update_priority": "net.ipv4.ip_forward_update_priority",
    "bridge_nf_call_iptables": "net.bridge.bridge-nf-call-iptables",
    "bridge_nf_call_ip6tables": "net.bridge.bridge-nf-call-ip6tables",
    "bridge_nf_call_arptables": "net.bridge.bridge-nf-call-arptables",
    "conntrack_acct": "net.netfilter.nf_conntrack_acct",
    "conntrack_tcp_be_liberal": "net.netfilter.nf_conntrack_tcp_be_liberal",
    "conntrack_tcp_ignore_invalid_rst": "net.netfilter.nf_conntrack_tcp_ignore_invalid_rst",
}
SYSCTLS = tuple(_FIELDS.values())
"""The sysctls that are read."""

_COUNTS = frozenset({"rp_filter_all", "fib_multipath_hash_policy", "fib_multipath_hash_policy6"})
_IPVS_HEADING = 3  # lines
_ATTEMPTS = 5
_FORWARD_HOOKS = ("prerouting", "forward", "postrouting")


class Part(Flag):
    """Parts of the facts that are read together."""

    INTERFACES = auto()
    ADDRESSES = auto()
    RULES = auto()
    TRAFFIC_CONTROL = auto()
    SETTINGS = auto()
    ROUTES = auto()
    RULESET = auto()
    XFRM = auto()
    XDP_FEATURES = auto()
    UNTOLD = auto()
    """What the kernel sends no messages about: legacy iptables, tcx, netfilter links, IPVS."""


EVERYTHING = Part(sum(part.value for part in Part))


class Reader:
    """Reads one namespace, the calling thread's when none is given. Its methods raise :class:`KernelError`."""

    def __init__(self, netns: Path | int | None = None) -> None:
        self.netns = netns
        self._namespace = namespace_number(netns)
        self._rtnetlink = Rtnetlink(netns)
        self._netfilter: Netlink | None = None
        self._netfilter_links = NetfilterLinks()

    def close(self) -> None:
        """Close the sockets."""
        self._rtnetlink.close()
        self._forget_netfilter()

    def _forget_netfilter(self) -> None:
        if self._netfilter is not None:
            self._netfilter.close()
            self._netfilter = None

    def read(self, old: Facts, parts: Part, interfaces: Iterable[int] = ()) -> Facts:
        """The facts with these parts, and these interfaces, as they are now."""
        new: dict[str, Any] = {"namespace": self._namespace}
        single = set(interfaces)
        if Part.INTERFACES in parts or len(single) > MOST_SINGLE:
            new["interfaces"] = self._rtnetlink.interfaces()
        elif single:
            new["interfaces"] = self._with(old.interfaces, single)
        there = {i.index for i in new.get("interfaces", old.interfaces)}
        if Part.ADDRESSES in parts:
            new["addresses"] = self._rtnetlink.addresses()
        if Part.RULES in parts:
            new["rules"] = self._rtnetlink.rules()
        if Part.TRAFFIC_CONTROL in parts:
            new |= self._traffic_control()
        if Part.ROUTES in parts:
            new["routes"] = route_kinds(self.netns)
        if Part.RULESET in parts:
            new |= self._ruleset()
        if Part.XFRM in parts:
            new["xfrm"] = read_policies(self.netns)
        if Part.XDP_FEATURES in parts:
            new["xdp_features"] = xdp_features(self.netns)
        if parts & (Part.SETTINGS | Part.UNTOLD):
            new |= self._from_inside(parts, there)
        found = dataclasses.replace(old, **new)
        return _without_the_gone(found, there) if "interfaces" in new else found

    def _with(self, old: tuple[Interface, ...], changed: set[int]) -> tuple[Interface, ...]:
        found = {i.index: i for i in old if i.index not in changed}
        for index in changed:
            now = self._rtnetlink.interface(index)
            if now is not None:
                found[index] = now
        return tuple(found[index] for index in sorted(found))

    def _traffic_control(self) -> dict[str, Any]:
        qdiscs = self._rtnetlink.qdiscs()
        hooked = sorted({q.interface for q in qdiscs if q.is_ingress})
        return {"qdiscs": qdiscs, "filters": tuple(f for i in hooked for f in self._rtnetlink.filters(i))}

    def _ruleset(self) -> dict[str, Any]:
        """Where nftables hooks in, and its rules where that is on the way of packets: of one generation."""
        if self._netfilter is None:
            self._netfilter = Netlink(NETLINK_NETFILTER, self.netns)
        try:
            return _ruleset(self._netfilter)
        except KernelError:  # there may be answers in it that nobody has read
            self._forget_netfilter()
            raise

    def _from_inside(self, parts: Part, there: set[int]) -> dict[str, Any]:
        """What can only be read by a thread of the namespace."""
        found: dict[str, Any] = {}
        with contextlib.ExitStack() as stack:
            if self.netns is not None:
                stack.enter_context(entered(self.netns))
            if Part.SETTINGS in parts:
                found["settings"] = _settings()
            if Part.UNTOLD in parts:
                found["legacy"] = legacy_tables()
                found["tcx"] = tuple(program for index in sorted(there) for program in tcx_programs(index))
                found["netfilter_links"], changed = self._netfilter_links.read()
                # Neither XDP attached by a link is told, nor that IPv6 is switched off where it had no address.
                if Part.INTERFACES not in parts and (changed or len(there) <= MOST_SINGLE):
                    found["interfaces"] = self._rtnetlink.interfaces()
                found["ipvs_services"] = _ipvs_services()
        return found


def read_facts(netns: Path | int | None = None) -> Facts:
    """Read everything once. Raises :class:`KernelError`."""
    reader = Reader(netns)
    try:
        return reader.read(Facts(), EVERYTHING)
    finally:
        reader.close()


def _without_the_gone(facts: Facts, there: set[int]) -> Facts:
    return dataclasses.replace(
        facts,
        addresses=tuple(a for a in facts.addresses if a.interface in there),
        qdiscs=tuple(q for q in facts.qdiscs if q.interface in there),
        filters=tuple(f for f in facts.filters if f.interface in there),
        tcx=tuple(p for p in facts.tcx if p.interface in there),
    )


def _ruleset(netlink: Netlink) -> dict[str, Any]:
    ruleset, rules = ruleset_through(netlink), Rules(-1)
    for _ in range(_ATTEMPTS):
        ways = [c for c in ruleset.chains if c.hook in _FORWARD_HOOKS]
        if not any(c.policy != "accept" or c.counts or ruleset.rules_of(c) for c in ways):
            return {"ruleset": ruleset, "nftables": Rules(ruleset.generation, is_read=False)}
        rules = rules_through(netlink)
        if rules.generation == ruleset.generation:
            break
        ruleset = ruleset_through(netlink)
    return {"ruleset": ruleset, "nftables": rules}


def _settings() -> Settings:
    values: dict[str, Any] = {}
    for field, name in _FIELDS.items():
        with contextlib.suppress(NotSupported):
            number = int(sysctls.read(name).split()[0])
            values[field] = number if field in _COUNTS else number != 0
    return Settings(**values)


def _ipvs_services() -> int:
    try:
        lines = Path("/proc/thread-self/net/ip_vs").read_text().splitlines()[_IPVS_HEADING:]
    except OSError:
        return 0
    return sum(not line.lstrip().startswith("->") for line in lines)
