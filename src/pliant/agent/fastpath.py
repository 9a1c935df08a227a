# SPDX-License-Identifier: Apache-2.0
"""The fast path of a host: what policies ask for, what its network allows, and what has come of it."""

from __future__ import annotations

import contextlib
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pliant.errors import PliantError
from pliant.kernel.errors import KernelError
from pliant.kernel.packet_counts import Counted
from pliant.kernel.programs import Program
from pliant.observe.fastpath import (
    FORWARDED,
    FastpathPins,
    FastpathState,
    Mode,
    Port,
    hooked_program,
    own_programs,
    read_counts,
    read_fastpath,
)
from pliant.plan.fastpath import STEPS, AttachFastpath, LoadFastpath, SetExits, SwitchFastpath
from pliant.policy.fastpath import FastpathPolicy, Wishes, is_glob

if TYPE_CHECKING:
    from pliant.fastpath.arrangement import Arrangement
    from pliant.fastpath.target import FastpathTarget
    from pliant.fastpath.topology import Topology
    from pliant.observe.network import Facts, Interface
    from pliant.plan.executor import PlanFailed
    from pliant.plan.steps import Step


TRY_AGAIN_S = 60.0
OVERTAKEN_S = 0.1
READ_AGAIN = 3  # times


@dataclass
class FastpathGround:
    """The network namespace of this process, as far as its fast path is concerned.

    ``facts`` reads what is configured there, ``wait`` waits so many seconds at most until that has changed.
    ``refusals`` has what the kernel said when a program was to be attached, by the interface's name and the mode.
    Nothing is read or imported before it is needed: most hosts have no fast path.
    """

    pins_root: Path
    facts: Callable[[], Facts] | None = None
    wait: Callable[[float], object] = lambda seconds: None
    refusals: dict[tuple[str, Mode], str] = field(default_factory=dict)
    _own: frozenset[int] = frozenset()
    _told: Facts | None = None
    _taken: set[str] = field(default_factory=set)
    _refused: dict[str, tuple[Interface, float]] = field(default_factory=dict)

    @property
    def pins(self) -> FastpathPins:
        """Where the fast path of this build is pinned."""
        from pliant.fastpath.objects import tables_layout

        return FastpathPins(self.pins_root, tables_layout())

    def found(self) -> FastpathState:
        """What of it is in the kernel."""
        if not self.is_there:
            return FastpathState()
        from pliant.observe.attached import Attached

        with Attached(self._told) as attached:
            for _ in range(READ_AGAIN):
                with contextlib.suppress(
                    FileNotFoundError, KernelError
                ):  # another process is changing it just now
                    return read_fastpath(self.pins, attached.has)
            return read_fastpath(self.pins, attached.has)

    def topology(self, wishes: Wishes) -> Topology:
        """What can be accelerated, where that goes by what policies ask for."""
        from pliant.fastpath.topology import topology

        facts = self._facts()
        return topology(facts, own=self.own(facts), counts=wishes.counts)

    def own(self, facts: Facts) -> frozenset[int]:
        """The programs among those of the facts that are ours, or were when they were read."""
        attached = {found.program_id for at in facts.interfaces for found in at.xdp}
        attached |= {found.program_id for found in facts.tcx}
        if self.is_there and not attached <= self._own:
            self._own |= own_programs(self.pins) | _behind_own_links(self.pins, facts)
        return self._own

    @property
    def is_there(self) -> bool:
        """Whether anything of ours is pinned."""
        return (self.pins_root / "fastpath").exists()

    def arrangements(self, wishes: Wishes) -> tuple[Arrangement, ...]:
        """What each interface is to run."""
        return self._arranged(wishes)[1]

    def warm(self, target: FastpathTarget) -> None:
        """Make the objects of a target ready in this process, so that the next program is loaded sooner."""
        from pliant.fastpath.objects import shared_tables, shipped_object
        from pliant.kernel.maps import Map
        from pliant.kernel.templates import template_of

        pins = self.pins
        with contextlib.ExitStack() as held:
            shared = {
                name: held.enter_context(Map.pinned(pins.table(name)))
                for name in shared_tables()
                if pins.table(name).exists()
            }
            for name in {acceleration.object for acceleration in target.accelerations.values()}:
                with contextlib.suppress(KernelError):  # then it is loaded as any other
                    template_of(shipped_object(name), name, shared)

    def target(self, wishes: Wishes) -> FastpathTarget:
        """The programs that do what is asked for, as far as it can be done."""
        from pliant.fastpath.arrangement import target_of
        from pliant.fastpath.target import FastpathTarget

        return target_of(*self._arranged(wishes)) if wishes else FastpathTarget()

    def yield_to(self, failed: PlanFailed) -> bool:
        """Take in why a plan failed, so that the next one does not; False where it was not about interfaces.

        One that is gone since the facts were read will not be in the next facts. One that the kernel has not taken a
        program on is left out, until something about it has changed, and tried again now and then.
        """
        step = failed.step
        there = {index for index, _ in socket.if_nameindex()}
        if isinstance(step, STEPS) and not there.issuperset(_indices(step)):
            self.wait(OVERTAKEN_S)
            return True
        if isinstance(step, LoadFastpath):
            name, mode = step.acceleration.interface, step.acceleration.port.mode
        elif isinstance(step, AttachFastpath | SwitchFastpath):
            name, mode = step.interface, step.port.mode
        else:
            return False
        if (name, mode) in self.refusals:
            return False
        self.refusals[name, mode] = failed.cause.message
        at = self._facts().interface(name)
        if at is not None:
            self._refused[name] = (at, time.monotonic())
        return True

    def take_over(self, refused: Iterable[Mapping[str, str]]) -> None:
        """Take in what the kernel has refused an agent, as it tells it."""
        facts = self._facts() if refused else None
        for one in refused:
            at = facts.interface(one["interface"]) if facts else None
            if at is not None:
                self.refusals[at.name, Mode(one["mode"])] = one["sentence"]
                self._refused[at.name] = (at, time.monotonic())

    def _forgive(self, facts: Facts) -> None:
        """Forget what was refused on interfaces that are not as they were, or a while ago."""
        for name, (at, since) in tuple(self._refused.items()):
            if facts.interface(name) != at or time.monotonic() - since > TRY_AGAIN_S:
                del self._refused[name]
        self.refusals = {key: said for key, said in self.refusals.items() if key[0] in self._refused}

    def _arranged(self, wishes: Wishes) -> tuple[Topology, tuple[Arrangement, ...]]:
        from pliant.fastpath.arrangement import arrange

        topology = self.topology(wishes)
        self._forgive(topology.facts)
        return topology, arrange(topology, wishes, self.refusals, self._lacking)

    def _lacking(self, name: str) -> str:
        """What the kernel lacks for an object; it is not asked where it has taken that already."""
        from pliant.fastpath.abilities import lacking

        if name not in self._taken:
            if name not in _pinned_objects(self.pins) and (said := lacking(name)):
                return said
            self._taken.add(name)
        return ""

    def _facts(self) -> Facts:
        from pliant.observe.network_reader import read_facts

        self._told = self.facts() if self.facts else read_facts()
        return self._told


