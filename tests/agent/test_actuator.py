# SPDX-License-Identifier: Apache-2.0
"""Changes that fail or die at each of their steps."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest

from pliant.agent.actuator import KernelActuator
from pliant.agent.host import Host
from pliant.errors import PliantError
from pliant.features.layout import shipped_layout
from pliant.kernel.cgroup_query import attached
from pliant.kernel.links import AttachType
from pliant.plan.executor import PlanFailed
from pliant.plan.steps import Step
from pliant.store.generations import Generation

if TYPE_CHECKING:
    from pliant.features.layout import Layout
    from pliant.policy.model import Policy
    from tests.agent.conftest import Install, Meanwhile
    from tests.conftest import MakePolicy, Pair, Pliant

pytestmark = pytest.mark.root

Happening = Callable[[int, str], None]
Work = Callable[[Host], object]


class Interposed(KernelActuator):
    """Calls ``happens`` with the number of a step before it is taken, once it is taken, and once it is read back."""

    happens: Happening
    position: int

    def act(self, step: Step) -> None:
        self.happens(self.position, "before")
        super().act(step)
        self.happens(self.position, "taken")

    def read_back(self, step: Step) -> None:
        super().read_back(step)
        self.happens(self.position, "read back")
        self.position += 1


@contextmanager
def interposed(monkeypatch: pytest.MonkeyPatch, happens: Happening) -> Iterator[None]:
    plain = Host._actuator

    def actuator(host: Host) -> KernelActuator:
        made = plain(host)
        special = Interposed(made.pins, made.layout, made.cgroup_root, made.holdout_key)
        special.happens, special.position = happens, 0
        return special

    with monkeypatch.context() as patch:
        patch.setattr(Host, "_actuator", actuator)
        yield


@pytest.fixture
def versions(pair: Pair, make_policy: MakePolicy) -> tuple[list[Policy], list[Policy]]:
    """Two sets of policies that differ in everything: services, options, values, priorities."""
    web, other = (pair.service(pair.server, name) for name in ("web.service", "other.service"))
    return (
        [
            make_policy("a", web, {"initial_cwnd": 21, "dscp": 2}, peers=["127.0.0.0/8"]),
            make_policy("b", other, {"min_rto": "20ms"}),
        ],
        [
            make_policy("a", web, {"initial_cwnd": 22, "pacing_rate": "816Mbit"}),
            make_policy("c", web, {"dscp": 3}, priority=7),
        ],
    )


OLD, NEW = (21, 0xFFFFFFFF, 2), (22, 102_000_000, 3)


def apply_new(policies: list[Policy]) -> Work:
    def work(host: Host) -> object:
        return host.carry_out(host.change_to_apply(policies), actor="test")

    return work


def delete_all(host: Host) -> object:
    return host.carry_out(host.change_to_delete(sorted(host.policies())), actor="test")


def roll_back(host: Host) -> object:
    return host.carry_out(host.change_to_rollback(), actor="test")


def order_at(pair: Pair) -> list[str]:
    """The programs at the service's hook, in the order they run: scope first, the others as they come."""
    names = [one.name for one in attached(pair.server.service("web.service"), AttachType.CGROUP_SOCK_OPS)]
    return names[:1] + sorted(names[1:])


class FailsOnce:
    """Fails one step, and not what takes it back."""

    def __init__(self, position: int, moment: str) -> None:
        self.awaited: tuple[int, str] | None = (position, moment)

    def __call__(self, position: int, moment: str) -> None:
        if self.awaited == (position, moment):
            self.awaited = None
            raise PliantError("there is no more of it", remedy="get some")


@pytest.mark.parametrize("moment", ["before", "taken"])
@pytest.mark.parametrize("what", ["first apply", "apply", "delete"])
def test_failure_at_any_step_leaves_the_host_as_it_was(
    pliant: Pliant,
    pair: Pair,
    versions: tuple[list[Policy], list[Policy]],
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    moment: str,
) -> None:
    old, new = versions
    if what != "first apply":
        pliant.apply(*old)
    work = delete_all if what == "delete" else apply_new(new)
    with pliant.host() as host:
        current, before, order = host.journal.current(), pliant.listing(), order_at(pair)
        change = host.change_to_delete(["a", "b"]) if what == "delete" else host.change_to_apply(new)
        for position in range(len(change.plan)):
            with (
                interposed(monkeypatch, FailsOnce(position, moment)),
                pytest.raises(PlanFailed, match="no more of it") as failed,
            ):
                work(host)
            assert failed.value.left == ()
            assert "the host is as it was before" in str(failed.value)
            assert pliant.listing() == before, change.plan[position].sentence
            assert order_at(pair) == order
            assert host.journal.current() == current
    with pliant.host() as host:
        work(host)


