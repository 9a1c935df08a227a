# SPDX-License-Identifier: Apache-2.0
"""A kernel in memory that takes steps as the real one does, and is strict about their order."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import singledispatchmethod

from pliant.features.encoding import encode
from pliant.features.layout import Layout
from pliant.observe.state import Attached, HostState
from pliant.observe.tables import Table
from pliant.plan.planner import Target
from pliant.plan.steps import (
    Attach,
    Detach,
    ForgetProgram,
    LoadObject,
    ReplaceProgram,
    RestoreProgram,
    RetireLayout,
    Step,
    UnloadObject,
    WriteTable,
)
from pliant.policy.desired import SCOPE, DesiredState

TABLES = {SCOPE: ("policies", "rules", "services")}


class Misstep(AssertionError):
    """A step that the kernel would refuse, or that would leave connections half served."""


@dataclass
class Loaded:
    """An object in the kernel: ``verdicts`` tells which scope's verdicts its program reads or writes."""

    build: str
    program: int
    verdicts: int


@dataclass
class Link:
    """An attachment: the program it runs, and the verdicts that program reads or writes."""

    program: int
    verdicts: int


@dataclass
class FakeKernel:
    """What is loaded, pinned and attached; ``links`` are in the order in which they were attached.

    ``strict`` also refuses what the kernel would do, but no plan should: a feature in front of scope.
    """

    cgroups: Mapping[str, int]
    objects: dict[str, Loaded] = field(default_factory=dict)
    partial: set[str] = field(default_factory=set)
    tables: dict[Table, dict[bytes, bytes]] = field(default_factory=dict)
    links: dict[Attached, Link] = field(default_factory=dict)
    layouts: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)  # replaced programs that are still pinned
    strict: bool = True
    ids: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    # -- looking

    def observe(self) -> HostState:
        """What :func:`pliant.observe.reader.read_state` would find."""
        stale = {attached for attached in self.links if not self.is_sound(attached)}
        return HostState(
            builds={name: loaded.build for name, loaded in self.objects.items()},
            partial=frozenset(self.partial),
            tables={table: dict(entries) for table, entries in self.tables.items()},
            attachments=frozenset(self.links.keys() - stale),
            stale=frozenset(stale),
            other_layouts=tuple(self.layouts),
        )

    def is_sound(self, attached: Attached) -> bool:
        """Whether a link runs its object's program on a cgroup that exists."""
        loaded = self.objects.get(attached.program)
        exists = attached.cgroup_id in self.cgroups.values()
        return exists and loaded is not None and loaded.program == self.links[attached].program

    def running(self, cgroups: Iterable[str]) -> list[str]:
        """The programs that run for a socket, given its cgroup and the ones above it, in order.

        A feature counts as running only if it reads the verdicts that the scope in front of it writes.
        """
        order = []
        verdicts = -1
        for cgroup in cgroups:
            for attached, link in self.links.items():
                if attached.cgroup_id != self.cgroups[cgroup]:
                    continue
                if attached.program == SCOPE:
                    verdicts = link.verdicts
                if link.verdicts == verdicts:
                    order.append(attached.program)
        return order

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
        _require(step.object == SCOPE or SCOPE in self.objects, f"{step}: no verdicts to read")
        number = next(self.ids)
        verdicts = number if step.object == SCOPE else self.objects[SCOPE].verdicts
        self.objects[step.object] = Loaded(step.build, number, verdicts)
        for name in TABLES.get(step.object, ("settings",)):
            self.tables[Table(step.object, name)] = {}

    @act.register
    def _unload(self, step: UnloadObject) -> None:
        _require(step.object in self.objects or step.object in self.partial, f"{step}: ENOENT")
        attached = [a for a in self.links if a.program == step.object]
        _require(not attached, f"{step}: still attached to {attached}")
        _require(
            step.object != SCOPE or not self.objects.keys() - {SCOPE}, f"{step}: features read its verdicts"
        )
        self.objects.pop(step.object, None)
        self.partial.discard(step.object)
        for table in [table for table in self.tables if table.object == step.object]:
            _require(not self.tables.pop(table) or not step.build, f"{step}: entries would be lost")

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
        assert loaded is not None
        loaded.build, loaded.program = step.build, next(self.ids)
        for attached, link in self.links.items():
            if attached.program == step.object:
                _require(attached.cgroup_id in self.cgroups.values(), f"{step}: ENOLINK (cgroup_bpf_replace)")
                link.program = loaded.program

    @act.register
    def _write(self, step: WriteTable) -> None:
        _require(step.table in self.tables, f"{step}: no such table")
        entries = self.tables[step.table]
        found = {key: entries.get(key) for key in step.before}
        _require(found == step.before, f"{step}: what was there before is {found}")
        _require(step.before.keys() == step.puts.keys() | step.deletes, f"{step}: 'before' is not complete")
        entries.update(step.puts)
        for key in step.deletes:
            _require(entries.pop(key, None) is not None, f"{step}: ENOENT")

    @act.register
    def _attach(self, step: Attach) -> None:
        attached = Attached(step.cgroup_id, step.program)
        _require(self.cgroups.get(step.cgroup) == step.cgroup_id, f"{step}: no such cgroup")
        _require(step.program in self.objects, f"{step}: not loaded")
        _require(attached not in self.links, f"{step}: attached already")
        others = any(a.cgroup_id == step.cgroup_id for a in self.links)
        in_order = not others if step.program == SCOPE else (step.cgroup_id, SCOPE) in self.links
        _require(in_order or not self.strict, f"{step}: scope does not run first")
        loaded = self.objects[step.program]
        self.links[attached] = Link(loaded.program, loaded.verdicts)

    @act.register
    def _detach(self, step: Detach) -> None:
        attached = Attached(step.cgroup_id, step.program)
        _require(attached in self.links, f"{step}: not attached")
        others = {a.program for a in self.links if a.cgroup_id == step.cgroup_id} - {SCOPE}
        _require(step.program != SCOPE or not others, f"{step}: {others} would be left alone")
        del self.links[attached]

    @act.register
    def _retire(self, step: RetireLayout) -> None:
        self.layouts.remove(step.layout)


def _require(condition: bool, complaint: str) -> None:
    if not condition:
        raise Misstep(complaint)


def target_of(desired: DesiredState, layout: Layout, build: str = "b1") -> Target:
    """The target of a desired state, all objects from one build."""
    return Target(dict.fromkeys(desired.programs, build), encode(desired, layout), desired.attachments)


def take(kernel: FakeKernel, steps: Iterable[Step]) -> None:
    """Take steps and read each of them back."""
    for step in steps:
        kernel.act(step)
        kernel.read_back(step)
