# SPDX-License-Identifier: Apache-2.0
"""Carries steps out in the kernel and reads them back. Each one may be taken again after it was taken half."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from functools import singledispatchmethod
from pathlib import Path

from pliant.errors import PliantError
from pliant.features.layout import Layout
from pliant.kernel.errors import KernelError
from pliant.kernel.links import AttachType, Link, attach_cgroup
from pliant.kernel.maps import Map, MapType
from pliant.kernel.objects import LoadedObject, load
from pliant.kernel.pins import PinDirectory
from pliant.kernel.programs import Program
from pliant.kernel.rcu import wait_for_running_programs
from pliant.observe.pin_tree import PROGRAM_PREFIX, PinTree
from pliant.observe.reader import FEATURES, POLICY_CONSTANT_BYTES, read_table
from pliant.observe.tables import Table
from pliant.plan.planner import RULES
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
from pliant.policy.desired import SCOPE

READ_WHOLE_TABLE_FROM = 256  # entries; below this each is read by itself
SHARED_MAPS = ("accepted", "features", "verdicts")  # scope's, used by every feature


class KernelActuator:
    """Takes steps on the host this process runs on.

    ``cgroup_root`` is where cgroup v2 is mounted; ``holdout_key`` is the host's secret for choosing held-out
    connections. Errors are those of :mod:`pliant.kernel.errors`.
    """

    def __init__(self, pins: PinTree, layout: Layout, cgroup_root: Path, holdout_key: int) -> None:
        self.pins = pins
        self.layout = layout
        self.cgroup_root = cgroup_root
        self.holdout_key = holdout_key
        self._told = False  # whether a rule was changed since the last wait for running programs

    @singledispatchmethod
    def act(self, step: Step) -> None:
        """Make the change. See :class:`pliant.plan.executor.Actuator`."""
        raise TypeError(f"no way to take a step of type {type(step).__name__}")

    @singledispatchmethod
    def read_back(self, step: Step) -> None:
        """Check the change in the kernel. See :class:`pliant.plan.executor.Actuator`."""
        raise TypeError(f"no way to read back a step of type {type(step).__name__}")

    # -- objects

    @act.register
    def _load(self, step: LoadObject) -> None:
        if self.pins.program(step.object, step.build).exists():
            return  # it was to be unloaded, and was not
        PinDirectory(self.pins.object(step.object)).remove_tree()
        with self._loaded(step.object, reuse={}) as loaded:
            directory = self.pins.object(step.object)
            directory.mkdir(parents=True, exist_ok=True)
            for name, held in loaded.maps.items():
                if not name.startswith(".") and (step.object == SCOPE or name not in SHARED_MAPS):
                    held.pin(directory / name)
            program = loaded.programs[step.object]
            if step.object != SCOPE:
                self._call(step.object, program)
            program.pin(self.pins.program(step.object, step.build))

    @read_back.register
    def _load_done(self, step: LoadObject) -> None:
        with Program.pinned(self.pins.program(step.object, step.build)) as program:
            if step.object != SCOPE:
                self._check_called(step.object, program)

    @act.register
    def _unload(self, step: UnloadObject) -> None:
        """The pin of the program goes first: what is left half is then seen to be incomplete."""
        for build in self.pins.builds(step.object):
            self.pins.program(step.object, build).unlink()
        if step.object in self.layout.slots and self.pins.map(FEATURES).exists():
            with Map.pinned(self.pins.map(FEATURES)) as features:
                features.delete(_slot(self.layout.slots[step.object]))
        PinDirectory(self.pins.object(step.object)).remove_tree()
        self._remove_if_empty()

    @read_back.register
    def _unload_done(self, step: UnloadObject) -> None:
        if self.pins.object(step.object).exists():
            raise KernelError(f"{self.pins.object(step.object)} is still there")

    @act.register
    def _replace(self, step: ReplaceProgram) -> None:
        pin = self.pins.program(step.object, step.build)
        if not pin.exists():  # replacing it was not interrupted before
            tables = (path for path in self.pins.object(step.object).iterdir() if not _is_program(path))
            with contextlib.ExitStack() as stack:
                maps = {path.name: stack.enter_context(Map.pinned(path)) for path in tables}
                loaded = stack.enter_context(self._loaded(step.object, reuse=maps))
                loaded.programs[step.object].pin(pin)
        self._switch(step.object, step.build)

    @act.register
    def _restore(self, step: RestoreProgram) -> None:
        self._switch(step.object, step.build)
        self.pins.program(step.object, step.replacement).unlink(missing_ok=True)

    def _switch(self, name: str, build: str) -> None:
        """Have every call go to the program of one build."""
        with Program.pinned(self.pins.program(name, build)) as program:
            if name != SCOPE:
                self._call(name, program)
                return
            for cgroup_id in self.pins.attached():
                with Link.pinned(self.pins.link(cgroup_id)) as link:
                    link.update(program)

    @read_back.register
    def _switched(self, step: ReplaceProgram | RestoreProgram) -> None:
        with Program.pinned(self.pins.program(step.object, step.build)) as program:
            if step.object != SCOPE:
                self._check_called(step.object, program)
                return
            for cgroup_id in self.pins.attached():
                self._check_link(cgroup_id, program)

    def _call(self, name: str, program: Program) -> None:
        """Have scope call a feature's program from now on."""
        with Map.pinned(self.pins.map(FEATURES)) as features:
            features.put(_slot(self.layout.slots[name]), program.fileno().to_bytes(4, sys.byteorder))

    def _check_called(self, name: str, program: Program) -> None:
        with Map.pinned(self.pins.map(FEATURES)) as features:
            if features.get(_slot(self.layout.slots[name])) != program.id.to_bytes(4, sys.byteorder):
                raise KernelError(f"scope does not call the program {name}")

    @act.register
    def _forget(self, step: ForgetProgram) -> None:
        self.pins.program(step.object, step.build).unlink(missing_ok=True)

    @read_back.register
    def _forgotten(self, step: ForgetProgram) -> None:
        if self.pins.program(step.object, step.build).exists():
            raise KernelError(f"the replaced program {step.object} is still pinned")

    @contextlib.contextmanager
    def _loaded(self, name: str, reuse: dict[str, Map]) -> Iterator[LoadedObject]:
        is_scope = name == SCOPE
        rodata = {"holdout_key": self.holdout_key} if is_scope else {"option_slot": self.layout.slots[name]}
        with contextlib.ExitStack() as stack:
            for shared in () if is_scope else SHARED_MAPS:
                held = stack.enter_context(Map.pinned(self.pins.map(Table(SCOPE, shared))))
                reuse = reuse | {shared: held}
            yield stack.enter_context(
                load(self.layout.objects[name], feature=name, rodata=rodata, reuse=reuse)
            )

    # -- tables

    @act.register
    def _write(self, step: WriteTable) -> None:
        """Write, then delete; a value goes only when every program that may have been told of it has ended."""
        if step.table.map in RULES:
            self._told = True
        elif step.deletes and self._told:
            wait_for_running_programs()
            self._told = False
        with Map.pinned(self.pins.map(step.table)) as held:
            held.put_many(step.puts.items())
            held.delete_many(step.deletes)

    @read_back.register
    def _write_done(self, step: WriteTable) -> None:
        if len(step.puts) + len(step.deletes) >= READ_WHOLE_TABLE_FROM:
            found = read_table(self.pins, step.table)
            missing = step.puts.items() - found.items()
            left = step.deletes & found.keys()
        else:
            with Map.pinned(self.pins.map(step.table)) as held:
                missing = {
                    (key, value) for key, value in step.puts.items() if not _holds(held, step, key, value)
                }
                left = frozenset(key for key in step.deletes if _is_left(held, key))
        if missing or left:
            raise KernelError(
                f"{len(missing)} entries were not taken by {step.table} and {len(left)} are still there"
            )

    # -- attachments

    @act.register
    def _attach(self, step: Attach) -> None:
        pin = self.pins.link(step.cgroup_id)
        if pin.exists():
            return
        self.pins.links.mkdir(parents=True, exist_ok=True)
        cgroup = self.cgroup_root / step.cgroup.lstrip("/")
        with self._scope() as program, attach_cgroup(program, cgroup, AttachType.CGROUP_SOCK_OPS) as link:
            link.pin(pin)

    @read_back.register
    def _attach_done(self, step: Attach) -> None:
        with self._scope() as program:
            self._check_link(step.cgroup_id, program)

    @act.register
    def _detach(self, step: Detach) -> None:
        pin = self.pins.link(step.cgroup_id)
        try:
            with Link.pinned(pin) as link:
                link.detach()
        except KernelError:
            if not pin.exists():
                return  # taken already
        pin.unlink(missing_ok=True)
        self._remove_if_empty()

    @read_back.register
    def _detach_done(self, step: Detach) -> None:
        if self.pins.link(step.cgroup_id).exists():
            raise KernelError(f"the link to {step.cgroup} is still pinned")

    def _check_link(self, cgroup_id: int, program: Program) -> None:
        with Link.pinned(self.pins.link(cgroup_id)) as link:
            if link.program_id != program.id or link.info().cgroup_id != cgroup_id:
                raise KernelError(f"the link to cgroup {cgroup_id} does not run scope there")

    def _scope(self) -> Program:
        """The program to attach: this build's, where it is replacing another."""
        builds, own = self.pins.builds(SCOPE), self.layout.builds[SCOPE]
        if not builds:
            raise PliantError("the program scope is not loaded")
        return Program.pinned(self.pins.program(SCOPE, own if own in builds else builds[-1]))

    # -- other builds

    @act.register
    def _retire(self, step: RetireLayout) -> None:
        other = PinTree(self.pins.root, step.layout)
        for cgroup_id in other.attached():
            with contextlib.suppress(KernelError), Link.pinned(other.link(cgroup_id)) as link:
                link.detach()
        PinDirectory(other.directory).remove_tree()

    @read_back.register
    def _retire_done(self, step: RetireLayout) -> None:
        if PinTree(self.pins.root, step.layout).directory.exists():
            raise KernelError(f"pins of the layout {step.layout} are still there")

    def _remove_if_empty(self) -> None:
        """Leave no directory behind when the last thing of ours has gone."""
        for directory in (self.pins.links, self.pins.directory, self.pins.root):
            with contextlib.suppress(OSError):  # not empty, or the mount itself
                directory.rmdir()


def _slot(number: int) -> bytes:
    return number.to_bytes(4, sys.byteorder)


def _is_left(held: Map, key: bytes) -> bool:
    """Whether a key that was deleted is still there. A trie finds a wider prefix in its place: try to delete it."""
    return held.delete(key) if held.type is MapType.LPM_TRIE else held.get(key) is not None


def _holds(held: Map, step: WriteTable, key: bytes, value: bytes) -> bool:
    found = held.get(key)
    if found is None:
        return False
    constant = POLICY_CONSTANT_BYTES if step.table.map == "policies" else len(value)
    return found[:constant] == value[:constant]


def _is_program(path: Path) -> bool:
    return path.name.startswith(PROGRAM_PREFIX)
