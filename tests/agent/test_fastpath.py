# SPDX-License-Identifier: Apache-2.0
"""The fast path of a lab router as policies ask for it: this thread is in the router's namespace when Pliant runs."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from pliant.agent.emergency import take_everything_off
from pliant.agent.fastpath import InterfaceStatus, interface_statuses
from pliant.agent.host import Host
from pliant.agent.status import all_policy_statuses
from pliant.errors import PliantError
from pliant.fastpath.rule_counts import RuleCount, read_rule_counts
from pliant.kernel.links import Link, XdpMode, attach_xdp
from pliant.kernel.objects import load
from pliant.kernel.rtnetlink import Rtnetlink
from pliant.lab import Host as LabHost
from pliant.lab import Lab, TcpClient, TcpServer
from pliant.lab.interface import switch_aggregation
from pliant.observe.fastpath import FastpathState
from pliant.plan.executor import PlanFailed
from pliant.policy.documents import load_policies
from pliant.policy.fastpath import FastpathPolicy

if TYPE_CHECKING:
    from pathlib import Path

    from pliant.agent.change import Applied, Change
    from pliant.lab import PrivateMounts
    from pliant.policy.model import Policy
    from tests.conftest import Pliant

pytestmark = pytest.mark.root
SIZE = 200_000
OTHER = "0123456789ab"
FOREIGN = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
SEC("xdp") int somebody_else(struct xdp_md *ctx) { return XDP_PASS; }
char LICENSE[] SEC("license") = "GPL";
"""


def fastpath(name: str = "fastpath", **spec: Any) -> FastpathPolicy:
    document = {
        "apiVersion": "pliant/v1",
        "kind": "FastPath",
        "metadata": {"name": name},
        "spec": {"mode": "native"} | spec,
    }
    [policy] = load_policies(json.dumps(document), name, {})
    assert isinstance(policy, FastpathPolicy)
    return policy


@dataclass
class Ground:
    """A Pliant on a router between two hosts; ``left`` and ``right`` are the names of its interfaces."""

    pliant: Pliant
    router: LabHost
    sender: LabHost
    receiver: LabHost
    left: str
    right: str

    def change(self, work_out: Callable[[Host], Change]) -> Applied:
        with self.host() as host, host.exclusively():
            return host.carry_out(work_out(host), actor="test")

    def apply(self, *policies: Policy, **options: Any) -> Applied:
        return self.change(lambda host: host.change_to_apply(policies, **options))

    @contextlib.contextmanager
    def host(self) -> Iterator[Host]:
        with self.router.inside(), Host(self.pliant.places) as host:
            yield host

    def found(self) -> FastpathState:
        with self.host() as host:
            return host.fastpath.found()

    def status(self, name: str) -> InterfaceStatus:
        with self.host() as host:
            wishes = host.compile().desired.fastpath
            statuses = interface_statuses(host.fastpath, wishes, host.fastpath.arrangements(wishes))
        return next(status for status in statuses if status.name == name)

    def policies(self) -> list[FastpathPolicy]:
        with self.host() as host:
            return list(host.fastpath_policies().values())

    def drift(self) -> list[str]:
        with self.host() as host:
            return [step.sentence for step in host.drift()]

    def exchange(self) -> None:
        address = self.receiver.links[0].address_of(self.receiver)
        with TcpServer(self.receiver, ["[::]:80"]) as server, TcpClient(self.sender) as client:
            client.connect(address, server.port)
            client.send(SIZE)
            client.receive(SIZE)

    def run(self, *argv: str) -> None:
        self.router.run(list(argv))


@pytest.fixture(scope="module")
def lab(mounts: PrivateMounts) -> Iterator[Lab]:
    del mounts
    with Lab("fastpath") as lab:
        sender, router, receiver = lab.host("sender"), lab.host("router"), lab.host("receiver")
        near, far = lab.link(sender, router), lab.link(router, receiver)
        router.sysctl("net.ipv4.ip_forward", "1")
        for host, link, beyond in ((sender, near, far), (receiver, far, near)):
            host.add_route(f"{beyond.address_of(beyond.peer_of(router))}/32", link.address_of(router))
            with host.inside():
                switch_aggregation(link.interface_of(host), on=True)
        yield lab


