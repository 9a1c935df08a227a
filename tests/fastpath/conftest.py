# SPDX-License-Identifier: Apache-2.0
"""A router between two lab hosts, and a fast path on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pliant.agent.actuator.ground import Ground
from pliant.fastpath.objects import tables_layout
from pliant.features.layout import shipped_layout
from pliant.lab import Lab, PrivateMounts
from pliant.lab.interface import switch_aggregation
from pliant.observe.fastpath import FastpathPins
from pliant.observe.pin_tree import PinTree
from pliant.store.holdings import Holdings
from tests.fastpath.fastpath_row import Fastpath, Row
from tests.fastpath.filtered_way import Way, filtered_way


@pytest.fixture(scope="module")
def row(mounts: PrivateMounts) -> Iterator[Row]:
    del mounts
    with Lab("row") as lab:
        sender, router, receiver = lab.host("sender"), lab.host("router"), lab.host("receiver")
        near, far = lab.link(sender, router, offloads=False), lab.link(router, receiver, offloads=False)
        router.sysctl("net.ipv4.ip_forward", "1")
        router.sysctl("net.ipv6.conf.all.forwarding", "1")
        for host, link, beyond in ((sender, near, far), (receiver, far, near)):
            other = beyond.peer_of(router)
            host.add_route(f"{beyond.address_of(other)}/32", link.address_of(router))
            host.add_route(f"{beyond.address6_of(other)}/128", link.address6_of(router))
            with host.inside():
                switch_aggregation(link.interface_of(host), on=True)
        yield Row(sender, router, receiver, near.interface_of(router), far.interface_of(router))


@pytest.fixture
def fastpath(row: Row, mounts: PrivateMounts) -> Iterator[Fastpath]:
    tree = PinTree(mounts.bpffs / "fastpath-test", shipped_layout().digest)
    pins = FastpathPins(tree.root, tables_layout())
    made = Fastpath(row, Ground(tree, shipped_layout(), Path(), 0, Holdings(mounts.state)), pins)
    yield made
    made.become()
    assert not tree.root.exists()


@pytest.fixture
def way(fastpath: Fastpath) -> Iterator[Way]:
    with filtered_way(fastpath) as made:
        yield made
