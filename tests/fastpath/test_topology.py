# SPDX-License-Identifier: Apache-2.0
"""Topology as a pure function: what is never accelerated, what always says why, and rows of what is decided."""

from __future__ import annotations

import json
import shutil
import subprocess
import xml.etree.ElementTree as xml
from dataclasses import replace

import pytest
from hypothesis import given

from pliant.fastpath import picture
from pliant.fastpath.graph import KINDS
from pliant.fastpath.modules import Bridge, Route, Track
from pliant.fastpath.pods import ground_of
from pliant.fastpath.reasons import CODES
from pliant.fastpath.topology import Port, Topology, topology
from pliant.kernel.rtnetlink_links import LOOPBACK
from pliant.observe.network import (
    BaseChain,
    BridgeOptions,
    BridgePort,
    Conf4,
    Conf6,
    Facts,
    Interface,
    LegacyTable,
    NetfilterLink,
    Qdisc,
    RouteKinds,
    Rule,
    RuleCount,
    Ruleset,
    Settings,
    TcFilter,
    TcxProgram,
    TrackingObject,
    XdpAttachment,
    XdpFeatures,
    XfrmPolicies,
)
from tests.fastpath.configurations import BRIDGE, OWN, facts, unhurried

DROPS = BaseChain("inet", "t", "a", "forward", 0, "filter", "drop")


LIBERAL = Settings(forwarding6_all=True, conntrack_tcp_be_liberal=True, conntrack_tcp_ignore_invalid_rst=True)
MASQUERADE = Ruleset(
    1,
    (BaseChain("ip", "t", "out", "postrouting", 100, "nat", "accept"),),
    (RuleCount("ip", "t", "out", 1, ("masq",)),),
)


def port_of(found: Facts, name: str) -> Port:
    port = topology(found, own=[OWN]).port(name)
    assert port is not None
    return port


@unhurried
@given(facts())
def test_every_interface_has_each_module_that_fits_or_a_reason_against_it(found: Facts) -> None:
    whole = topology(found, own=[OWN])
    ports = {port.index: port for port in whole.ports}
    assert set(ports) == {i.index for i in found.interfaces if i.media != LOOPBACK}
    for at in found.interfaces:
        if at.index not in ports:
            continue
        port = ports[at.index]
        in_bridge = at.master == BRIDGE and found.interface(BRIDGE) is not None
        has, lacks = {m.name for m in port.modules}, {r.module for r in port.reasons}
        first = {"bridge"} if in_bridge else {"route4", "route6"}
        assert (has | lacks) & {"bridge", "route4", "route6"} == first
        assert ("overlay" in has | lacks) == (ground_of(found, at) is not None)
        assert not has & lacks
        for family in "46":
            assert not has & {f"track{family}", f"nat{family}"} or f"route{family}" in has
            assert (f"tcp{family}" in lacks) == (f"track{family}" in has and not liberal(found))
        assert all(r.code in CODES and r.sentence and r.look for r in (*port.reasons, *port.send_reasons))
        assert all(r.module == "send" for r in port.send_reasons)
        assert len(set(port.reasons)) == len(port.reasons)
        assert topology(found, own=[OWN], only=[port.name]).ports == (port,)
    _holds_together(whole)


def liberal(found: Facts) -> bool:
    return found.settings.conntrack_tcp_be_liberal and found.settings.conntrack_tcp_ignore_invalid_rst


def _holds_together(whole: Topology) -> None:
    """The graph goes forwards only, shows what is accelerated, and can be drawn."""
    names = [node.id for node in whole.graph.nodes]
    assert len(set(names)) == len(names)
    kinds = {node.id: KINDS.index(node.kind) for node in whole.graph.nodes}
    for edge in whole.graph.edges:
        assert kinds[edge.source] <= kinds[edge.target]
    for port in whole.ports:
        shown = {m for e in whole.graph.edges if e.source.endswith(f":{port.name}") for m in e.modules}
        assert shown == {m.name for m in port.modules}
    root = xml.fromstring(picture.svg(whole.graph))
    assert len(root.findall("{http://www.w3.org/2000/svg}path")) == len(whole.graph.edges)
    assert picture.dot(whole.graph).count(" -> ") == len(whole.graph.edges)
    assert json.loads(json.dumps(whole.data()))["interfaces"] is not None