@pytest.fixture
def ground(lab: Lab, pliant: Pliant) -> Iterator[Ground]:
    sender, router, receiver = (lab.hosts[name] for name in ("sender", "router", "receiver"))
    left, right = (link.interface_of(router) for link in router.links)
    made = Ground(pliant, router, sender, receiver, left, right)
    yield made
    made.change(lambda host: host.change_to_rollback(0))
    assert made.found().is_empty


def test_a_policy_puts_it_on_and_packets_take_it(ground: Ground) -> None:
    ground.apply(fastpath())
    before = ground.status(ground.left)
    ground.exchange()
    after = ground.status(ground.left)
    assert (after.state, after.arranged.mode, [m.name for m in after.arranged.modules]) == (
        "accelerated", "native", ["route4"],
    )  # fmt: skip
    assert after.accelerated[1] - before.accelerated[1] > SIZE * 0.9
    assert ground.drift() == []
    with ground.host() as host:
        [status] = all_policy_statuses(host)
    assert (status.state, set(status.services)) == ("active", {ground.left, ground.right})


def test_only_the_interfaces_and_modules_that_are_asked_for_run_it(ground: Ground) -> None:
    ground.router.sysctl("net.ipv6.conf.all.forwarding", "1")
    ground.apply(fastpath(interfaces=[ground.left]))
    assert [m.name for m in ground.status(ground.left).arranged.modules] == ["route4", "route6"]
    assert ground.status(ground.right).state == "off"
    ground.apply(fastpath(interfaces=[ground.left], modules=["bridge"]))
    status = ground.status(ground.left)
    assert (status.state, status.arranged.mode) == ("waiting", None)
    assert {r.code for r in status.arranged.reasons} == {"not-asked-for"}
    ground.router.sysctl("net.ipv6.conf.all.forwarding", "0")


def test_auto_does_not_take_segmentation_offload_from_a_veth(ground: Ground) -> None:
    ground.apply(fastpath(mode="auto"))
    status = ground.status(ground.left)
    assert status.arranged.reasons[0].code == "offload-lost"  # the first thing that a person is told
    assert "the mode native accepts that" in status.arranged.reasons[0].sentence
    assert status.arranged.mode != "native"


def test_interfaces_and_modes_that_are_not_there_are_refused_by_name(ground: Ground) -> None:
    with pytest.raises(PliantError, match="there is no interface nosuch0"):
        ground.apply(fastpath(interfaces=["nosuch0"]))
    ground.apply(fastpath(interfaces=["nosuch0"]), allow_waiting=True)
    with pytest.raises(PliantError, match="both for the interface"):
        ground.apply(fastpath("a"), fastpath("b", mode="generic"))
    ground.apply(fastpath("a"), fastpath("b", mode="generic", priority=200))
    assert ground.status(ground.left).arranged.mode == "generic"


def test_off_takes_it_away_and_on_brings_it_back(ground: Ground) -> None:
    ground.apply(fastpath())
    builds = ground.found().running
    ground.change(lambda host: host.change_to_off(actor="test"))
    assert ground.found().is_empty
    assert ground.drift() == []
    ground.exchange()
    ground.change(lambda host: host.change_to_on())
    assert ground.found().running == builds


def test_force_takes_it_away_whatever_is_in_the_way(ground: Ground) -> None:
    ground.apply(fastpath())
    with ground.router.inside():
        assert take_everything_off(ground.pliant.places) == []
    assert not ground.pliant.places.pins.exists()
    assert ground.found().is_empty
    ground.exchange()


def test_programs_of_somebody_else_are_left_alone_and_named(
    ground: Ground, compile_object: Callable[[str, str], Path]
) -> None:
    path = compile_object("somebody", FOREIGN)
    with load(path, feature="foreign") as loaded, ground.router.inside():
        program = loaded.programs["somebody_else"]
        index = ground.status(ground.left).arranged.way.index
        with attach_xdp(program, index, XdpMode.NATIVE) as link:
            ground.apply(fastpath())
            status = ground.status(ground.left)
            assert (status.state, status.arranged.modules) == ("waiting", ())
            assert f"XDP program {program.id} of somebody else" in status.arranged.reasons[0].sentence
            assert ground.status(ground.right).state == "accelerated"
            assert link.info().ifindex == index
    with ground.host() as host:
        assert host.drift()
    ground.change(lambda host: host.change_to_repair())
    assert ground.status(ground.left).state == "accelerated"


