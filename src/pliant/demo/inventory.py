# SPDX-License-Identifier: Apache-2.0
"""What BPF there is on the demo's server, from the kernel itself, and how it differs between two moments.

Nothing here asks Pliant what it did: programs, maps and links come from the kernel's own lists, attachments
from a query of every cgroup hook, calls from the maps of programs, pins from the bpffs.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from pliant.kernel import assembly, cgroups
from pliant.kernel.cgroup_query import attached
from pliant.kernel.errors import KernelError
from pliant.kernel.links import all_links, attach_cgroup
from pliant.kernel.maps import Map, map_ids
from pliant.kernel.programs import Program, ProgramType, program_ids
from pliant.kernel.uapi import AttachType, MapType

BYSTANDER = "somebody_elses"
CGROUP_HOOKS = tuple(hook for hook in AttachType if hook.name.startswith("CGROUP_"))
POLL_S = 0.02

Hook = tuple[str, str]  # a cgroup's path below the host's root, and the hook's name or who calls


@dataclass(frozen=True, slots=True)
class ProgramIdentity:
    """A loaded program: ``tag`` is the hash of its instructions."""

    name: str
    tag: str
    maps: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Inventory:
    """One moment. Programs and maps are the whole kernel's; attachments, calls, links and pins the host's.

    ``attachments`` has the ids of programs in the order they run; ``links`` maps link id to program id; ``calls`` has
    for each attached program the ids of those that it can tail-call.
    """

    programs: Mapping[int, ProgramIdentity]
    maps: frozenset[int]
    attachments: Mapping[Hook, tuple[int, ...]]
    links: Mapping[int, int]
    pins: tuple[str, ...]
    calls: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    def places(self) -> Iterator[tuple[int, Hook]]:
        """Run through the programs that are attached, or called by one that is, with where they run."""
        for (group, hook), numbers in self.attachments.items():
            for number in numbers:
                yield number, (group, hook)
                for called in self.calls.get(number, ()):
                    yield called, (group, f"called by {self.programs[number].name}")


def take(cgroup_root: Path, pins: Path) -> Inventory:
    """Ask the kernel what there is now, below this cgroup and pin directory."""
    groups = list(cgroups.walk(cgroup_root))
    ids = {group.id for group in groups}
    programs = dict(_programs())
    attachments = dict(_attachments(cgroup_root, [group.path for group in groups]))
    hooked = {number for numbers in attachments.values() for number in numbers if number in programs}
    return Inventory(
        programs=programs,
        maps=frozenset(map_ids()),
        attachments=attachments,
        calls={number: tuple(_called(programs[number].maps)) for number in sorted(hooked)},
        links={link.id: link.program_id for link in all_links() if link.cgroup_id in ids},
        pins=tuple(sorted(_below(pins))),
    )


def _programs() -> Iterator[tuple[int, ProgramIdentity]]:
    for number in program_ids():
        with suppress(KernelError), Program.by_id(number) as program:  # gone meanwhile
            yield number, ProgramIdentity(program.name, program.tag, program.map_ids)


def _attachments(root: Path, groups: list[str]) -> Iterator[tuple[Hook, tuple[int, ...]]]:
    for group in groups:
        for hook in CGROUP_HOOKS:
            with suppress(KernelError):  # not a hook of this kernel, or the cgroup is gone
                found = attached(root / group.lstrip("/"), hook)
                if found:
                    yield (group, hook.spoken), tuple(one.program_id for one in found)


def _called(maps: Iterable[int]) -> Iterator[int]:
    for number in maps:
        with suppress(KernelError), Map.by_id(number) as held:  # gone meanwhile
            if held.type is MapType.PROG_ARRAY:
                yield from (int.from_bytes(program, sys.byteorder) for _, program in held.items())


def _below(directory: Path) -> Iterator[str]:
    for parent, _, names in os.walk(directory):
        for name in names:
            yield str(Path(parent, name).relative_to(directory))


@dataclass(frozen=True, slots=True)
class Comparison:
    """The host before, with the policy, and after the rollback."""

    before: Inventory
    during: Inventory
    after: Inventory

    def rows(self) -> list[tuple[int, str, Hook, tuple[bool, bool, bool]]]:
        """Every program that was attached, or called, at any of the moments: id, name, where, and when."""
        moments = (self.before, self.during, self.after)
        seen = dict.fromkeys(place for moment in moments for place in moment.places())
        names = {number: one.name for moment in moments for number, one in moment.programs.items()}
        present = [set(moment.places()) for moment in moments]
        return [
            (
                number,
                names.get(number, "?"),
                hook,
                (place in present[0], place in present[1], place in present[2]),
            )
            for place in seen
            for number, hook in [place]
        ]

    @property
    def came(self) -> frozenset[int]:
        """Programs that came with the policy: attached to the host or called then, and not loaded before."""
        return frozenset(number for number, _ in self.during.places() if number not in self.before.programs)

    @property
    def maps_that_came(self) -> frozenset[int]:
        """Maps these programs used."""
        used = {number for program in self.came for number in self.during.programs[program].maps}
        return frozenset(used - self.before.maps)

    def differences(self) -> list[str]:
        """In what the host is not as it was, one sentence each; empty when it is."""
        found = []
        if left := self.came & self.after.programs.keys():
            found.append(f"programs are still loaded: {_listed(left)}")
        if left := self.maps_that_came & self.after.maps:
            found.append(f"maps are still there: {_listed(left)}")
        if self.after.attachments != self.before.attachments:
            found.append("the programs at the cgroups' hooks, or their order, are not as they were")
        if self.after.links != self.before.links:
            found.append("the links are not as they were")
        if self.after.pins != self.before.pins:
            found.append(f"the pins are not as they were: {', '.join(self.after.pins)}")
        for number, _ in self.before.places():
            if self.after.programs.get(number) != self.before.programs.get(number):
                found.append(f"program {number} is not the one it was")
        return found


def _listed(numbers: frozenset[int] | set[int]) -> str:
    return ", ".join(map(str, sorted(numbers)))


def compare_after(
    before: Inventory, during: Inventory, look: Callable[[], Inventory], *, timeout_s: float = 5
) -> Comparison:
    """Look until the host is as it was, or the time is up: the kernel frees what is detached a moment later."""
    deadline = time.monotonic() + timeout_s
    while True:
        comparison = Comparison(before, during, look())
        if not comparison.differences() or time.monotonic() > deadline:
            return comparison
        threading.Event().wait(POLL_S)


@contextmanager
def bystander(cgroup: Path) -> Iterator[None]:
    """Have a program that is not Pliant's at the service's hook, as monitoring agents do, for the block."""
    code = assembly.return_constant(1)
    with (
        assembly.load_instructions(ProgramType.SOCK_OPS, code, name=BYSTANDER) as program,
        attach_cgroup(program, cgroup, AttachType.CGROUP_SOCK_OPS),
    ):
        yield
