# SPDX-License-Identifier: Apache-2.0
"""From a topology to constants that the objects have."""

from __future__ import annotations

from dataclasses import replace

from pliant.fastpath.modules import Filter
from pliant.fastpath.objects import BRIDGING, ROUTING, shipped_object
from pliant.fastpath.synthesis import synthesize
from pliant.fastpath.topology import topology
from pliant.kernel.elf import Elf
from pliant.kernel.nftables_expressions import Compare, Counter, Payload
from pliant.kernel.nftables_rules import Chain, Rule, Rules
from pliant.kernel.rtnetlink import NO_MTU, RouteKinds
from pliant.observe.fastpath import Mode
from pliant.observe.network import BaseChain, RuleCount, Ruleset, Settings
from tests.fastpath.test_topology import router, switch


def test_every_constant_is_one_of_the_object() -> None:
    found = topology(router(routes=RouteKinds(mtu4=600)))
    target = synthesize(found, {port.index: Mode.NATIVE for port in found.ports})
    assert target.accelerations
    for acceleration in target.accelerations.values():
        assert acceleration.constants.keys() <= Elf(shipped_object(ROUTING)).variables().keys()
        assert acceleration.constants["route_mtu4"] == 600


def test_interfaces_of_one_namespace_share_a_program_and_those_of_two_do_not() -> None:
    builds = []
    for number in (4026531840, 4026532000):
        found = topology(replace(router(), namespace=number))
        target = synthesize(found, {port.index: Mode.NATIVE for port in found.ports})
        assert {a.constants["network_namespace"] for a in target.accelerations.values()} == {number}
        [build] = {acceleration.build for acceleration in target.accelerations.values()}
        builds.append(build)
    assert len(target.accelerations) > 1
    assert len(set(builds)) == 2


def test_a_route_with_a_larger_mtu_than_an_interface_has_does_not_count() -> None:
    """The kernel sends what XDP would lose."""
    narrow = tuple(replace(at, mtu=1280) if at.name == "eth1" else at for at in router().interfaces)
    for of_routes, asked in ((RouteKinds(mtu4=1400), 1280), (RouteKinds(mtu6=1400), NO_MTU)):
        found = topology(router(routes=of_routes, interfaces=narrow))
        target = synthesize(found, {port.index: Mode.NATIVE for port in found.ports})
        for acceleration in target.accelerations.values():
            assert acceleration.constants["route_mtu4"] == asked


def test_a_bridge_port_gets_the_program_of_bridges() -> None:
    found = topology(switch(settings=Settings(bridge_nf_call_iptables=True)))
    target = synthesize(found, {port.index: Mode.NATIVE for port in found.ports})
    [acceleration] = target.accelerations.values()
    assert acceleration.object == BRIDGING
    assert acceleration.constants.keys() <= Elf(shipped_object(BRIDGING)).variables().keys()
    assert acceleration.constants["checks_ipv4"] == 1
    assert acceleration.constants["checks_ipv6"] == 0


def test_rules_are_compiled_or_it_is_said_what_stands_in_their_way() -> None:
    accepting = BaseChain("ip", "t", "f", "forward", 0, "filter", "accept")
    counts = Rule(1, (Payload(0, "network", 12, 4), Compare(0, "eq", b"\x0a\0\0\1"), Counter()))
    chain = Chain("ip", "t", "f", accepting, (counts,))
    hooks = Ruleset(7, (accepting,), (RuleCount("ip", "t", "f", 1, ("cmp", "counter", "payload")),))
    found = topology(router(ruleset=hooks, nftables=Rules(7, (chain,))))
    four, six = (found.ports[0].module(f"filter{family}") for family in (4, 6))
    assert isinstance(four, Filter)
    assert four.left == ("rule 1 of ip t f counts packets",)
    assert six is None
    assert [(r.code, r.module) for r in found.ports[0].reasons] == [("left-by-rule", "rules4")]
    target = synthesize(found, {port.index: Mode.NATIVE for port in found.ports})
    assert target.ruleset is not None
    assert target.ruleset.generation == 7
    assert set(target.rule_names.values()) == {"eth0", "eth1"}
    for acceleration in target.accelerations.values():
        assert acceleration.constants["follows_ruleset"] == 1
        assert (acceleration.constants["filters_ipv4"], acceleration.constants["filters_ipv6"]) == (1, 0)
        assert acceleration.constants["ports_decide4"] == 1
    asked = topology(router(ruleset=hooks, nftables=Rules(7, (chain,))), counts=lambda name: name == "eth0")
    only_other = synthesize(asked, {port.index: Mode.NATIVE for port in asked.ports if port.name != "eth0"})
    assert only_other.ruleset is not None
    assert only_other.ruleset.living, "counts are kept while the interface that asks for them runs nothing"
    for nftables in (Rules(6, (chain,)), Rules(7, (replace(chain, rules=(Rule(1, (Counter(),)),)),))):
        found = topology(router(ruleset=hooks, nftables=nftables))
        assert [m.name for m in found.ports[0].modules] == ["route6"]
        assert {reason.code for reason in found.ports[0].reasons} == {"filtered"}