def test_repair_brings_back_what_was_detached_or_lost(ground: Ground) -> None:
    ground.apply(fastpath())
    with ground.host() as host:
        pins = host.fastpath.pins
        one, other = sorted(host.fastpath.found().running)
    with Link.pinned(pins.link(one)) as link:
        link.detach()
    pins.link(other).unlink()
    assert ground.status(ground.left).state == "pending"
    assert ground.drift()
    ground.change(lambda host: host.change_to_repair())
    assert ground.drift() == []
    assert set(ground.found().running) == {one, other}
    ground.exchange()


def test_an_interface_with_the_index_of_one_that_was_moved_away_is_accelerated(ground: Ground) -> None:
    router = ground.router
    router.ip("link add x index 1001 type veth peer name y", "link set x up")
    ground.apply(fastpath())
    with Lab("elsewhere") as lab:
        router.ip(f"link set x netns {lab.host('elsewhere').pid}")
        router.ip("link add x index 1001 type veth peer name z", "link set x up")
        assert ground.status("x").state == "pending"
        ground.change(lambda host: host.change_to_repair())
        assert ground.status("x").state == "accelerated"
        assert ground.drift() == []
        with router.inside(), Rtnetlink() as netlink:
            at = netlink.interface(1001)
        assert at is not None
        assert at.xdp
        router.ip("link delete x")


def test_a_change_of_the_network_replaces_programs_with_a_pause_before(ground: Ground) -> None:
    ground.apply(fastpath())
    before = ground.found().running
    ground.run("ip", "rule", "add", "ipproto", "udp", "dport", "9999", "table", "77")
    kinds = [step.kind for step in ground.change(lambda host: host.change_to_repair()).change.plan]
    ground.run("ip", "rule", "del", "table", "77")
    assert kinds[0] == "pause-fastpath"
    assert kinds.index("pause-fastpath") < kinds.index("load-fastpath") < kinds.index("switch-fastpath")
    assert kinds.index("switch-fastpath") < kinds.index("resume-fastpath") == len(kinds) - 1
    assert ground.found().running.keys() == before.keys()
    assert ground.found().running != before
    back = ground.change(lambda host: host.change_to_repair()).change.plan
    assert "load-fastpath" not in {step.kind for step in back}  # it was kept
    assert ground.found().running == before