@unhurried
@given(facts())
def test_nothing_that_filters_is_passed_by(found: Facts) -> None:
    """Said a second time, bluntly: with a chain that has a say at a hook of forwarding nothing is accelerated."""
    whole = topology(found, own=[OWN])
    names = {"ip": {"route4"}, "ip6": {"route6"}, "inet": {"route4", "route6"}, "bridge": {"bridge"}}
    with_rules = {(r.family, r.chain) for r in found.ruleset.rules}
    barred = set()
    for chain in found.ruleset.chains:
        if chain.hook in ("prerouting", "forward", "postrouting") and chain.type != "nat":
            busy = chain.policy == "drop" or (chain.family, chain.name) in with_rules
            barred |= names.get(chain.family, set()) if busy else set()
    if found.xfrm.apply or found.ipvs_services:
        barred |= {"route4", "route6"}
    for table in found.legacy:
        if (table.rules or table.chains_that_drop) and table.hooks != ("input",):
            barred.add(f"route{table.family}")
    assert not barred & {m.name for port in whole.ports for m in port.modules}
    more = Ruleset(2, (*found.ruleset.chains, DROPS), found.ruleset.rules)
    for port in topology(replace(found, ruleset=more), own=[OWN]).ports:
        earlier = whole.port(port.index)
        assert earlier is not None
        assert {m.name for m in port.modules} <= {m.name for m in earlier.modules} - {"route4", "route6"}


def test_dot_is_what_graphviz_reads() -> None:
    program = shutil.which("dot")
    if program is None:
        pytest.skip("graphviz is not installed")
    subprocess.run([program, "-Tplain"], input=picture.dot(topology(ROUTER).graph), text=True, check=True)


ON4 = Conf4(True, 1, False, False, False, False, True, False, False, False)
ON6 = Conf6(True, False, False, False, False)
PORT = BridgePort("forwarding", True, False, False, False, True, True, True, False, False, False, None)
OPTIONS = BridgeOptions(False, False, 30000, True, 0, False, False)
ETH0 = Interface(2, "eth0", mac="02:00:00:00:00:02", conf4=ON4, conf6=ON6)
ETH1 = Interface(3, "eth1", mac="02:00:00:00:00:03", conf4=ON4, conf6=ON6)
BR0 = Interface(BRIDGE, "br0", "bridge", mac="02:00:00:00:00:09", conf4=ON4, conf6=ON6, bridge=OPTIONS)
MEMBER = replace(ETH1, master=BRIDGE, master_kind="bridge", port=PORT)
ROUTER = Facts((ETH0, ETH1), settings=Settings(forwarding6_all=True, rp_filter_all=2))
SWITCH = Facts((MEMBER, BR0))


def test_connections_are_followed_and_translated() -> None:
    port = port_of(router(ruleset=MASQUERADE, settings=LIBERAL), "eth0")
    assert [m.name for m in port.modules] == ["route4", "track4", "nat4", "route6"]
    assert Track(4, tcp=True) in port.modules
    strict = port_of(router(ruleset=MASQUERADE), "eth0")
    assert Track(4, tcp=False) in strict.modules
    chain, rule = replace(MASQUERADE.chains[0], family="inet"), replace(MASQUERADE.rules[0], family="inet")
    both = port_of(router(ruleset=Ruleset(1, (chain,), (rule,))), "eth0")
    assert {"track4", "nat4", "track6", "nat6"} <= {m.name for m in both.modules}
    empty = port_of(router(ruleset=replace(MASQUERADE, rules=())), "eth0")
    assert [m.name for m in empty.modules] == ["route4", "route6"]


def test_a_plain_router_is_accelerated() -> None:
    port = port_of(ROUTER, "eth0")
    assert port.modules == (Route(4, "02:00:00:00:00:02", reverse_path=2), Route(6, "02:00:00:00:00:02"))
    assert port.sends
    assert port_of(SWITCH, "eth1").modules == (Bridge(BRIDGE, "02:00:00:00:00:09", 30000),)


def router(**changes: object) -> Facts:
    return replace(ROUTER, **changes)  # type: ignore[arg-type]


def eth0(**changes: object) -> Facts:
    return router(interfaces=(replace(ETH0, **changes), ETH1))  # type: ignore[arg-type]


def switch(interfaces: tuple[Interface, ...] = SWITCH.interfaces, **changes: object) -> Facts:
    return replace(SWITCH, interfaces=interfaces, **changes)  # type: ignore[arg-type]


TRACKS = RuleCount("inet", "t", "in", 1, ("ct", "cmp"))
INPUT = BaseChain("inet", "t", "in", "input", 0, "filter", "accept")

