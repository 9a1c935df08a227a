# SPDX-License-Identifier: Apache-2.0
"""Reads back what of ours is in the kernel."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from pliant.kernel.errors import KernelError
from pliant.kernel.links import Link
from pliant.kernel.maps import Map, MapType
from pliant.kernel.programs import Program
from pliant.observe.controls import ControlPins, read_controls
from pliant.observe.pin_tree import Hook, PinTree
from pliant.observe.state import HostState
from pliant.observe.tables import Table
from pliant.policy.desired import SCOPE

TABLES_OF_SCOPE = ("asked", "effects", "policies", "rules", "services")
TABLES_OF_FEATURE = ("settings",)
FEATURES = Table(SCOPE, "features")
"""The programs that scope calls, by option slot."""
POLICIES, EFFECTS = Table(SCOPE, "policies"), Table(SCOPE, "effects")
TUNED = Table(SCOPE, "tuned")
UNDER_WAY = 2
"""What stands in it while open connections are brought in line: no digest, for those are odd."""
"""What open connections were last brought in line with."""
POLICY_CONSTANT_BYTES = 144  # struct policy up to its counters, which the kernel side writes


def read_state(
    pins: PinTree,
    slots: Mapping[str, int],
    cgroup_exists: Callable[[int], bool],
    own_builds: Mapping[str, str] | None = None,
) -> HostState:
    """The state under one layout's pins; ``slots`` says where scope looks for each feature.

    Where replacing a program was interrupted, its build is the one of the two that is not in ``own_builds``, or the
    older one. Raises :class:`KernelError` when a pin cannot be opened.
    """
    own = own_builds or {}
    builds = {
        name: next((build for build in found if build != own.get(name)), found[0])
        for name in pins.objects()
        if (found := pins.builds(name))
    }
    miscalled = _miscalled(pins, slots, builds)
    builds = {name: build for name, build in builds.items() if name not in miscalled}
    tables = {table: read_table(pins, table) for name in builds for table in tables_of(name)}
    attached = frozenset(pins.attached())
    stale = frozenset(
        hook  # what is loaded again is another program than the link's
        for hook in attached
        if hook.program not in builds or not _is_sound(pins, hook, cgroup_exists)
    )
    return HostState(
        builds=builds,
        partial=frozenset(pins.objects()) - builds.keys(),
        tables=tables,
        attachments=attached - stale,
        stale=stale,
        tuned=_tuned(pins) if SCOPE in builds else 0,
        controls=read_controls(ControlPins(pins.root)),
        other_layouts=tuple(pins.other_layouts()),
        elsewhere=_elsewhere(pins, cgroup_exists),
    )


def _elsewhere(pins: PinTree, cgroup_exists: Callable[[int], bool]) -> dict[Hook, str]:
    """The links of other builds' scope that are where their names say."""
    found = {}
    for layout in pins.other_layouts():
        other = PinTree(pins.root, layout)
        for hook in other.attached():
            if hook.program != SCOPE or not cgroup_exists(hook.cgroup_id):
                continue
            with contextlib.suppress(KernelError), Link.pinned(other.link(hook)) as link:
                if link.info().cgroup_id == hook.cgroup_id:
                    found[hook] = layout
    return found


def _tuned(pins: PinTree) -> int:
    """The digest; what is adopted from another build is so only while that is done."""
    with Map.pinned(pins.map(TUNED)) as held:
        digest, adopting = (held.get(key.to_bytes(4, sys.byteorder)) for key in (0, 1))  # enum tuned_entry
    return UNDER_WAY if any(adopting or b"") else int.from_bytes(digest or b"", sys.byteorder)


def _miscalled(pins: PinTree, slots: Mapping[str, int], builds: Mapping[str, str]) -> set[str]:
    """The objects that scope does not call from their slot, or calls from another."""
    if SCOPE not in builds:
        return set()  # nothing is called, and nothing can be used
    with Map.pinned(pins.map(FEATURES)) as held:
        called = {
            int.from_bytes(key, sys.byteorder): int.from_bytes(value, sys.byteorder)
            for key, value in held.items()
        }
    found = set()
    for name in builds.keys() & {SCOPE, *slots}:
        own, ids = slots.get(name), program_ids(pins, name)
        if {slot for slot, number in called.items() if number in ids} != ({own} if name in slots else set()):
            found.add(name)
    return found


def tables_of(name: str) -> Iterable[Table]:
    """The tables of an object that user space fills."""
    return [Table(name, table) for table in (TABLES_OF_SCOPE if name == SCOPE else TABLES_OF_FEATURE)]


def read_table(pins: PinTree, table: Table) -> dict[bytes, bytes]:
    """A table's entries; counters that the kernel side keeps beside them are read as zero.

    Those of an array are always there: what is all zeros is none.
    """
    with Map.pinned(pins.map(table)) as held:
        if held.type is MapType.ARRAY:
            return {key: value for key, value in held.items() if any(value)}
        if table.map == "effects":
            return dict.fromkeys(held.keys(), bytes(held.value_size))
        if table.map != "policies":
            return dict(held.items())
        padding = bytes(held.value_size - POLICY_CONSTANT_BYTES)
        return {key: value[:POLICY_CONSTANT_BYTES] + padding for key, value in held.items()}


def _is_sound(pins: PinTree, hook: Hook, cgroup_exists: Callable[[int], bool]) -> bool:
    """Whether the link is attached where its name says, and runs a program of its object's."""
    if not cgroup_exists(hook.cgroup_id):
        return False
    try:
        with Link.pinned(pins.link(hook)) as link:
            return link.info().cgroup_id == hook.cgroup_id and link.program_id in hooked_ids(
                pins, hook.program
            )
    except KernelError:
        return False


def program_ids(pins: PinTree, name: str) -> set[int]:
    """The ids of an object's pinned main programs: two while one replaces the other."""
    return _ids(pins.program(name, build) for build in pins.builds(name))


def hooked_ids(pins: PinTree, name: str) -> set[int]:
    """The ids of an object's pinned programs that are attached to cgroups."""
    return _ids(hooked_program(pins, name, build) for build in pins.builds(name))


def hooked_program(pins: PinTree, name: str, build: str) -> Path:
    """The pin of an object's program that is attached to cgroups: scope itself, or a feature's for its own hook."""
    return pins.program(name, build) if name == SCOPE else pins.part(name, "packet", build)


def _ids(pins: Iterable[Path]) -> set[int]:
    numbers = set()
    for path in pins:
        with Program.pinned(path) as program:
            numbers.add(program.id)
    return numbers
