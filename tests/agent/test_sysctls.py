# SPDX-License-Identifier: Apache-2.0
"""Policies of sysctls in the network namespaces of lab hosts: this thread is in the server's whenever Pliant runs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from pliant.agent.emergency import force_off
from pliant.agent.health import examine
from pliant.agent.host import Host
from pliant.agent.status import all_policy_statuses, policy_statuses
from pliant.agent.sysctls import SysctlStatus, sysctl_statuses
from pliant.errors import PliantError
from pliant.kernel import sysctls
from pliant.lab import Host as LabHost
from pliant.lab import Lab, TcpClient
from pliant.plan.executor import PlanFailed
from pliant.policy.documents import load_policies
from pliant.store.holdings import NAME, Holdings

if TYPE_CHECKING:
    from pliant.agent.change import Applied, Change
    from pliant.policy.model import Policy
    from tests.conftest import MakePolicy, Pair, Pliant

pytestmark = pytest.mark.root

ECN, IDLE, RMEM = "net.ipv4.tcp_ecn", "net.ipv4.tcp_slow_start_after_idle", "net.ipv4.tcp_rmem"


def of_sysctls(name: str, values: Mapping[str, Any], *, service: str = "", priority: int = 100) -> Policy:
    spec = {"sysctls": dict(values), "priority": priority}
    document = {
        "apiVersion": "pliant/v1",
        "kind": "SysctlPolicy",
        "metadata": {"name": name, "owner": "web-infra"},
        "spec": spec | ({"match": {"service": service}} if service else {}),
    }
    [policy] = load_policies(json.dumps(document), name, {})
    return policy


@dataclass
class Ground:
    """A Pliant in the namespace of a lab host."""

    pliant: Pliant
    pair: Pair

    @property
    def here(self) -> LabHost:
        return self.pair.server

    def apply(self, *policies: Policy, **options: Any) -> Applied:
        return self.change(lambda host: host.change_to_apply(policies, **options))

    def change(self, work_out: Any) -> Applied:
        with self.here.inside(), self.pliant.host() as host:
            change: Change = work_out(host)
            return host.carry_out(change, actor="test")

    def delete(self, *names: str) -> Applied:
        return self.change(lambda host: host.change_to_delete(names))

    @contextlib.contextmanager
    def host(self) -> Iterator[Host]:
        with self.here.inside(), Host(self.pliant.places) as host:
            yield host

    def status(self, name: str) -> SysctlStatus:
        with self.host() as host:
            [found] = [status for status in sysctl_statuses(host) if status.name == name]
        return found

    def drift(self) -> list[str]:
        with self.host() as host:
            return [step.sentence for step in host.drift()]

    def held(self) -> set[str]:
        return {key.name for key in Holdings(self.pliant.places.state).all()}


@pytest.fixture
def ground(pliant: Pliant, pair: Pair) -> Iterator[Ground]:
    """Values of every sysctl of both hosts are at the end what they were."""
    names = (ECN, IDLE, RMEM)
    before = {host: [host.sysctl(name) for name in names] for host in (pair.server, pair.client)}
    made = Ground(pliant, pair)
    yield made
    made.change(lambda host: host.change_to_rollback(0))
    assert not (pliant.places.state / NAME).exists()
    for host, values in before.items():
        for name, value in zip(names, values, strict=True):
            now = host.sysctl(name)
            host.sysctl(name, value)
            assert now == value, f"{name} of {host.name}"


# -- set, and given back


def test_sysctl_is_set_with_its_owner_known_and_given_back_when_its_policy_goes(ground: Ground) -> None:
    before, elsewhere = ground.here.sysctl(ECN), ground.pair.client.sysctl(ECN)
    ground.apply(of_sysctls("ecn", {ECN: 1, RMEM: [4096, 99999, 7000000]}))
    assert ground.here.sysctl(ECN) == "1"
    assert ground.pair.client.sysctl(ECN) == elsewhere
    status = ground.status(ECN)
    assert (status.policy, status.owner, status.state) == ("ecn", "web-infra", "set")
    assert (status.wanted, status.found, status.before) == ("1", "1", before)
    assert status.since
    assert ground.status(RMEM).found == "4096 99999 7000000"
    assert ground.drift() == []

    ground.delete("ecn")
    assert ground.here.sysctl(ECN) == before
    with ground.host() as host:
        kinds = [step.kind for step in host.journal.steps(host.journal.current())]
    assert kinds == ["set-sysctl"] * 2


def test_new_version_keeps_what_was_before_the_first_and_rollback_goes_from_one_to_the_other(
    ground: Ground,
) -> None:
    before = ground.here.sysctl(ECN)
    ground.apply(of_sysctls("ecn", {ECN: 1}))
    ground.apply(of_sysctls("ecn", {ECN: 0, IDLE: 0}))
    assert (ground.here.sysctl(ECN), ground.here.sysctl(IDLE)) == ("0", "0")
    assert ground.status(ECN).before == before
    ground.change(lambda host: host.change_to_rollback())
    assert (ground.here.sysctl(ECN), ground.here.sysctl(IDLE)) == ("1", "1")
    assert ground.held() == {ECN}


def test_off_gives_sysctls_back_and_on_sets_them_again(ground: Ground) -> None:
    before = ground.here.sysctl(ECN)
    ground.apply(of_sysctls("ecn", {ECN: 1}))
    for names in ((), ("ecn",)):
        ground.change(lambda host, names=names: host.change_to_off(names, actor="test"))
        assert ground.here.sysctl(ECN) == before
        ground.change(lambda host, names=names: host.change_to_on(names))
        assert ground.here.sysctl(ECN) == "1"


def test_emergency_gives_sysctls_back_without_a_journal(ground: Ground) -> None:
    before = ground.here.sysctl(ECN)
    ground.apply(of_sysctls("ecn", {ECN: 1}))
    state = ground.pliant.places.state
    kept = {path.name: path.read_bytes() for path in state.glob("journal.db*")}
    for name in kept:
        (state / name).unlink()
    (state / "journal.db").write_bytes(b"this is no journal" * 100)
    with ground.host() as host:
        assert force_off(host, reason="", actor="test").applied is None
    assert ground.here.sysctl(ECN) == before
    assert ground.held() == set()
    for path in [*state.glob("journal.db*"), state / "off"]:
        path.unlink(missing_ok=True)
    for name, content in kept.items():
        (state / name).write_bytes(content)


def test_step_that_fails_leaves_the_host_as_it_was(ground: Ground) -> None:
    before = ground.here.sysctl(ECN), ground.here.sysctl(IDLE)
    values = {ECN: 1, "net.ipv4.tcp_congestion_control": "warp", IDLE: 0}
    with pytest.raises(PlanFailed, match=r"to warp: .*; the host is as it was before"):
        ground.apply(of_sysctls("ecn", values))
    assert (ground.here.sysctl(ECN), ground.here.sysctl(IDLE)) == before
    assert ground.held() == set()


def test_transport_policy_and_policy_of_sysctls_come_and_go_together(
    ground: Ground, make_policy: MakePolicy
) -> None:
    service = ground.pair.service(ground.here, "web.service")
    transport = make_policy("window", service, {"initial_cwnd": 20})
    ground.apply(of_sysctls("ecn", {ECN: 1}), transport)
    with ground.host() as host:
        assert set(host.policies()) == {"window"}
        assert [status.policy.name for status in policy_statuses(host)] == ["window"]
        states = {status.policy.name: status.state for status in all_policy_statuses(host)}
    assert states == {"ecn": "active", "window": "active"}
    ground.apply(transport, prune=True)
    assert ground.held() == set()


# -- whose it is


def test_what_an_administrator_has_set_is_left_alone_and_told(ground: Ground) -> None:
    ground.apply(of_sysctls("ecn", {ECN: 1, IDLE: 0}))
    ground.here.sysctl(ECN, "0")
    assert ground.drift() == []
    status = ground.status(ECN)
    assert (status.state, status.wanted, status.found, status.before) == ("foreign", "1", "0", "2")
    with ground.host() as host:
        [finding] = [finding for finding in examine(host) if finding.name == "sysctl"]
    assert finding.sentence == (
        "somebody else has set the sysctl net.ipv4.tcp_ecn of this host to 0, where policy 'ecn' asks for 1: "
        "it is left alone"
    )
    ground.change(lambda host: host.change_to_repair())
    applied = ground.delete("ecn")
    assert (ground.here.sysctl(ECN), ground.here.sysctl(IDLE)) == ("0", "1")
    assert "leave the sysctl net.ipv4.tcp_ecn at 0" in [step.sentence for step in applied.change.plan]
    ground.apply(of_sysctls("ecn", {ECN: 1}))  # taken up anew, from what it is by now
    assert ground.status(ECN).before == "0"
    ground.delete("ecn")
    ground.here.sysctl(ECN, "2")


def test_administrator_who_puts_our_value_back_gives_it_back_to_us(ground: Ground) -> None:
    ground.apply(of_sysctls("ecn", {ECN: 1}))
    ground.here.sysctl(ECN, "0")
    ground.here.sysctl(ECN, "1")
    assert ground.status(ECN).state == "set"
    ground.delete("ecn")
    assert ground.here.sysctl(ECN) == "2"


def test_value_of_before_is_drift_that_repair_mends(ground: Ground) -> None:
    ground.apply(of_sysctls("ecn", {ECN: 1}))
    ground.here.sysctl(ECN, "2")
    assert ground.status(ECN).state == "unset"
    assert ground.drift() == ["set the sysctl net.ipv4.tcp_ecn from 2 to 1"]
    ground.change(lambda host: host.change_to_repair())
    assert ground.here.sysctl(ECN) == "1"


def test_administrator_between_plan_and_step_is_not_overwritten(ground: Ground) -> None:
    with ground.here.inside(), ground.pliant.host() as host:
        change = host.change_to_apply([of_sysctls("ecn", {ECN: 1})])
        sysctls.write(ECN, "0")
        with pytest.raises(PlanFailed, match="somebody else has just set the sysctl"):
            host.carry_out(change, actor="test")
        assert sysctls.read(ECN) == "0"
        sysctls.write(ECN, "2")
    assert ground.held() == set()


def test_what_was_held_in_another_boot_is_nothing(ground: Ground) -> None:
    ground.apply(of_sysctls("ecn", {ECN: 1}))
    path = ground.pliant.places.state / NAME
    said = json.loads(path.read_text())
    path.write_text(json.dumps(said | {"boot": "another"}))
    ground.here.sysctl(ECN, "0")  # as the machine starts with it
    ground.change(lambda host: host.change_to_repair())
    assert ground.status(ECN).before == "0"
    ground.delete("ecn")
    assert ground.here.sysctl(ECN) == "0"
    ground.here.sysctl(ECN, "2")


def test_higher_priority_wins_and_a_draw_is_refused(ground: Ground) -> None:
    ground.apply(of_sysctls("a", {ECN: 1}), of_sysctls("b", {ECN: 0}, priority=200))
    assert ground.here.sysctl(ECN) == "0"
    ground.delete("b")
    assert ground.here.sysctl(ECN) == "1"
    with pytest.raises(PliantError, match="policies 'a' and 'c' both set"):
        ground.apply(of_sysctls("c", {ECN: 0}))


def test_sysctl_that_the_host_has_not_is_refused(ground: Ground) -> None:
    with pytest.raises(PliantError, match=r"policy 'a': the sysctl net\.core\.rmem_max cannot be set from"):
        ground.apply(of_sysctls("a", {"net.core.rmem_max": 1_000_000}))


# -- namespaces of services


def test_namespaces_of_a_services_processes_get_it_and_the_hosts_does_not(ground: Ground) -> None:
    client = ground.pair.client
    service = ground.pair.service(client, "app.service")
    with TcpClient(client, service="app.service"):
        ground.apply(of_sysctls("ecn", {ECN: 1}, service=service))
        assert (client.sysctl(ECN), ground.here.sysctl(ECN)) == ("1", "2")
        status = ground.status(ECN)
        assert (status.place, status.state) == ("of app.service", "set")
    assert client.sysctl(ECN) == "1"
    ground.delete("ecn")  # the service has ended, its namespace has not
    assert client.sysctl(ECN) == "2"


def test_service_that_comes_later_gets_it_when_the_host_is_looked_at(ground: Ground) -> None:
    client = ground.pair.client
    service = ground.pair.service(client, "late.service")
    ground.apply(of_sysctls("ecn", {ECN: 1}, service=service))
    with ground.host() as host:
        assert [status.state for status in all_policy_statuses(host)] == ["waiting"]
    with TcpClient(client, service="late.service"):
        assert ground.drift() == ["set the sysctl net.ipv4.tcp_ecn from 2 to 1"]
        ground.change(lambda host: host.change_to_repair())
        assert client.sysctl(ECN) == "1"


def test_namespace_that_is_gone_is_forgotten(ground: Ground) -> None:
    with Lab("passing") as lab:
        passing = lab.host("passing")
        service = ground.pair.service(passing, "app.service")
        with TcpClient(passing, service="app.service"):
            ground.apply(of_sysctls("ecn", {ECN: 1}, service=service))
            assert passing.sysctl(ECN) == "1"
    assert ground.held() == {ECN}
    ground.delete("ecn")
    assert ground.held() == set()


def test_service_in_the_hosts_own_namespace_is_refused(ground: Ground) -> None:
    service = ground.pair.service(ground.here, "web.service")
    with (
        TcpClient(ground.here, service="web.service"),
        pytest.raises(PliantError, match="are in the host's network namespace") as refused,
    ):
        ground.apply(of_sysctls("ecn", {ECN: 1}, service=service))
    assert "leave match out" in refused.value.remedy


# -- killed


def test_change_killed_at_any_move_is_settled_to_one_of_two_generations(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is killed before and after each write of the account, of a sysctl and of the journal."""
    one = of_sysctls("ecn", {ECN: 1, IDLE: 0})
    other = of_sysctls("ecn", {ECN: 0, RMEM: "4096 99999 7000000"})
    sides = (
        (("1", "0", ground.here.sysctl(RMEM).split()), {ECN, IDLE}),
        (("0", "1", ["4096", "99999", "7000000"]), {ECN, RMEM}),
    )
    ground.apply(one)
    survived = False
    for move in range(1, 200):
        ended = killed_at(move, ground, other, monkeypatch)
        ground.change(lambda host: host.change_to_repair())  # settles first
        now = (ground.here.sysctl(ECN), ground.here.sysctl(IDLE), ground.here.sysctl(RMEM).split())
        assert (now, ground.held()) in sides
        assert ground.drift() == []
        survived = ended == 0
        if survived:
            break
        ground.apply(one)
    assert survived
    assert move > 15
    ground.delete("ecn")
    assert ground.held() == set()


def killed_at(move: int, ground: Ground, policy: Policy, monkeypatch: pytest.MonkeyPatch) -> int:
    """Apply a policy in a process of its own that is killed at the so manieth move; its wait status."""
    child = os.fork()
    if child == 0:
        left = move

        def counted(original: Any) -> Any:
            def call(*arguments: Any, **named: Any) -> Any:
                nonlocal left
                for after in (False, True):
                    if after:
                        result = original(*arguments, **named)
                    left -= 1
                    if not left:
                        os.kill(os.getpid(), signal.SIGKILL)
                return result

            return call

        with contextlib.suppress(BaseException):
            from pliant.store.journal import Journal

            for owner, name in (
                (Holdings, "put"),
                (sysctls, "write"),
                (Journal, "record"),
                (Journal, "finish"),
            ):
                monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
            ground.apply(policy)
            os._exit(0)
        os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL)
    return status
