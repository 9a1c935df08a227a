# SPDX-License-Identifier: Apache-2.0
"""A policy for the fast path on a node under Flannel: pods get theirs at tc, also such as come later."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from pliant.agent.change import Change
from pliant.agent.fastpath import InterfaceStatus, interface_statuses
from pliant.agent.host import Host
from pliant.fastpath.modules import Overlay
from pliant.lab import Lab, PrivateMounts
from pliant.lab.flannel import TUNNEL, Flannel, Node
from pliant.observe.fastpath import Mode
from pliant.policy.documents import load_policies
from tests.conftest import Pliant

pytestmark = pytest.mark.root


@dataclass
class Ground:
    """A Pliant on the first of two nodes."""

    pliant: Pliant
    network: Flannel

    @property
    def node(self) -> Node:
        return self.network.nodes[0]

    @contextlib.contextmanager
    def host(self) -> Iterator[Host]:
        with self.node.host.inside(), Host(self.pliant.places) as host:
            yield host

    def change(self, work_out: Callable[[Host], Change]) -> None:
        with self.host() as host, host.exclusively():
            host.carry_out(work_out(host), actor="test")

    def statuses(self) -> dict[str, InterfaceStatus]:
        with self.host() as host:
            wishes = host.compile().desired.fastpath
            found = interface_statuses(host.fastpath, wishes, host.fastpath.arrangements(wishes))
        return {status.name: status for status in found}

    def running(self) -> set[str]:
        return {name for name, status in self.statuses().items() if status.state == "accelerated"}


@pytest.fixture
def ground(mounts: PrivateMounts, pliant: Pliant) -> Iterator[Ground]:
    del mounts
    with Lab("pods") as lab:
        made = Ground(pliant, Flannel(lab))
        yield made
        made.change(lambda host: host.change_to_rollback(0))
        assert not made.running()


def test_pods_of_a_node_and_the_tunnel_get_it_at_tc(ground: Ground) -> None:
    document = {
        "apiVersion": "pliant/v1",
        "kind": "FastPath",
        "metadata": {"name": "pods"},
        "spec": {"modules": ["overlay"]},
    }
    policies = load_policies(json.dumps(document), "pods", {})
    ground.change(lambda host: host.change_to_apply(policies))
    assert ground.running() == {"veth2", "veth3", TUNNEL}
    for name in ground.running():
        arranged = ground.statuses()[name].arranged
        assert arranged.mode is Mode.TC
        assert all(isinstance(module, Overlay) for module in arranged.modules)
        assert "overlay-tcp" in {reason.module for reason in arranged.reasons}  # windows are followed
    with ground.host() as host:
        assert not list(host.drift())
    ground.network.add_pod(ground.node)
    assert "veth4" not in ground.running()
    ground.change(lambda host: host.change_to_repair())
    assert ground.running() == {"veth2", "veth3", "veth4", TUNNEL}
    hook = "{ type filter hook forward priority 0; }"
    drops = f"add table ip t; add chain ip t f {hook}; add rule ip t f udp dport 9 drop"
    ground.node.host.run(["nft", drops])
    ground.change(lambda host: host.change_to_repair())
    assert not ground.running()
    assert {r.code for r in ground.statuses()["veth2"].arranged.reasons if r.module == "overlay"} == {
        "filtered"
    }
