# SPDX-License-Identifier: Apache-2.0
"""From a topology to constants that the objects have."""

from __future__ import annotations

from pliant.fastpath.objects import shipped_object
from pliant.fastpath.synthesis import BRIDGING, ROUTING, synthesize
from pliant.fastpath.topology import topology
from pliant.kernel.elf import Elf
from pliant.kernel.rtnetlink import RouteKinds
from pliant.observe.fastpath import Mode
from pliant.observe.network import Settings
from tests.fastpath.test_topology import router, switch


def test_every_constant_is_one_of_the_object() -> None:
    found = topology(router(routes=RouteKinds(mtu4=600)))
    target = synthesize(found, {port.index: Mode.NATIVE for port in found.ports})
    assert target.accelerations
    for acceleration in target.accelerations.values():
        assert acceleration.constants.keys() <= Elf(shipped_object(ROUTING)).variables().keys()
        assert acceleration.constants["route_mtu4"] == 600


def test_a_bridge_port_gets_the_program_of_bridges() -> None:
    found = topology(switch(settings=Settings(bridge_nf_call_iptables=True)))
    target = synthesize(found, {port.index: Mode.NATIVE for port in found.ports})
    [acceleration] = target.accelerations.values()
    assert acceleration.object == BRIDGING
    assert acceleration.constants.keys() <= Elf(shipped_object(BRIDGING)).variables().keys()
    assert acceleration.constants["checks_ipv4"] == 1
    assert acceleration.constants["checks_ipv6"] == 0
