# SPDX-License-Identifier: Apache-2.0
"""From a topology to constants that the objects have."""

from __future__ import annotations

from pliant.fastpath.objects import shipped_object
from pliant.fastpath.synthesis import ROUTING, synthesize
from pliant.fastpath.topology import topology
from pliant.kernel.elf import Elf
from pliant.kernel.rtnetlink import RouteKinds
from pliant.observe.fastpath import Mode
from tests.fastpath.test_topology import router


def test_every_constant_is_one_of_the_object() -> None:
    found = topology(router(routes=RouteKinds(mtu4=600)))
    target = synthesize(found, {port.index: Mode.NATIVE for port in found.ports})
    assert target.accelerations
    for acceleration in target.accelerations.values():
        assert acceleration.constants.keys() <= Elf(shipped_object(ROUTING)).variables().keys()
        assert acceleration.constants["route_mtu4"] == 600
