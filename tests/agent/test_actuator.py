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
from pliant.kernel.rcu import wait_for_running_programs
from pliant.plan.executor import PlanFailed
from pliant.plan.planner import RULES
from pliant.plan.steps import ForgetProgram, ReplaceProgram, Step, WriteTable
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
    plain = Host.actuator

    def actuator(host: Host) -> KernelActuator:
        made = plain(host)
        special = Interposed(made.ground)
        special.happens, special.position = happens, 0
        return special

    with monkeypatch.context() as patch:
        patch.setattr(Host, "actuator", actuator)
        yield


@pytest.fixture
def versions(pair: Pair, make_policy: MakePolicy) -> tuple[list[Policy], list[Policy]]:
    """Two sets that differ in everything: services, options, values, priorities, and where scope is attached."""
    web, other = (pair.service(pair.server, name) for name in ("web.service", "other.service"))
    around = web.rpartition("/")[0]
    return (
        [
            make_policy("a", web, {"initial_cwnd": 21, "dscp": 2}, peers=["127.0.0.0/8"]),
            make_policy("b", other, {"min_rto": "20ms"}),
        ],
        [
            make_policy("a", web, {"initial_cwnd": 22, "pacing_rate": "816Mbit"}),
            make_policy("c", web, {"dscp": 3}, priority=7),
            make_policy("d", around, {"initial_cwnd": 90, "min_rto": "10ms"}, priority=1),
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


def hooks(pair: Pair) -> list[list[str]]:
    """The programs attached to the services' cgroup and to each of them."""
    cgroups = [pair.server.cgroup, *(pair.server.service(name) for name in ("web.service", "other.service"))]
    return [[one.name for one in attached(group, AttachType.CGROUP_SOCK_OPS)] for group in cgroups]


class Fails:
    """Fails a step, and then, if told to, the first step that takes something back."""

    def __init__(self, position: int, moment: str, *, undo: bool = False) -> None:
        self.awaited = [(position, moment), *([(position, "before")] if undo else [])]

    def __call__(self, position: int, moment: str) -> None:
        if self.awaited and self.awaited[0] == (position, moment):
            del self.awaited[0]
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
        current, before, order = host.journal.current(), pliant.listing(), hooks(pair)
        links = pliant.link_ids()
        change = host.change_to_delete(["a", "b"]) if what == "delete" else host.change_to_apply(new)
        for position in range(len(change.plan)):
            with (
                interposed(monkeypatch, Fails(position, moment)),
                pytest.raises(PlanFailed, match="no more of it") as failed,
            ):
                work(host)
            assert failed.value.left == ()
            assert "the host is as it was before" in str(failed.value)
            assert pliant.listing() == before, change.plan[position].sentence
            assert hooks(pair) == order
            assert host.journal.current() == current
        assert pliant.link_ids().keys() == links.keys()
    with pliant.host() as host:
        work(host)


@pytest.mark.parametrize("what", ["first apply", "apply", "delete"])
def test_failure_that_could_not_be_taken_back_whole_is_settled_by_the_next_change(
    pliant: Pliant,
    pair: Pair,
    versions: tuple[list[Policy], list[Policy]],
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    old, new = versions
    if what != "first apply":
        pliant.apply(*old)
    work = delete_all if what == "delete" else apply_new(new)
    with pliant.host() as host:
        change = host.change_to_delete(["a", "b"]) if what == "delete" else host.change_to_apply(new)
        current = host.journal.current()
    before, order = pliant.listing(), hooks(pair)
    for position, step in enumerate(change.plan):
        with pliant.host() as host:
            with (
                interposed(monkeypatch, Fails(position, "taken", undo=True)),
                pytest.raises(PlanFailed, match="could not be taken back") as failed,
            ):
                work(host)
            assert failed.value.left[0].startswith(step.sentence)
            assert host.journal.interrupted() is not None
        with pliant.host() as host:
            assert (host.journal.interrupted(), host.journal.current()) == (None, current)
            assert host.drift() == ()
        assert pliant.listing() == before, step.sentence
        assert hooks(pair) == order


def test_values_are_deleted_only_when_programs_told_of_them_have_ended(
    pliant: Pliant, versions: tuple[list[Policy], list[Policy]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before the rules are gone, and once for all of them, for each wait takes some 10 ms."""
    old, new = versions
    pliant.apply(*old)
    events: list[str] = []

    def wait() -> bool:
        events.append("wait")
        return wait_for_running_programs()

    def look(position: int, count: int, step: Step) -> None:
        if isinstance(step, WriteTable):
            events.append("rules" if step.table.map in RULES else "delete" if step.deletes else "write")

    monkeypatch.setattr("pliant.agent.actuator.tables.wait_for_running_programs", wait)
    pliant.apply(*new, progress=look)
    with pliant.host() as host:
        host.carry_out(host.change_to_delete(["a"]), actor="test", progress=look)
    told, waits = False, 0
    for event, following in zip(events, [*events[1:], ""], strict=True):
        told = told or event == "rules"
        if event == "delete" and told:  # progress is told of a step before it is taken
            assert following == "wait"
            told, waits = False, waits + 1
    assert waits == events.count("wait") == 2
    assert wait_for_running_programs()


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


def test_settling_is_not_blocked_by_a_conflict_that_a_service_has_brought_about(
    pliant: Pliant, pair: Pair, make_policy: MakePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    around = pair.service(pair.server, "one-x.service").rpartition("/")[0]
    pair.server.service("y-two.service")
    pliant.apply(
        make_policy("first", f"{around}/one-*.service", {"initial_cwnd": 21}),
        make_policy("second", f"{around}/*-two.service", {"initial_cwnd": 22}),
    )
    cgroup = pair.server.service("one-two.service")
    with interposed(monkeypatch, Dies(1, "taken")):
        assert run_and_die(pliant, delete_all)
    with pliant.host() as host:
        assert host.journal.interrupted() is None
        assert set(host.policies()) == {"first", "second"}
        assert host.compile().conflicts
        assert host.drift() == ()
    cgroup.rmdir()


# -- another build of Pliant takes over


@pytest.fixture
def tuning(pair: Pair, make_policy: MakePolicy) -> list[Policy]:
    tune = {"initial_cwnd": 21, "dscp": 2}
    return [make_policy("a", pair.service(pair.server, "web.service"), tune)]


@pytest.mark.parametrize(
    ("other", "moment"),
    [
        ("layout", "taken"),
        *(pytest.param("layout", moment, marks=pytest.mark.long) for moment in ("before", "read back")),
        *(("build", moment) for moment in ("before", "taken", "read back")),
    ],
)
def test_death_while_another_build_is_taken_over_is_settled_and_connections_are_tuned_throughout(
    pliant: Pliant,
    tuning: list[Policy],
    connecting: Meanwhile,
    installed: Install,
    other_build: Layout,
    monkeypatch: pytest.MonkeyPatch,
    other: str,
    moment: str,
) -> None:
    layout = other_build if other == "build" else replace(shipped_layout(), digest="0123456789ab")
    with installed(layout):
        pliant.apply(*tuning)
    with pliant.host() as host:
        plan = host.change_to_apply(tuning).plan
    if other == "build":
        assert [type(step) for step in plan] == 3 * [ReplaceProgram] + 3 * [ForgetProgram]
    links = pliant.link_ids()
    with connecting("web.service") as seen:
        for position in range(len(plan)):
            with installed(layout):
                pliant.apply(*tuning)
            with interposed(monkeypatch, Dies(position, moment)):
                assert run_and_die(pliant, apply_new(tuning))
            with connecting("web.service") as between:  # and before it is settled
                pass
            assert between.kinds == {OLD}, plan[position].sentence
            with pliant.host() as host:
                assert host.drift() == ()
                assert host.observe().other_layouts == ()
                assert {name: host.pins.builds(name) for name in host.pins.objects()} == {
                    name: [shipped_layout().builds[name]] for name in ("scope", "initial_cwnd", "dscp")
                }
            if other == "build":
                assert pliant.link_ids() == links
    assert seen.kinds == {OLD}


@pytest.mark.parametrize("moment", ["before", "taken", "read back"])
def test_death_while_another_build_is_taken_over_is_settled_by_that_build_too(
    pliant: Pliant,
    tuning: list[Policy],
    connecting: Meanwhile,
    installed: Install,
    other_build: Layout,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    with installed(other_build):
        pliant.apply(*tuning)
    before, links = pliant.listing(), pliant.link_ids()
    with connecting("web.service") as seen:
        for position in range(6):
            with interposed(monkeypatch, Dies(position, moment)):
                assert run_and_die(pliant, apply_new(tuning))
            with installed(other_build), pliant.host() as host:
                host.carry_out(host.change_to_repair(), actor="test")
                assert host.drift() == ()
            assert (pliant.listing(), pliant.link_ids()) == (before, links), position
    assert seen.kinds == {OLD}


@pytest.mark.parametrize("moment", ["before", "taken"])
def test_failure_while_programs_are_replaced_puts_the_old_ones_back(
    pliant: Pliant,
    tuning: list[Policy],
    connecting: Meanwhile,
    installed: Install,
    other_build: Layout,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    with installed(other_build):
        pliant.apply(*tuning)
    before, links, current = pliant.listing(), pliant.link_ids(), generation(pliant)
    with connecting("web.service") as seen, pliant.host() as host:
        plan = host.change_to_apply(tuning).plan
        for position, step in enumerate(plan):
            if isinstance(step, ForgetProgram) and not (moment == "before" and position == 3):
                break  # the first of the old programs has gone
            with (
                interposed(monkeypatch, Fails(position, moment)),
                pytest.raises(PlanFailed, match="the host is as it was before"),
            ):
                apply_new(tuning)(host)
            assert pliant.listing() == before, step.sentence
            assert pliant.link_ids() == links
            assert host.journal.current() == current
    assert seen.kinds == {OLD}


@pytest.mark.parametrize("moment", ["before", "taken"])
def test_failure_once_old_programs_are_forgotten_is_settled_and_connections_are_tuned_throughout(
    pliant: Pliant,
    tuning: list[Policy],
    connecting: Meanwhile,
    installed: Install,
    other_build: Layout,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    with installed(other_build):
        pliant.apply(*tuning)
    links = pliant.link_ids()
    with connecting("web.service") as seen:
        for position in range(3, 6):
            with installed(other_build):
                pliant.apply(*tuning)
            with (
                pliant.host() as host,
                interposed(monkeypatch, Fails(position, moment)),
                pytest.raises(PlanFailed),
            ):
                apply_new(tuning)(host)
            with pliant.host() as host:
                host.carry_out(host.change_to_repair(), actor="test")
                assert host.drift() == ()
                assert all(len(host.pins.builds(name)) == 1 for name in host.pins.objects())
            assert pliant.link_ids() == links
    assert seen.kinds == {OLD}


def generation(pliant: Pliant) -> int:
    with pliant.host() as host:
        return host.journal.current()