def _pinned_objects(pins: FastpathPins) -> set[str]:
    """The names of the objects whose programs are pinned."""
    found = set()
    for port in pins.ports():
        with contextlib.suppress(FileNotFoundError, KernelError):  # another process is changing it just now
            for build in pins.builds(port):
                with Program.pinned(pins.program(port, build)) as program:
                    found.add(program.name)
    return found


def _behind_own_links(pins: FastpathPins, facts: Facts) -> frozenset[int]:
    """The programs that facts have where links of ours are: the kernel does not tell when a link's is replaced."""
    found = set()
    for port in pins.ports():
        at = facts.interface(port.ifindex)
        if at is not None and hooked_program(pins, port):
            found |= {attached.program_id for attached in at.xdp if attached.mode == port.mode}
    return frozenset(found)


def _indices(step: Step) -> set[int]:
    """The interfaces that a step is about."""
    if isinstance(step, SetExits):
        return set(step.exits)
    if isinstance(step, LoadFastpath):
        return {step.acceleration.port.ifindex}
    return {step.port.ifindex} if isinstance(step, AttachFastpath | SwitchFastpath) else set()


def check_fastpaths(
    given: Iterable[FastpathPolicy],
    wishes: Wishes,
    arrangements: Sequence[Arrangement],
    *,
    allow_waiting: bool,
) -> None:
    """Raise when this host cannot do what policies ask for by name, or when two of them ask for different things.

    An interface that only a glob stands for may be left out: ``pliant fastpath status`` says so. ``wishes`` are those
    of all policies, ``arrangements`` what comes of them.
    """
    there = {arranged.way.name: arranged for arranged in arrangements}
    if draws := list(wishes.draws(there)):
        raise PliantError("\n".join(draws), remedy="give one of them a higher spec.priority")
    missing, unable = [], []
    for policy in given:
        for name in policy.spec.interfaces:
            if is_glob(name):
                continue
            if name not in there:
                missing.append(f"policy '{policy.name}': there is no interface {name}")
            elif sentence := _unable(policy, there[name]):
                unable.append(sentence)
    if missing and not allow_waiting:
        names = ", ".join(sorted(there)) or "none but loopback"
        raise PliantError(
            "\n".join(missing),
            remedy=f"there are: {names}; --allow-waiting keeps the policy until the interface appears",
        )
    if unable:
        raise PliantError("\n".join(unable), remedy="leave spec.mode out, or name another one")