def test_every_failing_step_is_taken_back_with_those_before(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground.apply(fastpath(interfaces=[ground.left]))
    before = ground.found()
    ground.run("ip", "rule", "add", "ipproto", "udp", "dport", "9999", "table", "77")
    wider = fastpath(interfaces=[ground.left, ground.right])
    with ground.host() as host:
        count = len(host.change_to_apply([wider]).plan)
    assert count > 4
    for number in range(count):
        with ground.host() as host, host.exclusively():
            change = host.change_to_apply([wider])
            actuator = host.actuator()
            act, taken = type(actuator).act, iter(range(1000))

            def fail(self: Any, step: Any, act: Any = act, taken: Any = taken, at: int = number) -> None:
                act(self, step)
                if next(taken) == at:
                    raise PliantError("injected")

            with monkeypatch.context() as patch:
                patch.setattr(type(actuator), "act", fail)
                with contextlib.suppress(PlanFailed):
                    host.carry_out(change, actor="test")
                    pytest.fail("nothing was injected")
        found = ground.found()
        if change.plan[number].undo():
            assert found == before
    ground.run("ip", "rule", "del", "table", "77")
    ground.change(lambda host: host.change_to_repair())
    assert ground.found().running.keys() >= before.running.keys()
    assert ground.drift() == []


@contextlib.contextmanager
def other_tables(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Be a build of Pliant whose tables have another layout."""
    with monkeypatch.context() as patch:
        for module in ("fastpath.objects", "agent.actuator.fastpath"):
            patch.setattr(f"pliant.{module}.tables_layout", lambda: OTHER)
        yield


def test_a_build_with_other_tables_takes_over_without_a_gap_and_counts_go_on(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground.run(
        "nft",
        "add table ip t; add chain ip t f { type filter hook forward priority 0; }; add rule ip t f counter",
    )
    with other_tables(monkeypatch):
        ground.apply(fastpath(ruleCounters="combined"))
        ground.exchange()
        before, counted = ground.found(), ground.status(ground.left).accelerated
        with ground.host() as host:
            pins = host.fastpath.pins
        links = {port: link_id(pins.link(port)) for port in before.running}
    [rule] = rule_counts(ground)
    assert rule.fastpath is not None  # in the tables of that build
    earlier = rule.fastpath
    assert counted[1] > SIZE * 0.9
    assert ground.found().other_tables == (OTHER,)
    steps = ground.change(lambda host: host.change_to_repair()).change.plan
    assert "pause-fastpath" not in {step.kind for step in steps}
    assert steps[-1].kind == "retire-tables"
    assert {port: link_id(pins.link(port)) for port in ground.found().running} == links
    assert not (pins.directory / OTHER).exists()
    assert ground.status(ground.left).accelerated >= counted
    [rule] = rule_counts(ground)
    assert rule.fastpath is not None
    assert earlier.packets <= rule.fastpath.packets < earlier.packets * 1.5
    assert rule.fastpath.bytes > 2 * SIZE * 0.9  # what comes back is counted, too
    assert rule.sum.packets > counted[0]
    ground.exchange()
    assert ground.status(ground.left).accelerated[1] - counted[1] > SIZE * 0.9
    assert ground.drift() == []
    ground.run("nft", "flush", "ruleset")


def test_a_failed_upgrade_leaves_the_other_build_as_it_was(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    with other_tables(monkeypatch):
        ground.apply(fastpath())
        before = ground.found()
    with ground.host() as host, host.exclusively():
        change = host.change_to_repair()
        actuator = host.actuator()
        act = type(actuator).act

        def fail(self: Any, step: Any) -> None:
            act(self, step)
            if step.kind == "switch-fastpath" and step.interface == ground.right:
                raise PliantError("injected")

        with monkeypatch.context() as patch:
            patch.setattr(type(actuator), "act", fail)
            with pytest.raises(PlanFailed):
                host.carry_out(change, actor="test")
    with other_tables(monkeypatch):
        assert ground.found() == before
        assert ground.drift() == []
        ground.exchange()
    ground.change(lambda host: host.change_to_repair())
    assert ground.drift() == []


def rule_counts(ground: Ground) -> list[RuleCount]:
    with ground.host() as host:
        return read_rule_counts(host.fastpath.pins)


def link_id(pin: Path) -> int:
    with Link.pinned(pin) as link:
        number: int = link.id
    return number


@pytest.mark.parametrize("points", [12, pytest.param(150, marks=pytest.mark.long)])
def test_a_killed_change_is_settled_to_one_of_two_generations(ground: Ground, points: int) -> None:
    """Wherever a change was cut off: nothing is left paused, and what runs is one generation's."""
    one, other = fastpath(interfaces=[ground.left]), fastpath(mode="generic")
    expected, duration_s = {}, 0.0
    for policy in (other, one):
        began = time.monotonic()
        ground.apply(policy)
        duration_s = time.monotonic() - began
        expected[policy.spec.mode] = ground.found().running
    dice, interrupted = random.Random(points), 0
    for _ in range(points):
        [now] = {p.spec.mode for p in ground.policies()}
        kill_during(ground, other if now == "native" else one, dice.uniform(0, duration_s))
        with ground.host() as host:
            interrupted += host.journal.interrupted() is not None
        ground.change(lambda host: host.change_to_repair())
        found = ground.found()
        [now] = {p.spec.mode for p in ground.policies()}
        assert (found.running, found.paused, found.lost) == (expected[now], False, frozenset())
        assert ground.drift() == []
    assert interrupted, "no kill fell into a change"


def kill_during(ground: Ground, policy: Policy, after_s: float) -> None:
    """Start a change in a process of its own, and kill it so many seconds after its first step began."""
    began, begin = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with ground.host() as host, host.exclusively():
                change = host.change_to_apply([policy])
                host.carry_out(change, actor="test", progress=lambda *_: _tell(begin))
        finally:
            os._exit(0)
    os.close(begin)
    os.read(began, 1)
    os.close(began)
    time.sleep(after_s)  # not a wait for something: the moment is the point
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def _tell(pipe: int) -> None:
    os.write(pipe, b".")