ROWS: tuple[tuple[str, Facts, set[tuple[str, str]]], ...] = (
    # what, facts, reasons of the interface asked about (the last) with their modules
    ("down", eth0(is_up=False), {("down", "route4"), ("down", "route6"), ("down", "send")}),
    ("not Ethernet", eth0(media=65534, mac=None), {("not-ethernet", "route4"), ("not-ethernet", "route6")}),
    ("XDP of others", eth0(xdp=(XdpAttachment("native", 7),)), {("xdp-taken", "route4"), ("xdp-taken", "route6")}),
    ("XDP of ours", eth0(xdp=(XdpAttachment("native", OWN),)), set()),
    ("a bond", eth0(master=77, master_kind="bond"), {("in-bond", "route4"), ("in-bond", "route6")}),
    ("no forwarding", eth0(conf4=replace(ON4, forwarding=False)), {("not-forwarding", "route4")}),
    ("no IPv6", eth0(conf6=None), {("not-forwarding", "route6")}),
    ("no forwarding of IPv6", router(settings=Settings()), {("not-forwarding", "route6")}),
    ("forced", router(settings=Settings(), interfaces=(replace(ETH0, conf6=replace(ON6, force_forwarding=True)),)),
     set()),
    ("macvlan", router(interfaces=(ETH0, Interface(6, "g", "macvlan", link=2, macvlan_mode="bridge"))), set()),
    ("ipvlan", router(interfaces=(ETH0, Interface(6, "g", "ipvlan", link=2))),
     {("below", "route4"), ("below", "route6")}),
    ("tcx", router(tcx=(TcxProgram(2, "ingress", 8),)), {("tc-ingress", "route4"), ("tc-ingress", "route6")}),
    ("tcx of ours", router(tcx=(TcxProgram(2, "ingress", OWN),)), set()),
    ("tcx on the way out", router(tcx=(TcxProgram(2, "egress", 8),)), {("tc-egress", "send")}),
    ("clsact", router(filters=(TcFilter(2, "egress", "flower", None),)), {("tc-egress", "send")}),
    ("a veth whose other end is not ready", router(xdp_features=(XdpFeatures(2, True, True, False, False),)),
     {("no-xdp-transmit", "send")}),
    ("one that is", router(xdp_features=(XdpFeatures(2, True, True, True, True),)), set()),
    ("shaping", router(qdiscs=(Qdisc(2, "htb", False),)), {("qdisc", "send")}),
    ("clsact, empty", router(qdiscs=(Qdisc(2, "clsact", True), Qdisc(2, "mq", False))), set()),
    ("a chain of netdev", router(ruleset=Ruleset(1, (BaseChain("netdev", "t", "a", "ingress", 0, "filter", "drop",
                                                               ("eth0",)),))),
     {("netdev-chain", "route4"), ("netdev-chain", "route6")}),
    ("a chain at devices by how they begin",
     router(ruleset=Ruleset(1, (BaseChain("netdev", "t", "a", "egress", 0, "filter", "drop", ("eth*",)),))),
     {("netdev-egress-chain", "send")}),
    ("a chain at other devices",
     router(ruleset=Ruleset(1, (BaseChain("netdev", "t", "a", "egress", 0, "filter", "drop", ("eth", "wan*")),))),
     set()),
    ("a filter", router(ruleset=Ruleset(1, (DROPS,))), {("filtered", "route4"), ("filtered", "route6")}),
    ("an empty chain", router(ruleset=Ruleset(1, (replace(DROPS, policy="accept"),))), set()),
    ("a filter of input", router(ruleset=Ruleset(1, (replace(INPUT, policy="drop"),))), set()),
    ("tracking", router(ruleset=Ruleset(1, (INPUT,), (TRACKS,))),
     {("conntrack-windows", "tcp4"), ("conntrack-windows", "tcp6")}),
    ("tracking for an object", router(ruleset=Ruleset(1, (), (), (TrackingObject("ip", "t", "ftp", "ct helper"),))),
     {("conntrack-windows", "tcp4")}),
    ("accounting", router(ruleset=MASQUERADE, settings=replace(LIBERAL, conntrack_acct=True)),
     {("conntrack-accounting", "route4")}),
    ("accounting of nothing", router(settings=replace(LIBERAL, conntrack_acct=True)), set()),
    ("masquerade", router(ruleset=MASQUERADE, settings=LIBERAL), set()),
    ("no tracking", router(ruleset=replace(MASQUERADE, rules=(replace(TRACKS, expressions=("notrack", "masq")),))),
     {("conntrack", "route6"), ("conntrack", "route4")}),
    ("tracking in a bridge", switch(ruleset=Ruleset(1, (), (replace(TRACKS, family="bridge"),))),
     {("conntrack", "bridge")}),
    ("legacy", router(legacy=(LegacyTable(6, "filter", 2, ("input", "forward", "output")),)),
     {("legacy-iptables", "route6")}),
    ("legacy, empty", router(legacy=(LegacyTable(4, "filter", 0, ("forward",)),)), set()),
    ("a netfilter link", router(netfilter_links=(NetfilterLink(1, 4, "forward", 0, 9),)),
     {("netfilter-program", "route4")}),
    ("IPsec", router(xfrm=XfrmPolicies(outbound=1)), {("ipsec", "route4"), ("ipsec", "route6")}),
    ("IPVS", router(ipvs_services=2), {("ipvs", "route4"), ("ipvs", "route6")}),
    ("a VRF rule", router(rules=(Rule(4, 5, l3mdev=True),)), {("rule", "route4")}),
    ("a rule that passes routes over", router(rules=(Rule(6, 5, suppress_prefix_length=0),
                                                     Rule(4, 5, suppress_prefix_length=0))), {("rule", "route6")}),
    ("a group that a rule passes over", router(rules=(Rule(6, 5, suppress_group=3),)), {("rule", "route6")}),
    ("a hash of inner headers", router(settings=replace(ROUTER.settings, fib_multipath_hash_policy=2),
                                       routes=RouteKinds(multipath4=True)), {("multipath-hash", "route4")}),
    ("an MTU by a next hop object", router(routes=RouteKinds(mtu6=1400, shares_mtu6=True)),
     {("shared-mtu", "route6")}),
    ("VLAN filtering", switch((replace(BR0, bridge=replace(OPTIONS, vlan_filtering=True)), MEMBER)),
     {("vlan-filtering", "bridge")}),
    ("blocking", switch((BR0, replace(MEMBER, port=replace(PORT, state="blocking")))), {("port-state", "bridge")}),
    ("locked", switch((BR0, replace(MEMBER, port=replace(PORT, locked=True)))), {("port-option", "bridge")}),
    ("bridge down", switch((replace(BR0, is_up=False), MEMBER)), {("bridge-down", "bridge")}),
    ("a filter of the bridge", switch(ruleset=Ruleset(1, (replace(DROPS, family="bridge"),))),
     {("bridge-filtered", "bridge")}),
    ("a filter not for the bridge", switch(ruleset=Ruleset(1, (DROPS,))), set()),
    ("br_netfilter", switch(ruleset=Ruleset(1, (DROPS,)), settings=Settings(bridge_nf_call_iptables=True)),
     {("bridge-netfilter", "bridge")}),
)  # fmt: skip


