# SPDX-License-Identifier: Apache-2.0
"""A kernel in memory that takes steps as the real one does, and is strict about their order."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import singledispatchmethod

from pliant.features.encoding import encode, live_digest
from pliant.features.layout import Layout, shipped_layout
from pliant.observe.pin_tree import Hook
from pliant.observe.state import HostState
from pliant.observe.tables import Table
from pliant.plan.planner import Target
from pliant.plan.steps import (
    Attach,
    CarryCounters,
    Detach,
    ForgetProgram,
    GiveBack,
    LoadObject,
    ReplaceProgram,
    RestoreProgram,
    RetireLayout,
    RetuneOnUndo,
    Step,
    TakeOver,
    TuneOpen,
    UnloadObject,
    WriteTable,
)
from pliant.policy.desired import SCOPE, DesiredState

TABLES = {SCOPE: ("asked", "effects", "policies", "rules", "services")}
POLICIES, RULES = Table(SCOPE, "policies"), Table(SCOPE, "rules")


class Misstep(AssertionError):
    """A step that the kernel would refuse, or that would leave connections half served."""


@dataclass(frozen=True)
class Program:
    """A program: ``maps`` tells of which loading of scope it uses the maps, the ``features`` table among them."""

    number: int
    maps: int


@dataclass
class Loaded:
    """An object that is pinned."""

    build: str
    program: Program


@dataclass
class FakeKernel:
    """What is loaded, pinned and attached.

    ``links`` has the program that each cgroup's link runs, ``called`` is scope's ``features`` table: a program by
    option slot. ``strict`` also refuses what the kernel would do, but no plan should: rules for options that nothing
    sets.
    """

    cgroups: Mapping[str, int]
    objects: dict[str, Loaded] = field(default_factory=dict)
    partial: set[str] = field(default_factory=set)
    tables: dict[Table, dict[bytes, bytes]] = field(default_factory=dict)
    links: dict[Hook, Program] = field(default_factory=dict)
    called: dict[int, Program] = field(default_factory=dict)
    layouts: list[str] = field(default_factory=list)
    elsewhere: dict[Hook, str] = field(default_factory=dict)  # where other builds' scope is attached
    tuned: int = 0
    kept: dict[str, str] = field(default_factory=dict)  # replaced programs that are still pinned
    strict: bool = True
    layout: Layout = field(default_factory=shipped_layout)
    ids: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    # -- looking

    def observe(self) -> HostState:
        """What :func:`pliant.observe.reader.read_state` would find."""
        usable = {name for name in self.objects if SCOPE not in self.objects or self.is_called(name)}
        stale = {hook for hook in self.links if not self.is_sound(hook)}
        return HostState(
            builds={name: self.objects[name].build for name in usable},
            partial=frozenset(self.partial | self.objects.keys() - usable),
            tables={table: dict(held) for table, held in self.tables.items() if table.object in usable},
            attachments=frozenset(self.links.keys() - stale),
            stale=frozenset(stale),
            tuned=self.tuned,
            other_layouts=tuple(self.layouts),
            elsewhere=dict(self.elsewhere),
        )

    def is_called(self, name: str) -> bool:
        """Whether a feature's slot holds its program; scope needs none."""
        return name == SCOPE or self.called.get(self.layout.slots[name]) == self.objects[name].program

    def is_sound(self, hook: Hook) -> bool:
        """Whether a link runs scope's program on a cgroup that exists."""
        scope = self.objects.get(SCOPE)
        exists = hook.cgroup_id in self.cgroups.values()
        return exists and scope is not None and scope.program == self.links[hook]

    def running(self, cgroups: Iterable[str]) -> list[str]:
        """The programs that can run for a socket, given its cgroup and the ones above it, in order.

        Scope runs for each link. It calls what its slots hold, and a feature does something only if it was loaded
        with the maps of that scope, for it finds the verdict there.
        """
        order = []
        hooks = [Hook(SCOPE, self.cgroups[cgroup]) for cgroup in cgroups]
        for link in (self.links[hook] for hook in hooks if hook in self.links):
            order.append(SCOPE)
            for name, slot in sorted(self.layout.slots.items(), key=lambda item: item[1]):
                feature = self.called.get(slot)
                if feature is not None and feature.maps == link.maps:
                    order.append(name)
        return order

    def uncalled(self, rules: Iterable[bytes]) -> set[str]:
        """The options that policies named by these rules set and no program does."""
        named = {n for rule in rules for n in self.layout.scope["rule"].unpack(rule)["policy"] if n}
        return {name for name in self._options(named) if self.layout.slots[name] not in self.called}

    def _options(self, numbers: Iterable[int]) -> Iterator[str]:
        policies = self.tables.get(POLICIES, {})
        for number in numbers:
            found = policies.get(number.to_bytes(4, sys.byteorder))
            options = self.layout.scope["policy"].unpack(found)["options"] if found else 0
            yield from (name for name, slot in self.layout.slots.items() if options >> slot & 1)

    # -- changing

    @singledispatchmethod
    def act(self, step: Step) -> None:
        """Take a step, or raise :class:`Misstep`."""
        raise NotImplementedError

    def read_back(self, step: Step) -> None:
        """The fake does what it is told."""

    @act.register
    def _load(self, step: LoadObject) -> None:
        _require(step.object not in self.objects and step.object not in self.partial, f"{step}: EEXIST")
        _require(bool(step.build), f"{step}: no file")
        _require(step.object == SCOPE or SCOPE in self.objects, f"{step}: no scope to be called by")
        number = next(self.ids)
        if step.object == SCOPE:
            program = Program(number, maps=number)
            self.called = {}
            self.tuned = 0
        else:
            program = Program(number, self.objects[SCOPE].program.maps)
            self.called[self.layout.slots[step.object]] = program
        self.objects[step.object] = Loaded(step.build, program)
        for name in TABLES.get(step.object, ("settings",)):
            self.tables[Table(step.object, name)] = {}

    @act.register
    def _unload(self, step: UnloadObject) -> None:
        _require(step.object in self.objects or step.object in self.partial, f"{step}: ENOENT")
        if step.object == SCOPE:
            others = (self.objects.keys() | self.partial) - {SCOPE}
            _require(not self.links, f"{step}: still attached to {set(self.links)}")
            _require(not others, f"{step}: {others} use its maps")
            _require(not self.tuned, f"{step}: open connections would stay as they are")
            self.called = {}
        else:
            self.called.pop(self.layout.slots[step.object], None)
        self.objects.pop(step.object, None)
        self.partial.discard(step.object)
        for table in [table for table in self.tables if table.object == step.object]:
            _require(not self.tables.pop(table) or not step.build, f"{step}: entries would be lost")
        if step.build:  # what was loaded half was not called before either
            self._require_called(step, self.tables.get(RULES, {}).values())

    @act.register
    def _replace(self, step: ReplaceProgram) -> None:
        self._switch(step, step.previous)
        self.kept[step.object] = step.previous

    @act.register
    def _restore(self, step: RestoreProgram) -> None:
        _require(self.kept.pop(step.object, None) == step.build, f"{step}: nothing to put back")
        self._switch(step, step.replacement)

    @act.register
    def _forget(self, step: ForgetProgram) -> None:
        _require(self.kept.pop(step.object, None) == step.build, f"{step}: nothing to forget")

    def _switch(self, step: ReplaceProgram | RestoreProgram, running: str) -> None:
        loaded = self.objects.get(step.object)
        _require(loaded is not None and loaded.build == running, f"{step}: another build is there")
        _require(SCOPE in self.objects, f"{step}: no scope to be called by")
        assert loaded is not None
        maps = self.objects[SCOPE].program.maps
        loaded.build, loaded.program = step.build, replace(loaded.program, number=next(self.ids), maps=maps)
        if step.object != SCOPE:
            self.called[self.layout.slots[step.object]] = loaded.program
            return
        for hook in self.links:
            _require(hook.cgroup_id in self.cgroups.values(), f"{step}: ENOLINK (cgroup_bpf_replace)")
            self.links[hook] = loaded.program

    @act.register
    def _write(self, step: WriteTable) -> None:
        _require(step.table in self.tables, f"{step}: no such table")
        entries = self.tables[step.table]
        found = {key: entries.get(key) for key in step.before}
        _require(found == step.before, f"{step}: what was there before is {found}")
        _require(step.before.keys() == step.puts.keys() | step.deletes, f"{step}: 'before' is not complete")
        if step.table == RULES:
            self._require_called(step, step.puts.values())
        entries.update(step.puts)
        for key in step.deletes:
            _require(entries.pop(key, None) is not None, f"{step}: ENOENT")

    @act.register
    def _attach(self, step: Attach) -> None:
        _require(self.cgroups.get(step.cgroup) == step.hook.cgroup_id, f"{step}: no such cgroup")
        _require(SCOPE in self.objects, f"{step}: not loaded")
        _require(step.hook not in self.links, f"{step}: attached already")
        self.links[step.hook] = self.objects[SCOPE].program

    @act.register
    def _detach(self, step: Detach) -> None:
        _require(step.hook in self.links, f"{step}: not attached")
        del self.links[step.hook]

    @act.register
    def _tune(self, step: TuneOpen) -> None:
        """Also where they are there already: taking back is not told how far a plan has come."""
        _require(
            self.tuned in (step.before, step.after) and (step.adopt or step.before != step.after),
            f"{step}: they are at {self.tuned}",
        )
        self.tuned = step.after

    @act.register
    def _stand_by(self, step: RetuneOnUndo) -> None:
        _require(self.tuned == step.before, f"{step}: they are at {self.tuned}")

    @act.register
    def _carry(self, step: CarryCounters) -> None:
        _require(step.layout in self.layouts, f"{step}: no such layout")
        attached = {hook for hook, layout in self.elsewhere.items() if layout == step.layout}
        _require(not attached & self.links.keys(), f"{step}: both count on {attached}")

    @act.register
    def _take_over(self, step: TakeOver) -> None:
        _require(self.elsewhere.pop(step.hook, "") == step.layout, f"{step}: there is no such link")
        self._attach(Attach("", step.hook, step.cgroup))

    @act.register
    def _give_back(self, step: GiveBack) -> None:
        self._detach(Detach("", step.hook, step.cgroup))
        self.elsewhere[step.hook] = step.layout

    @act.register
    def _retire(self, step: RetireLayout) -> None:
        self.layouts.remove(step.layout)
        self.elsewhere = {hook: layout for hook, layout in self.elsewhere.items() if layout != step.layout}

    def _require_called(self, step: Step, rules: Iterable[bytes]) -> None:
        if self.strict:
            uncalled = self.uncalled(rules)
            _require(not uncalled, f"{step}: rules name {uncalled}, which nothing sets")


def _require(condition: bool, complaint: str) -> None:
    if not condition:
        raise Misstep(complaint)


def target_of(desired: DesiredState, layout: Layout, build: str = "b1") -> Target:
    """The target of a desired state, all objects from one build."""
    tables = encode(desired, layout)
    return Target(
        dict.fromkeys(desired.programs, build), tables, desired.attachments, live_digest(desired, tables)
    )


def take(kernel: FakeKernel, steps: Iterable[Step]) -> None:
    """Take steps and read each of them back."""
    for step in steps:
        kernel.act(step)
        kernel.read_back(step)