def _unable(policy: FastpathPolicy, arranged: Arrangement) -> str:
    """Why an interface cannot run a fast path in the way that is asked for by name."""
    if arranged.wish is None or arranged.wish.policy != policy.name or policy.spec.mode == "auto":
        return ""
    against = [reason.sentence for reason in arranged.reasons if reason.module == policy.spec.mode]
    if arranged.mode is not None or not against:
        return ""
    return f"policy '{policy.name}': spec.mode: {'; '.join(against)}"


@dataclass(frozen=True, slots=True)
class InterfaceStatus:
    """What has come of the fast path on one interface.

    ``state`` is ``accelerated``, ``pending`` (it does not run what it should: the next change of the host mends that),
    ``waiting`` (asked for, and not possible) or ``off`` (not asked for). ``accelerated`` are packets and bytes,
    ``dropped`` packets that nftables drops and were dropped in place, ``passed`` those that were left to the kernel, by
    the reason.
    """

    arranged: Arrangement
    state: str
    accelerated: tuple[int, int] = (0, 0)
    dropped: int = 0
    passed: Mapping[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The interface's name."""
        return self.arranged.way.name


def interface_statuses(
    ground: FastpathGround, wishes: Wishes, arrangements: Sequence[Arrangement]
) -> list[InterfaceStatus]:
    """What has come of the fast path on every interface but loopback."""
    from pliant.fastpath.arrangement import target_of

    target = target_of(ground.topology(wishes), arrangements) if wishes else None
    wanted = {
        port: acceleration.build for port, acceleration in (target.accelerations if target else {}).items()
    }
    found = ground.found()
    return [_status(ground, arranged, wanted, found) for arranged in arrangements]


def _status(
    ground: FastpathGround, arranged: Arrangement, wanted: Mapping[Port, str], found: FastpathState
) -> InterfaceStatus:
    index = arranged.way.index
    build = next((b for port, b in wanted.items() if port.ifindex == index), None)
    running = {port: b for port, b in found.running.items() if port.ifindex == index}
    if list(running.values()) != ([build] if build else []) or (build and found.paused):
        state = "pending"
    elif build:
        state = "accelerated"
    else:
        state = "waiting" if arranged.wish else "off"
    totals = [read_counts(ground.pins, port) for port in found.ports if port.ifindex == index]
    return InterfaceStatus(arranged, state, *_counted(totals))


def _counted(totals: Iterable[Sequence[Counted]]) -> tuple[tuple[int, int], int, dict[str, int]]:
    """What was accelerated, dropped, and left to the kernel and why, over all programs of an interface."""
    from pliant.fastpath.counters import DROPPED
    from pliant.fastpath.objects import counted_reasons

    packets: Counter[int] = Counter()
    accelerated_bytes = 0
    for counted in totals:
        packets.update({number: one.packets for number, one in enumerate(counted) if one.packets})
        accelerated_bytes += counted[FORWARDED].bytes if counted else 0
    names = counted_reasons()
    passed = {names.get(n, str(n)): count for n, count in packets.most_common() if n != FORWARDED}
    return (packets[FORWARDED], accelerated_bytes), passed.pop(DROPPED, 0), passed
