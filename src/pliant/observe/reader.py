# SPDX-License-Identifier: Apache-2.0
"""Reads back what of ours is in the kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pliant.kernel.errors import KernelError
from pliant.kernel.links import Link
from pliant.kernel.maps import Map
from pliant.kernel.programs import Program
from pliant.observe.pin_tree import PinTree
from pliant.observe.state import Attached, HostState
from pliant.observe.tables import Table

TABLES_OF_SCOPE = ("policies", "rules", "services")
TABLES_OF_FEATURE = ("settings",)
POLICY_CONSTANT_BYTES = 16  # struct policy up to its counters, which the kernel side writes


def read_state(pins: PinTree, cgroup_exists: Callable[[int], bool]) -> HostState:
    """The state under one layout's pins. Raises :class:`KernelError` when a pin cannot be opened."""
    builds = {name: found[0] for name in pins.objects() if (found := pins.builds(name))}
    partial = frozenset(pins.objects()) - builds.keys()
    tables = {table: read_table(pins, table) for name in builds for table in tables_of(name)}
    attached = frozenset(pins.attached())
    stale = frozenset(a for a in attached if not _is_sound(pins, a, cgroup_exists))
    return HostState(
        builds=builds,
        partial=partial,
        tables=tables,
        attachments=attached - stale,
        stale=stale,
        other_layouts=tuple(pins.other_layouts()),
    )


def tables_of(name: str) -> Iterable[Table]:
    """The tables of an object that user space fills."""
    return [Table(name, table) for table in (TABLES_OF_SCOPE if name == "scope" else TABLES_OF_FEATURE)]


def read_table(pins: PinTree, table: Table) -> dict[bytes, bytes]:
    """A table's entries; counters that the kernel side keeps beside them are read as zero."""
    with Map.pinned(pins.map(table)) as held:
        if table.map != "policies":
            return dict(held.items())
        padding = bytes(held.value_size - POLICY_CONSTANT_BYTES)
        return {key: value[:POLICY_CONSTANT_BYTES] + padding for key, value in held.items()}


def _is_sound(pins: PinTree, attached: Attached, cgroup_exists: Callable[[int], bool]) -> bool:
    """Whether the link is attached where its name says, and runs a program of the object's."""
    if not cgroup_exists(attached.cgroup_id):
        return False
    try:
        programs = {_program_id(pins, attached.program, build) for build in pins.builds(attached.program)}
        with Link.pinned(pins.link(attached)) as link:
            return link.info().cgroup_id == attached.cgroup_id and link.program_id in programs
    except KernelError:
        return False


def _program_id(pins: PinTree, name: str, build: str) -> int:
    with Program.pinned(pins.program(name, build)) as program:
        number: int = program.id
    return number