@pytest.mark.parametrize(("what", "found", "expected"), ROWS, ids=[row[0] for row in ROWS])
def test_rows(what: str, found: Facts, expected: set[tuple[str, str]]) -> None:
    port = port_of(found, "eth1" if found.interface("br0") else "eth0")
    assert {(r.code, r.module) for r in (*port.reasons, *port.send_reasons)} == expected, what


@pytest.mark.parametrize(
    ("found", "keys4", "keys6"),
    [
        (ROUTER, (), ()),
        (router(rules=(Rule(4, 5, protocol=6),)), ("protocol",), ()),
        (router(rules=(Rule(6, 5, destination_ports=(80, 80)),)), (), ("ports", "protocol")),
        (router(routes=RouteKinds(True, True)), (), ("flow_label", "protocol")),
        (
            router(
                routes=RouteKinds(True, True), settings=replace(ROUTER.settings, fib_multipath_hash_policy=1)
            ),
            ("ports", "protocol"),
            ("flow_label", "protocol"),
        ),
    ],
)
def test_flows_are_told_apart_by_what_the_kernel_chooses_by(
    found: Facts, keys4: tuple[str, ...], keys6: tuple[str, ...]
) -> None:
    four, six = port_of(found, "eth0").modules
    assert isinstance(four, Route)
    assert isinstance(six, Route)
    assert (four.keys, six.keys) == (keys4, keys6)


def test_packets_longer_than_the_smallest_mtu_of_a_route_are_the_kernels() -> None:
    four, six = port_of(router(routes=RouteKinds(mtu4=600)), "eth0").modules
    assert isinstance(four, Route)
    assert isinstance(six, Route)
    assert four.route_mtu == 600
    assert six.route_mtu > 1500
