# SPDX-License-Identifier: Apache-2.0
"""Reads back what of ours is in the kernel."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping

from pliant.kernel.errors import KernelError
from pliant.kernel.links import Link
from pliant.kernel.maps import Map
from pliant.kernel.programs import Program
from pliant.observe.pin_tree import PinTree
from pliant.observe.state import HostState
from pliant.observe.tables import Table
from pliant.policy.desired import SCOPE

TABLES_OF_SCOPE = ("policies", "rules", "services")
TABLES_OF_FEATURE = ("settings",)
FEATURES = Table(SCOPE, "features")
"""The programs that scope calls, by option slot."""
POLICY_CONSTANT_BYTES = 16  # struct policy up to its counters, which the kernel side writes


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
    uncalled = _uncalled(pins, slots, builds)
    builds = {name: build for name, build in builds.items() if name not in uncalled}
    tables = {table: read_table(pins, table) for name in builds for table in tables_of(name)}
    attached = frozenset(pins.attached())
    stale = frozenset(cgroup_id for cgroup_id in attached if not _is_sound(pins, cgroup_id, cgroup_exists))
    return HostState(
        builds=builds,
        partial=frozenset(pins.objects()) - builds.keys(),
        tables=tables,
        attachments=attached - stale,
        stale=stale,
        other_layouts=tuple(pins.other_layouts()),
    )


def _uncalled(pins: PinTree, slots: Mapping[str, int], builds: Mapping[str, str]) -> set[str]:
    """The features whose slot holds no program of theirs."""
    if SCOPE not in builds:
        return set()  # nothing is called, and nothing can be used
    with Map.pinned(pins.map(FEATURES)) as called:
        numbers = {int.from_bytes(key, sys.byteorder): value for key, value in called.items()}
    return {
        name
        for name in builds.keys() & slots.keys()
        if int.from_bytes(numbers.get(slots[name], b""), sys.byteorder) not in program_ids(pins, name)
    }


def tables_of(name: str) -> Iterable[Table]:
    """The tables of an object that user space fills."""
    return [Table(name, table) for table in (TABLES_OF_SCOPE if name == SCOPE else TABLES_OF_FEATURE)]


def read_table(pins: PinTree, table: Table) -> dict[bytes, bytes]:
    """A table's entries; counters that the kernel side keeps beside them are read as zero."""
    with Map.pinned(pins.map(table)) as held:
        if table.map != "policies":
            return dict(held.items())
        padding = bytes(held.value_size - POLICY_CONSTANT_BYTES)
        return {key: value[:POLICY_CONSTANT_BYTES] + padding for key, value in held.items()}


def _is_sound(pins: PinTree, cgroup_id: int, cgroup_exists: Callable[[int], bool]) -> bool:
    """Whether the link is attached where its name says, and runs a program of scope's."""
    if not cgroup_exists(cgroup_id):
        return False
    try:
        with Link.pinned(pins.link(cgroup_id)) as link:
            return link.info().cgroup_id == cgroup_id and link.program_id in program_ids(pins, SCOPE)
    except KernelError:
        return False


def program_ids(pins: PinTree, name: str) -> set[int]:
    """The ids of an object's pinned programs: two while one replaces the other."""
    numbers = set()
    for build in pins.builds(name):
        with Program.pinned(pins.program(name, build)) as program:
            numbers.add(program.id)
    return numbers
