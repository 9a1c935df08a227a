# SPDX-License-Identifier: Apache-2.0
"""What stands in the way of acceleration, each kind of fact by a function of its own.

They say why *not*; what none of them objects to is accelerated. When in doubt they object.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pliant.fastpath.modules import Family
from pliant.fastpath.reasons import Reason
from pliant.fastpath.ruleset_compile import accepts_something, compiled, said_of, why_left
from pliant.fastpath.tracking import of_tracking, why_tracked
from pliant.kernel.rtnetlink_links import ETHERNET
from pliant.observe.network import BaseChain, Facts, Interface, Rule

_IP_FAMILIES = {4: ("ip", "inet"), 6: ("ip6", "inet")}
_FORWARD_HOOKS = ("prerouting", "forward", "postrouting")
_ABOVE = ("vlan", "macvlan", "macvtap", "ipvlan", "ipvtap", "macsec")
_PLAIN_QDISCS = frozenset({"noqueue", "noop", "pfifo_fast", "pfifo", "bfifo", "fq_codel", "fq", "mq"})
_HASH_POLICIES = {0: "L3", 1: "L4"}  # those told apart by addresses, or by addresses, protocol and ports


def has_effect(facts: Facts, chain: BaseChain) -> bool:
    """Whether it may matter that a packet has passed a chain: for its rules, or a policy that drops or counts."""
    counts = chain.counts and chain.type != "nat"  # of connections the first packets, which are the kernel's
    return chain.policy != "accept" or counts or facts.ruleset.rules_of(chain) is not None


def bridge_of(facts: Facts, at: Interface) -> Interface | None:
    """The bridge that an interface is a port of; None when it is none, or the bridge has just gone."""
    return facts.interface(at.master) if at.master is not None and at.master_kind == "bridge" else None


def stacked(facts: Facts) -> dict[int, list[Interface]]:
    """Devices that take some of what an interface below them receives, by the index of that interface."""
    found: dict[int, list[Interface]] = {}
    for at in facts.interfaces:
        # A macvlan takes what is sent to its own address, and only that, but for two modes.
        takes = at.kind not in ("macvlan", "macvtap") or at.macvlan_mode in ("passthru", "source")
        if at.kind in _ABOVE and takes and at.link is not None and at.link_namespace is None:
            found.setdefault(at.link, []).append(at)
    return found


def of_interface(
    facts: Facts, at: Interface, own: frozenset[int], above: Iterable[Interface], module: str
) -> Iterator[Reason]:
    """What keeps an interface from any fast path.

    ``own`` are ids of programs that are ours, ``above`` what is :func:`stacked` on the interface.
    """

    def because(code: str, sentence: str, look: str) -> Reason:
        return Reason(code, module, sentence, look)

    show = f"ip -d link show dev {at.name}"
    if at.media != ETHERNET or at.mac is None:
        yield because("not-ethernet", f"{at.name} does not carry Ethernet frames", show)
    if not at.is_up:
        yield because("down", f"{at.name} is down", show)
    for attached in at.xdp:
        if attached.program_id not in own:
            program = f"bpftool prog show id {attached.program_id}"
            yield because(
                "xdp-taken",
                f"XDP program {attached.program_id} of somebody else is on {at.name} ({attached.mode})",
                program,
            )
    yield from _at_tc(facts, at, own, "ingress", "tc-ingress", module)
    for chain in _device_chains(facts, at, "ingress"):
        yield because("netdev-chain", f"{_spoken(chain)} is at the ingress of {at.name}", _list(chain))
    if at.master is not None and bridge_of(facts, at) is None:
        kind = at.master_kind or "device"
        yield because("in-bond", f"{at.name} is part of the {kind} {_name(facts, at.master)}", show)
    for device in above:
        yield because(
            "below",
            f"the {device.kind} {device.name} on top of {at.name} takes some of what comes in",
            f"ip -d link show dev {device.name}",
        )


def of_sending(facts: Facts, at: Interface, own: frozenset[int]) -> Iterator[Reason]:
    """What keeps others from redirecting packets to an interface."""
    if not at.is_up:
        yield Reason("down", "send", f"{at.name} is down", f"ip link show dev {at.name}")
    features = facts.xdp_of(at.index)
    if features is not None and not features.takes_redirected:
        other = "; its other end would need GRO or an XDP program" if at.kind == "veth" else ""
        sentence = f"{at.name} takes no packets that XDP redirects{other}"
        yield Reason(
            "no-xdp-transmit", "send", sentence, f"ethtool -k {at.name}; bpftool net show dev {at.name}"
        )
    yield from _at_tc(facts, at, own, "egress", "tc-egress", "send")
    for chain in _device_chains(facts, at, "egress"):
        sentence = f"{_spoken(chain)} is at the egress of {at.name}"
        yield Reason("netdev-egress-chain", "send", sentence, _list(chain))
    for qdisc in facts.qdiscs:
        if qdisc.interface == at.index and not qdisc.is_ingress and qdisc.kind not in _PLAIN_QDISCS:
            sentence = f"{at.name} has the queueing discipline {qdisc.kind}"
            yield Reason("qdisc", "send", sentence, f"tc qdisc show dev {at.name}")


def of_routing(facts: Facts, at: Interface, family: Family, *, counts: bool = False) -> Iterator[Reason]:
    """What keeps routing from being done sooner for packets of a family that come in by an interface.

    ``counts``: the fast path is to count for rules of nftables that do.
    """
    module = f"route{family}"
    if at.kind == "bridge":
        sentence = f"{at.name} is a bridge: what comes to it comes in at its ports"
        yield Reason("bridge-device", module, sentence, f"ip link show master {at.name}")
    yield from _forwarding(facts, at, family)
    yield from _filtering(facts, family, module, counts=counts)
    yield from others_filtering(facts, family, module)
    yield from of_tracking(facts, family, module)
    yield from ipsec_and_ipvs(facts, module)
    yield from of_selectors(facts, family, module)
    policy, several = hash_policy(facts, family)
    if several and policy not in _HASH_POLICIES:
        name = f"net.ipv{family}.fib_multipath_hash_policy"
        sentence = f"there are routes of several ways, and {name} is {policy}"
        yield Reason("multipath-hash", module, sentence, f"sysctl {name}")
    if family == 6 and facts.routes.shares_mtu6:
        # It keeps one route a CPU with each object, that of the packet it saw first (rt6_get_pcpu_route()).
        sentence = (
            "an IPv6 route with an MTU goes by a next hop object, and whether the kernel applies that MTU to it "
            "or to others by the same object depends on what packets it has seen"
        )
        yield Reason("shared-mtu", module, sentence, "ip -6 route show table all | grep nhid")


def of_selectors(facts: Facts, family: Family, module: str) -> Iterator[Reason]:
    """Policy rules that choose by what the kernel's lookup is not told, or a flow's key does not have."""
    version = "" if family == 4 else "-6 "
    for rule in facts.rules:
        if rule.family == family and (what := _unknown_selector(rule)):
            sentence = f"the policy rule of priority {rule.priority} chooses by {what}"
            yield Reason("rule", module, sentence, f"ip {version}rule show")


def hash_policy(facts: Facts, family: Family) -> tuple[int, bool]:
    """By what a way is chosen among several (fib_multipath_hash_policy), and whether there may be such routes."""
    if family == 4:
        return facts.settings.fib_multipath_hash_policy, facts.routes.multipath4
    return facts.settings.fib_multipath_hash_policy6, facts.routes.multipath6


def filtering(facts: Facts, family: Family, module: str, code: str) -> Iterator[Reason]:
    """Who has a say in what is forwarded: nftables, legacy iptables, programs, and the tracking of connections."""
    for chain in facts.ruleset.chains:
        if chain.family in _IP_FAMILIES[family] and chain.hook in _FORWARD_HOOKS and has_effect(facts, chain):
            yield Reason(code, module, f"{_spoken(chain)} is in the way of what is forwarded", _list(chain))
    yield from others_filtering(facts, family, module)
    yield from why_tracked(facts, _IP_FAMILIES[family], module)


def _filtering(facts: Facts, family: Family, module: str, *, counts: bool) -> Iterator[Reason]:
    """Rules of nftables that accept nothing by themselves, or that are not known."""
    chains = [
        c for c in facts.ruleset.chains if c.family in _IP_FAMILIES[family] and c.hook in _FORWARD_HOOKS
    ]
    effective = [c for c in chains if c.type != "nat" and has_effect(facts, c)]
    if not effective:
        return
    if facts.nftables.generation != facts.ruleset.generation:
        for chain in effective:
            sentence = f"{_spoken(chain)} is in the way of what is forwarded, and has not been read"
            yield Reason("filtered", module, sentence, _list(chain))
        return
    rows = compiled(facts.nftables, counts=counts)
    if not accepts_something(rows, family):
        left = why_left(rows, family)
        because = f": {said_of(left[0])}" if left else ""
        sentence = f"nftables leaves nothing of what is forwarded to the fast path{because}"
        yield Reason("filtered", module, sentence, _list(effective[0]))


def others_filtering(facts: Facts, family: Family, module: str) -> Iterator[Reason]:
    """Who else has a say in what is forwarded: legacy iptables, and programs."""
    command = "iptables-legacy" if family == 4 else "ip6tables-legacy"
    for table in facts.legacy:
        if table.family == family and not table.does_nothing and set(table.hooks) & set(_FORWARD_HOOKS):
            sentence = f"the table {table.name} of {command} has rules or a policy to drop"
            yield Reason("legacy-iptables", module, sentence, f"{command} -t {table.name} -S")
    for link in facts.netfilter_links:
        if link.family == family and link.hook in _FORWARD_HOOKS:
            sentence = f"BPF program {link.program_id} is at the {link.hook} hook of some network namespace"
            yield Reason("netfilter-program", module, sentence, f"bpftool link show id {link.link_id}")


def of_bridging(facts: Facts, at: Interface, bridge: Interface) -> Iterator[Reason]:
    """What keeps frames that come in by a port from being bridged sooner."""
    yield from of_port(at, bridge, "bridge")
    yield from of_bridge_rules(facts, "bridge")
    for family in calls_iptables(facts, bridge):
        yield from filtering(facts, family, "bridge", "bridge-netfilter")


def of_port(at: Interface, bridge: Interface, module: str) -> Iterator[Reason]:
    """What a bridge, or the port of it that frames come in by, does with them beyond the plain."""
    port, options = at.port, bridge.bridge
    show = f"bridge -d link show dev {at.name}"
    if not bridge.is_up:
        yield Reason("bridge-down", module, f"{bridge.name} is down", f"ip link show dev {bridge.name}")
    if options is None or options.vlan_filtering:
        sentence = f"the bridge {bridge.name} filters VLANs"
        yield Reason("vlan-filtering", module, sentence, f"ip -d link show dev {bridge.name}")
    if port is None or port.state != "forwarding":
        state = port.state if port else "unknown"
        yield Reason("port-state", module, f"{at.name} is in the state {state}, not forwarding", show)
    if port is not None:
        named = {
            "locked": port.locked, "vlan_tunnel": port.vlan_tunnel, "backup_port": port.backup_port is not None
        }  # fmt: skip
        for option in (name for name, is_set in named.items() if is_set):
            yield Reason("port-option", module, f"the option {option} of {at.name} is set", show)


def of_bridge_rules(facts: Facts, module: str) -> Iterator[Reason]:
    """Rules of nftables that see what is bridged."""
    for chain in facts.ruleset.chains:
        if chain.family == "bridge" and chain.hook in _FORWARD_HOOKS and has_effect(facts, chain):
            yield Reason("bridge-filtered", module, f"{_spoken(chain)} sees what is bridged", _list(chain))
    yield from why_tracked(facts, ("bridge",), module)


def calls_iptables(facts: Facts, bridge: Interface) -> Iterator[Family]:
    """The families of which a bridge hands packets to iptables and nftables, by its own setting or the sysctls."""
    options = bridge.bridge
    if facts.settings.bridge_nf_call_iptables or (options and options.calls_iptables):
        yield 4
    if facts.settings.bridge_nf_call_ip6tables or (options and options.calls_ip6tables):
        yield 6


def _forwarding(facts: Facts, at: Interface, family: Family) -> Iterator[Reason]:
    name = at.name.replace(".", "/")
    if family == 4 and not (at.conf4 and at.conf4.forwarding):
        sysctl = f"net.ipv4.conf.{name}.forwarding"
        yield Reason("not-forwarding", "route4", f"{sysctl} is 0", f"sysctl {sysctl}")
    if family == 6:
        # The kernel asks the setting of all interfaces, bpf_fib_lookup that of the interface: both must be on.
        sysctl = f"net.ipv6.conf.{name}.forwarding"
        if not facts.settings.forwarding6_all and not (at.conf6 and at.conf6.force_forwarding):
            yield Reason(
                "not-forwarding",
                "route6",
                "net.ipv6.conf.all.forwarding is 0",
                "sysctl net.ipv6.conf.all.forwarding",
            )
        elif not (at.conf6 and at.conf6.forwarding) or at.conf6.disable_ipv6:
            yield Reason(
                "not-forwarding", "route6", f"{sysctl} is 0, or IPv6 is disabled", f"sysctl {sysctl}"
            )


def ipsec_and_ipvs(facts: Facts, module: str) -> Iterator[Reason]:
    """Who else takes packets out of their way."""
    if facts.xfrm.apply:
        yield Reason("ipsec", module, "there are IPsec policies", "ip xfrm policy; ip xfrm policy getdefault")
    if facts.ipvs_services:
        yield Reason("ipvs", module, f"IPVS has {facts.ipvs_services} services", "cat /proc/net/ip_vs")


def _unknown_selector(rule: Rule) -> str:
    """What a rule chooses by that neither the kernel's lookup is told nor a flow's key has.

    Of IPv6 the lookup for programs takes a route that a rule finds even where the rule then passes it over: what does
    that (fib6_rule_suppress()) looks at an answer that only the kernel's own lookup has.
    """
    if rule.has_others:
        return "something that this version does not know"
    if rule.l3mdev:
        return "the VRF (l3mdev)"
    if rule.tunnel is not None:
        return "the id of a tunnel"
    if rule.users is not None:
        return "the user of a socket"
    if rule.family == 6 and (rule.suppress_prefix_length is not None or rule.suppress_group is not None):
        return "what the route is that it finds (suppress_prefixlength, suppress_ifgroup)"
    return ""


def _at_tc(
    facts: Facts, at: Interface, own: frozenset[int], direction: str, code: str, module: str
) -> Iterator[Reason]:
    for program in facts.tcx:
        if program.interface == at.index and program.direction == direction and program.program_id not in own:
            sentence = f"BPF program {program.program_id} is at the tcx {direction} of {at.name}"
            yield Reason(code, module, sentence, f"bpftool net show dev {at.name}")
    for found in facts.filters:
        if found.interface == at.index and found.direction == direction and found.program_id not in own:
            sentence = f"a {found.kind} filter is at the tc {direction} of {at.name}"
            yield Reason(code, module, sentence, f"tc filter show dev {at.name} {direction}")


def _device_chains(facts: Facts, at: Interface, hook: str) -> Iterator[BaseChain]:
    for chain in facts.ruleset.chains:
        if chain.hook == hook and chain.is_at(at.name) and has_effect(facts, chain):
            yield chain


def _spoken(chain: BaseChain) -> str:
    return f"the nftables chain {chain.family} {chain.table} {chain.name} ({chain.hook}, priority {chain.priority})"


def _list(chain: BaseChain) -> str:
    return f"nft list chain {chain.family} {chain.table} {chain.name}"


def _name(facts: Facts, index: int) -> str:
    found = facts.interface(index)
    return found.name if found else f"of index {index}"
