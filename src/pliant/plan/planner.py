# SPDX-License-Identifier: Apache-2.0
"""Plans the way from what is in the kernel to what should be there. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from pliant.observe.state import Attached, HostState
from pliant.observe.tables import Table, Tables
from pliant.plan.steps import (
    Attach,
    Detach,
    LoadObject,
    ReplaceProgram,
    RetireLayout,
    Step,
    UnloadObject,
    WriteTable,
)
from pliant.policy.desired import SCOPE, Attachment

WRITE_ORDER = ("policies", "settings", "rules", "services")  # what is referred to before what refers to it


@dataclass(frozen=True, slots=True)
class Target:
    """What the kernel should hold, encoded: ``builds`` names the objects to be loaded and the file each comes from."""

    builds: Mapping[str, str]
    tables: Tables
    attachments: frozenset[Attachment]


def plan(found: HostState, target: Target, cgroups: Mapping[int, str] | None = None) -> tuple[Step, ...]:
    """The steps from ``found`` to ``target``, in an order in which every connection meets a complete state.

    New entries and programs are in place before anything refers to them; what refers to old ones goes before they
    do. ``cgroups`` gives the names of cgroups that programs are to be detached from. Empty when nothing differs.
    """
    names = cgroups or {}
    surplus, missing = _attachment_changes(found, target)
    return (
        *_cleared(found),
        *_loads(found, target),
        *_writes(found, target),
        *_detaches(_out_of_order(found, missing) | found.stale, names, "so that scope can run before it"),
        *_attaches(missing),
        *_detaches(surplus, names, "no policy asks for it there any more"),
        *_deletes(found, target),
        *_unloads(found, target),
        *(RetireLayout("this build has taken over", layout) for layout in found.other_layouts),
    )


def _attachment_changes(found: HostState, target: Target) -> tuple[frozenset[Attached], list[Attachment]]:
    wanted = {Attached(a.cgroup_id, a.program) for a in target.attachments}
    displaced = {
        a.cgroup_id
        for a in target.attachments
        if a.program == SCOPE and (a.cgroup_id, SCOPE) not in found.attachments
    }
    missing = [
        a
        for a in target.attachments
        if (a.cgroup_id, a.program) not in found.attachments or a.cgroup_id in displaced
    ]
    surplus = frozenset(a for a in found.attachments if a not in wanted)
    return surplus, missing


def _out_of_order(found: HostState, missing: Iterable[Attachment]) -> frozenset[Attached]:
    """Features that are attached where scope is not: they would run before it."""
    again = {Attached(a.cgroup_id, a.program) for a in missing}
    return frozenset(again & found.attachments)


def _cleared(found: HostState) -> Iterator[Step]:
    for name in sorted(found.partial):
        yield UnloadObject("its loading was interrupted", name, found.builds.get(name, ""))


def _loads(found: HostState, target: Target) -> Iterator[Step]:
    for name in sorted(target.builds, key=lambda name: (name != SCOPE, name)):
        build = target.builds[name]
        held = found.builds.get(name) if name not in found.partial else None
        if held is None:
            why = (
                "it decides which policies a connection matches"
                if name == SCOPE
                else "a policy sets this option"
            )
            yield LoadObject(why, name, build)
        elif held != build:
            yield ReplaceProgram("it was loaded by another build of Pliant", name, build, held)


def _writes(found: HostState, target: Target) -> Iterator[Step]:
    for table in sorted(target.tables, key=lambda table: (WRITE_ORDER.index(table.map), table)):
        wanted, held = target.tables[table], found.tables.get(table, {})
        puts = dict(wanted.items() - held.items())
        if puts:
            before = {key: held.get(key) for key in puts}
            yield WriteTable(_why_written(table), table, puts, frozenset(), before)


def _why_written(table: Table) -> str:
    return {
        "policies": "the versions of policies that rules will name",
        "settings": f"the values of {table.object}, by policy",
        "rules": "which connections each policy matches",
        "services": "which cgroups the rules are for",
    }[table.map]


def _deletes(found: HostState, target: Target) -> Iterator[Step]:
    """Entries nothing refers to; those of programs about to be unloaded too, so that undo has them to write back."""
    for table in sorted(found.tables, key=lambda table: (-WRITE_ORDER.index(table.map), table)):
        held = found.tables[table]
        gone = frozenset(held.keys() - target.tables.get(table, {}).keys())
        if gone and table.object not in found.partial:
            reason = "no policy needs them any more"
            yield WriteTable(reason, table, {}, gone, {key: held[key] for key in gone})


def _attaches(missing: Iterable[Attachment]) -> Iterator[Step]:
    for a in sorted(missing, key=lambda a: (a.cgroup, a.program != SCOPE, a.program)):
        why = (
            "it runs first and decides" if a.program == SCOPE else "a policy sets this option for the service"
        )
        yield Attach(why, a.cgroup_id, a.cgroup, a.program)


def _detaches(attached: Iterable[Attached], cgroups: Mapping[int, str], reason: str) -> Iterator[Step]:
    for a in sorted(attached, key=lambda a: (a.cgroup_id, a.program == SCOPE, a.program)):
        yield Detach(reason, a.cgroup_id, cgroups.get(a.cgroup_id, f"cgroup {a.cgroup_id} (gone)"), a.program)


def _unloads(found: HostState, target: Target) -> Iterator[Step]:
    surplus = found.builds.keys() - target.builds.keys() - found.partial
    for name in sorted(surplus, key=lambda name: (name == SCOPE, name)):
        yield UnloadObject("no policy needs it any more", name, found.builds[name])