def test_cgroup_that_goes_between_plan_and_execution_fails_the_change_and_nothing_is_left_of_it(
    pliant: Pliant, pair: Pair, make_policy: MakePolicy
) -> None:
    stays, goes = (pair.service(pair.server, name) for name in ("a.service", "b.service"))
    pliant.apply(make_policy("a", stays, {"initial_cwnd": 21}))
    before = pliant.listing()
    with pliant.host() as host:
        change = host.change_to_apply(
            [make_policy("a", stays, {"dscp": 3}), make_policy("b", goes, {"dscp": 4})]
        )
        pair.server.service("b.service").rmdir()
        with pytest.raises(PlanFailed, match=r"could not attach .* to /.*b\.service"):
            host.carry_out(change, actor="test")
        assert pliant.listing() == before
        assert host.observe().stale == frozenset()
    assert [g.state.value for g in history(pliant)] == ["applied", "undone"]


def history(pliant: Pliant) -> list[Generation]:
    with pliant.host() as host:
        return host.journal.generations()


# -- death


@dataclass(frozen=True)
class Dies:
    """Kills its process at one step."""

    position: int
    moment: str

    def __call__(self, position: int, moment: str) -> None:
        if (position, moment) == (self.position, self.moment):
            os.kill(os.getpid(), signal.SIGKILL)


def run_and_die(pliant: Pliant, work: Work) -> bool:
    """Do something in a process of its own; whether it was killed over it."""
    child = os.fork()
    if child == 0:
        try:
            with pliant.host() as host:
                work(host)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize("moment", ["before", "taken", "read back"])
@pytest.mark.parametrize("what", ["first apply", "apply", "rollback"])
def test_death_at_any_step_is_settled_to_one_of_the_two_generations(
    pliant: Pliant,
    versions: tuple[list[Policy], list[Policy]],
    connecting: Meanwhile,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    moment: str,
) -> None:
    first, second = versions
    if what == "apply":
        pliant.apply(*first)
        with pliant.host() as host:
            host.carry_out(host.change_to_delete(["b"]), actor="test")
    if what == "rollback":
        pliant.apply(*first)
        pliant.apply(*second)
    work = roll_back if what == "rollback" else apply_new(second)
    died, position = 0, 0
    while True:
        before, current = pliant.listing(), generation(pliant)
        with interposed(monkeypatch, Dies(position, moment)):
            if not run_and_die(pliant, work):
                break
        died += 1
        with pliant.host() as host:
            assert host.journal.interrupted() is None
            settled = host.journal.current()
            assert host.change_to_apply(list(host.policies().values())).plan == ()
        if settled != current:
            break  # the last step was done: the change is in force
        assert pliant.listing() == before
        position += 1
    assert died > 10
    with connecting("web.service") as seen:
        pass
    assert seen.kinds == {OLD if what == "rollback" else NEW}


@pytest.mark.parametrize("other", ["layout", "build"])
def test_death_while_another_build_is_taken_over_is_settled_and_connections_are_tuned_throughout(
    pliant: Pliant,
    pair: Pair,
    make_policy: MakePolicy,
    connecting: Meanwhile,
    installed: Install,
    other_build: Layout,
    monkeypatch: pytest.MonkeyPatch,
    other: str,
) -> None:
    wanted = [make_policy("a", pair.service(pair.server, "web.service"), {"initial_cwnd": 21})]
    layout = other_build if other == "build" else replace(shipped_layout(), digest="0123456789ab")
    with installed(layout):
        pliant.apply(*wanted)
    with connecting("web.service") as seen:
        died = position = 0
        while died == position:
            with installed(layout):
                pliant.apply(*wanted)
            with interposed(monkeypatch, Dies(position, "taken")):
                died += run_and_die(pliant, apply_new(wanted))
            position += 1
            with pliant.host() as host:
                assert host.change_to_apply(wanted).plan == ()
                assert host.observe().other_layouts == ()
    assert died >= (2 if other == "build" else 9)
    assert {kind.window for kind in seen.kinds} == {21}


def generation(pliant: Pliant) -> int:
    with pliant.host() as host:
        return host.journal.current()
