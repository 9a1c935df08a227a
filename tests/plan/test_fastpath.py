# SPDX-License-Identifier: Apache-2.0
"""Plans of fast paths over all states that may be found, taken by a kernel in memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from hypothesis import given
from hypothesis import strategies as st

from pliant.fastpath.target import Acceleration, FastpathTarget
from pliant.observe.fastpath import FastpathState, Mode, Port
from pliant.plan.fastpath import (
    KEPT,
    AttachFastpath,
    DetachFastpath,
    ForgetFastpath,
    LoadFastpath,
    ParkFastpath,
    PauseFastpath,
    ResumeFastpath,
    RetireTables,
    SetExits,
    SwitchFastpath,
    accelerations,
    superseded,
)
from pliant.plan.steps import Step
from tests.policy.strategies import unhurried

PORTS = [Port(index, mode) for index in (1, 2, 3) for mode in (Mode.NATIVE, Mode.GENERIC)]
BUILDS = ("a", "b", "c", "d", "e")
FINAL = (ForgetFastpath, RetireTables)


@dataclass
class Kernel:
    """Refuses what the real one would; ``gone`` are ports whose link runs nothing any more."""

    running: dict[Port, str] = field(default_factory=dict)
    pinned: dict[Port, set[str]] = field(default_factory=dict)
    exits: dict[int, int] = field(default_factory=dict)
    gone: set[Port] = field(default_factory=set)
    paused: bool = False
    tables: set[str] = field(default_factory=set)

    def observe(self) -> FastpathState:
        idle = {p: tuple(sorted(found)) for p in self.pinned if (found := self.pinned[p] - self.runs(p))}
        return FastpathState(
            dict(self.running),
            idle,
            dict(self.exits),
            frozenset(self.gone),
            self.paused,
            tuple(sorted(self.tables)),
            has_tables=bool(self.pinned or self.gone),
        )

    def runs(self, port: Port) -> set[str]:
        return {self.running[port]} if port in self.running else set()

    def take(self, steps: Iterable[Step]) -> None:
        for step in steps:
            self.act(step)

    def act(self, step: Step) -> None:
        match step:
            case LoadFastpath(acceleration=wanted):
                self.pinned.setdefault(wanted.port, set()).add(wanted.build)
            case AttachFastpath(port=port, build=build):
                assert port not in self.running
                assert not any(other.ifindex == port.ifindex for other in self.running), "EBUSY"
                assert build in self.pinned[port], "ENOENT"
                self.running[port] = build
                self.gone.discard(port)
            case ParkFastpath(port=port, build=build):
                assert self.running.pop(port) == build
                self.gone.add(port)  # its link runs nothing of ours
            case SwitchFastpath(port=port, build=build, previous=previous):
                assert self.running.get(port, "") in ("", previous, build)
                self.gone.discard(port)
                assert build in self.pinned[port], "ENOENT"
                self.running[port] = build
            case DetachFastpath(port=port):
                self.running.pop(port, None)
                self.gone.discard(port)
            case ForgetFastpath(port=port, build=build):
                assert build not in self.runs(port), "it runs"
                self.pinned[port].discard(build)
            case SetExits(exits=exits):
                assert len(set(exits.values())) == len(exits), "two have one number"
                self.exits = dict(exits)
            case PauseFastpath() | ResumeFastpath():
                self.paused = isinstance(step, PauseFastpath)
            case RetireTables(layout=layout):
                self.tables.discard(layout)
            case _:
                raise AssertionError(step)
        self.pinned = {port: builds for port, builds in self.pinned.items() if builds}
        if not (self.pinned or self.gone):
            self.exits, self.paused = {}, False  # the tables go with the last program


def one_mode_each(ports: Iterable[Port]) -> list[Port]:
    return list({port.ifindex: port for port in ports}.values())


builds = st.dictionaries(st.sampled_from(PORTS), st.sampled_from(BUILDS), max_size=4)


@st.composite
def targets(draw: st.DrawFn) -> FastpathTarget:
    chosen = draw(builds)
    wanted = {
        port: Acceleration(port, f"eth{port.ifindex}", "o", {}, chosen[port])
        for port in one_mode_each(chosen)
    }
    exits = draw(st.frozensets(st.integers(1, 4), min_size=1)) if wanted else frozenset()
    standby = frozenset(port.ifindex for port in wanted) | draw(st.frozensets(st.integers(1, 3)))
    return FastpathTarget(wanted, exits, standby=standby if draw(st.booleans()) else frozenset())


@st.composite
def kernels(draw: st.DrawFn) -> Kernel:
    """Whatever a change that was cut off, somebody else, or another build may have left."""
    kernel = Kernel()
    chosen = draw(builds)
    kernel.running = {port: chosen[port] for port in one_mode_each(chosen)}
    kernel.pinned = {port: {build} for port, build in kernel.running.items()}
    for port, build in draw(builds).items():
        kernel.pinned.setdefault(port, set()).add(build)
    lost = draw(st.sets(st.sampled_from(PORTS), max_size=2))
    kernel.gone = {port for port in lost if port not in kernel.running}
    if kernel.pinned or kernel.gone:
        kernel.exits = draw(st.dictionaries(st.integers(1, 4), st.integers(0, 3), max_size=3))
        kernel.exits = {i: n for n, i in {n: i for i, n in kernel.exits.items()}.items()}
        kernel.paused = draw(st.booleans())
        kernel.tables = draw(st.sets(st.sampled_from(("0123456789ab", "ba9876543210"))))
    return kernel


def plan(kernel: Kernel, target: FastpathTarget) -> tuple[Step, ...]:
    found = kernel.observe()
    return (*accelerations(found, target), *superseded(found, target))


@unhurried
@given(kernels(), targets())
def test_whatever_is_found_a_plan_leads_to_the_target_and_nothing_is_left_to_do(
    kernel: Kernel, target: FastpathTarget
) -> None:
    kernel.take(plan(kernel, target))
    assert kernel.running == {port: wanted.build for port, wanted in target.accelerations.items()}
    assert kernel.exits.keys() == target.exits
    found = kernel.observe()
    assert found == FastpathState(kernel.running, found.idle, kernel.exits)
    assert {port.ifindex for port in found.idle} <= target.standby
    assert all(len(builds) <= KEPT for builds in found.idle.values())
    assert plan(kernel, target) == ()


@unhurried
@given(kernels(), targets(), st.integers(0, 20))
def test_undoing_from_anywhere_in_a_plan_gives_the_state_before(
    kernel: Kernel, target: FastpathTarget, count: int
) -> None:
    kernel.gone = set()  # what was lost cannot be given back
    if not kernel.pinned:
        kernel = Kernel()
    before = kernel.observe()
    steps = [step for step in plan(kernel, target) if not isinstance(step, FINAL)][:count]
    kernel.take(steps)
    kernel.take(undo for step in reversed(steps) if (undo := step.undo()))
    assert kernel.observe() == before


@unhurried
@given(kernels(), targets())
def test_no_program_that_has_become_wrong_accelerates_after_the_first_step(
    kernel: Kernel, target: FastpathTarget
) -> None:
    """Neither by what it does nor by where it sends, while anything at all is accelerated afterwards."""
    kernel.gone = set()
    numbers = dict(kernel.exits)
    for position, step in enumerate(plan(kernel, target)):
        kernel.act(step)
        wrong = {
            port: build
            for port, build in kernel.running.items()
            if port in target.accelerations and target.accelerations[port].build != build
        }
        stray = {i for i in numbers.keys() - target.exits if kernel.running}
        if (
            position >= 1
            and target.accelerations
            and numbers
            and (wrong or (stray and stray & kernel.exits.keys()))
        ):
            assert kernel.paused


def test_another_builds_tables_wait_for_the_first_program_of_this_one() -> None:
    """What they have counted goes on in tables that are made with it."""
    port = PORTS[0]
    found = FastpathState(idle={port: ("a",)}, other_tables=("0123456789ab",))
    waiting = FastpathTarget(standby=frozenset({port.ifindex}))
    assert list(superseded(found, waiting)) == []
    coming = FastpathTarget({port: Acceleration(port, "eth1", "o", {}, "b")}, standby=waiting.standby)
    for target, now in (
        (coming, found),
        (waiting, replace(found, has_tables=True)),
        (FastpathTarget(), found),
    ):
        assert [type(step) for step in superseded(now, target)] == [ForgetFastpath, RetireTables]
