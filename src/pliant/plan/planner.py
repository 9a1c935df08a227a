# SPDX-License-Identifier: Apache-2.0
"""Plans the way from what is in the kernel to what should be there. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pliant.fastpath.target import FastpathTarget
from pliant.observe.pin_tree import Hook
from pliant.observe.state import HostState
from pliant.observe.tables import Table, Tables
from pliant.plan.controls import leftovers, registrations, removals
from pliant.plan.fastpath import accelerations, superseded
from pliant.plan.steps import (
    Attach,
    CarryCounters,
    Detach,
    ForgetProgram,
    LoadObject,
    ReplaceProgram,
    RetireLayout,
    RetuneOnUndo,
    Step,
    TakeOver,
    TuneOpen,
    UnloadObject,
    WriteTable,
)
from pliant.plan.sysctls import sysctl_changes
from pliant.policy.desired import SCOPE, Attachment
from pliant.policy.sysctls import SysctlKey, Wanted

VALUES = (
    "asked",
    "effects",
    "policies",
    "settings",
)  # each list in the order of writing: what is referred to comes first
RULES = ("rules", "services")


@dataclass(frozen=True, slots=True)
class Target:
    """What the kernel should hold, encoded.

    ``builds`` names the objects to be loaded and the file each comes from; ``tuned`` is what open connections should
    be in line with (0: no policy is for them); ``controls`` names the congestion controls of ours to be registered and
    the build of each; ``sysctls`` says what those of network namespaces are to be, ``fastpath`` what interfaces run.
    """

    builds: Mapping[str, str]
    tables: Tables
    attachments: frozenset[Attachment]
    tuned: int = 0
    controls: Mapping[str, str] = field(default_factory=dict)
    sysctls: Mapping[SysctlKey, Wanted] = field(default_factory=dict)
    fastpath: FastpathTarget = field(default_factory=FastpathTarget)


def plan(found: HostState, target: Target, cgroups: Mapping[int, str] | None = None) -> tuple[Step, ...]:
    """The steps from ``found`` to ``target``, in an order in which no connection is given half of a policy.

    Values, programs and attachments are in place before the first rule that needs them; the last rule that needs old
    ones goes before they do. ``cgroups`` has the names of the cgroups there are. Empty when nothing differs.
    """
    names = cgroups or {}
    found = _usable(found)
    lost = _lost(found, names)
    wanted = {_hook(attachment) for attachment in target.attachments}
    missing = [a for a in target.attachments if _hook(a) not in found.attachments]
    return (
        *_detaches(lost, names, "there is nothing left for it to run on, or nothing left to run", lost=True),
        *_cleared(found),
        *registrations(found.controls, target.controls),
        *sysctl_changes(found.sysctls, target.sysctls),
        *accelerations(found.fastpath, target.fastpath),
        *_loads(found, target),
        *_writes(found, target, VALUES),
        *_detaches(found.stale - lost, names, "its link runs another program"),
        *_stand_by(found, target),
        *_attaches(a for a in missing if _hook(a) not in found.elsewhere),
        *_writes(found, target, RULES),
        *_take_overs(found, missing),
        *_deletes(found, target, RULES),
        *_tunes(found, target),
        *_detaches(found.attachments - wanted, names, "no policy asks for it there any more"),
        *_deletes(found, target, VALUES),
        *_unloads(found, target),
        *removals(found.controls, target.controls),
        *(ForgetProgram("its replacement is in place", *replaced) for replaced in _replaced(found, target)),
        *leftovers(found.controls, target.controls),
        *_retirements(found, target),
        *superseded(found.fastpath, target.fastpath),
    )


def _usable(found: HostState) -> HostState:
    """What can be built upon: features whose scope is gone read verdicts that nobody writes any more."""
    if SCOPE in found.builds:
        return found
    return replace(
        found,
        builds={},
        partial=found.partial | found.builds.keys(),
        tables={},
        attachments=frozenset(),
        stale=found.stale | found.attachments,
        tuned=0,
    )


def _hook(attachment: Attachment) -> Hook:
    return Hook(attachment.program, attachment.cgroup_id)


def _take_overs(found: HostState, missing: Iterable[Attachment]) -> Iterator[Step]:
    """After the rules: until then connections are judged by the other build, then by this one."""
    for attachment in sorted(missing, key=lambda a: a.cgroup):
        layout = found.elsewhere.get(_hook(attachment))
        if layout is not None:
            yield TakeOver("this build takes over", _hook(attachment), attachment.cgroup, layout)


def _retirements(found: HostState, target: Target) -> Iterator[Step]:
    for layout in found.other_layouts:
        if target.builds:
            yield CarryCounters("counters go on through an upgrade", layout)
        yield RetireLayout("this build has taken over", layout)


def _stand_by(found: HostState, target: Target) -> Iterator[Step]:
    """Where another build takes over nothing is to be tuned back: it has them as this one should."""
    if found.tuned != target.tuned and not found.other_layouts:
        yield RetuneOnUndo("what they depend on is about to change", found.tuned, target.tuned)


def _tunes(found: HostState, target: Target) -> Iterator[Step]:
    if found.other_layouts and target.builds:
        yield TuneOpen("this build takes over", found.tuned, target.tuned, adopt=True)
    elif found.tuned != target.tuned:
        why = "policies are for connections that are open already"
        yield TuneOpen(why if target.tuned else "no policy is for them any more", found.tuned, target.tuned)


def _lost(found: HostState, cgroups: Mapping[int, str]) -> frozenset[Hook]:
    """Attachments that could not be made again. A program with one of them cannot be replaced or unloaded."""
    return frozenset(h for h in found.stale if h.cgroup_id not in cgroups or h.program not in found.builds)


def _cleared(found: HostState) -> Iterator[Step]:
    for name in sorted(found.partial, key=lambda name: (name == SCOPE, name)):
        yield UnloadObject("its loading was interrupted", name, build="")


def _loads(found: HostState, target: Target) -> Iterator[Step]:
    for name in sorted(target.builds, key=lambda name: (name != SCOPE, name)):
        if name not in found.builds:
            why = (
                "it decides which policies a connection matches"
                if name == SCOPE
                else "a policy sets this option"
            )
            yield LoadObject(why, name, target.builds[name])
    for name, held in _replaced(found, target):
        yield ReplaceProgram("it was loaded by another build of Pliant", name, target.builds[name], held)


def _replaced(found: HostState, target: Target) -> list[tuple[str, str]]:
    """The objects loaded from another file than they should be, and the build of that file."""
    both = sorted(target.builds.keys() & found.builds.keys(), key=lambda name: (name != SCOPE, name))
    return [(name, found.builds[name]) for name in both if found.builds[name] != target.builds[name]]


def _writes(found: HostState, target: Target, maps: Sequence[str]) -> Iterator[Step]:
    for table in _ordered(target.tables, maps):
        wanted, held = target.tables[table], found.tables.get(table, {})
        if wanted == held:
            continue
        puts = {key: value for key, value in wanted.items() if held.get(key) != value}  # in that order
        if puts:
            before = {key: held.get(key) for key in puts}
            yield WriteTable(_why_written(table), table, puts, frozenset(), before)


def _why_written(table: Table) -> str:
    return {
        "asked": "which options are asked about a SYN that comes in",
        "effects": "where the worth of measured policies is recorded",
        "policies": "the versions of policies that rules will name",
        "settings": f"the values of {table.object}, by policy",
        "rules": "which connections each policy matches",
        "services": "which cgroups the rules are for",
    }[table.map]


def _deletes(found: HostState, target: Target, maps: Sequence[str]) -> Iterator[Step]:
    """Entries nothing refers to; those of programs about to be unloaded too, so that undo has them to write back."""
    for table in reversed(_ordered(found.tables, maps)):
        held = found.tables[table]
        if held == target.tables.get(table):
            continue
        gone = frozenset(held.keys() - target.tables.get(table, {}).keys())
        if gone:
            reason = "no policy needs them any more"
            yield WriteTable(reason, table, {}, gone, {key: held[key] for key in gone})


def _ordered(tables: Iterable[Table], maps: Sequence[str]) -> list[Table]:
    return sorted((t for t in tables if t.map in maps), key=lambda t: (maps.index(t.map), t))


def _attaches(missing: Iterable[Attachment]) -> Iterator[Step]:
    for attachment in sorted(missing, key=lambda a: (a.program == SCOPE, a.cgroup, a.program)):
        yield Attach("policies match connections of this service", _hook(attachment), attachment.cgroup)


def _detaches(
    attached: Iterable[Hook], cgroups: Mapping[int, str], reason: str, *, lost: bool = False
) -> Iterator[Step]:
    for hook in sorted(attached):
        yield Detach(reason, hook, cgroups.get(hook.cgroup_id, f"cgroup {hook.cgroup_id} (gone)"), lost)


def _unloads(found: HostState, target: Target) -> Iterator[Step]:
    surplus = found.builds.keys() - target.builds.keys()
    for name in sorted(surplus, key=lambda name: (name == SCOPE, name)):
        yield UnloadObject("no policy needs it any more", name, found.builds[name])
