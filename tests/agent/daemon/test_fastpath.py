# SPDX-License-Identifier: Apache-2.0
"""The agent keeps the fast path of a lab router in step with the router's configuration."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from pliant.agent.host import Host
from pliant.kernel.links import XdpMode, attach_xdp
from pliant.kernel.objects import load
from pliant.lab import Host as LabHost
from pliant.lab import Lab
from pliant.observe.fastpath import FastpathState
from pliant.policy.documents import load_policies
from tests.agent.daemon.conftest import Ground, await_
from tests.agent.test_fastpath import FOREIGN

if TYPE_CHECKING:
    from pliant.policy.model import Policy
    from tests.agent.conftest import Compile

pytestmark = pytest.mark.root


def policy(**spec: object) -> Policy:
    document = {
        "apiVersion": "pliant/v1",
        "kind": "FastPath",
        "metadata": {"name": "fastpath"},
        "spec": {"mode": "native", "modules": ["route"]} | spec,
    }
    [parsed] = load_policies(json.dumps(document), "test", {})
    return parsed


@dataclass
class Router:
    """A router whose agent runs; ``left`` and ``right`` are the names of its interfaces."""

    ground: Ground
    host: LabHost
    other: LabHost
    left: str
    right: str

    def index(self, name: str) -> int:
        with self.host.inside():
            return socket.if_nametoindex(name)

    def found(self) -> FastpathState:
        with self.host.inside(), Host(self.ground.places) as host:
            return host.fastpath.found()

    def running(self) -> dict[str, str]:
        """The build that each interface runs."""
        found = self.found()
        return {found.names.get(port.ifindex, "?"): build for port, build in found.running.items()}

    def apply(self, *policies: Policy) -> None:
        with self.host.inside():
            self.ground.apply(*policies)

    @contextlib.contextmanager
    def agent(self) -> Iterator[None]:
        with self.host.inside(), self.ground.agent() as process:
            yield
            assert process.poll() is None, process.communicate()[1]


@pytest.fixture
def router(ground: Ground) -> Iterator[Router]:
    with Lab("followed") as lab:
        one, router, other = lab.host("one"), lab.host("router"), lab.host("other")
        near, far = lab.link(one, router), lab.link(router, other)
        router.sysctl("net.ipv4.ip_forward", "1")
        made = Router(ground, router, one, near.interface_of(router), far.interface_of(router))
        yield made
        with router.inside():
            ground.clear()
        assert made.found().is_empty


def test_every_kind_of_change_is_followed(router: Router) -> None:
    left, right, host = router.left, router.right, router.host
    router.apply(policy())
    with router.agent():
        first, exits = router.running(), router.found().exits
        assert first.keys() == {left, right}
        host.ip("rule add ipproto udp dport 9999 table 77")
        await_(lambda: router.running().keys() == first.keys() and router.running() != first)
        await_(lambda: not router.found().paused)
        host.ip("rule del table 77")
        await_(lambda: router.running() == first)
        host.sysctl(f"net.ipv4.conf.{left}.forwarding", "0")
        await_(lambda: router.running() == {right: first[right]})
        host.sysctl(f"net.ipv4.conf.{left}.forwarding", "1")
        await_(lambda: router.running() == first)
        host.ip("link add new0 type veth peer name new1", "link set new0 up", "link set new1 up")
        await_(lambda: router.running().keys() == {left, right, "new0", "new1"})
        host.ip("link set new0 down", "link set new0 name newer0", "link set newer0 up")
        await_(lambda: router.running().keys() == {left, right, "newer0", "new1"})
        host.ip("link del newer0")
        await_(lambda: router.running() == first)
        await_(lambda: router.found().exits == exits)
        own = {router.index(name) for name in first}
        await_(lambda: {port.ifindex for port in router.found().ports} == own)
        await_(lambda: len(router.ground.events("fastpath-followed")) >= 4)
        router.apply(policy(interfaces=[left]))
        await_(lambda: router.running() == {left: first[left]})
    assert not router.ground.events("adjustment-failed", "drift-found")


def test_what_changes_while_no_agent_runs_is_followed_when_it_starts(router: Router) -> None:
    router.apply(policy())
    with router.agent():
        first = router.running()
    router.host.ip("rule add ipproto udp dport 9999 table 77", "link add new0 type veth peer name new1")
    router.host.ip("link set new0 up", "link set new1 up")
    with router.agent():
        await_(lambda: router.running().keys() == {*first, "new0", "new1"})
        assert router.running()[router.left] != first[router.left]
        router.host.ip("rule del table 77", "link del new0")
        await_(lambda: router.running() == first)


def test_a_program_of_somebody_else_that_comes_and_goes_is_respected(
    router: Router, compile_object: Compile
) -> None:
    router.apply(policy(interfaces=["new*"]))
    with router.agent(), load(compile_object("somebody", FOREIGN), feature="foreign") as loaded:
        router.host.ip("link add new0 type veth peer name new1", "link set new1 up")
        with router.host.inside():
            foreign = attach_xdp(loaded.programs["somebody_else"], router.index("new0"), XdpMode.NATIVE)
        with foreign:
            router.host.ip("link set new0 up")
            await_(lambda: router.running().keys() == {"new1"})
            assert foreign.info().ifindex == router.index("new0")
        await_(lambda: router.running().keys() == {"new0", "new1"})


def test_an_interface_that_takes_no_program_is_left_out_until_it_has_changed(router: Router) -> None:
    """A veth whose other end is where its MTU cannot be seen from here."""
    one = router.other
    router.apply(policy())
    with router.agent():
        first = router.running()
        one.ip("link add new1 mtu 9000 type veth peer name new0")
        one.ip(f"link set new0 netns {router.host.pid}", "link set new1 up")
        router.host.ip("link set new0 up")
        await_(lambda: router.ground.events("fastpath-refused"))
        [event] = router.ground.events("fastpath-refused")
        assert event.data["interface"] == "new0"
        assert router.running() == first
        await_(lambda: not router.found().paused)
        with router.host.inside():
            done = router.ground.command("fastpath", "status", "-o", "json")
            [told] = [one for one in json.loads(done.stdout) if one["interface"] == "new0"]
            assert (told["state"], told["reasons"][0]["code"]) == ("waiting", "refused")
            assert "no agent runs" not in router.ground.command("fastpath", "status").stderr
        one.ip("link set new1 mtu 1500")
        router.host.ip("link set new0 mtu 1400")
        await_(lambda: router.running().keys() == {*first, "new0"})
    assert not router.ground.events("adjustment-failed")
