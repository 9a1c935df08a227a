# SPDX-License-Identifier: Apache-2.0
"""Steps that put a fast path on interfaces, replace it and take it away. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from pliant.fastpath.target import Acceleration, FastpathTarget
from pliant.observe.fastpath import FastpathState, Port, RulesetState
from pliant.plan.fastpath_rules import RULE_STEPS, rule_steps, superseded_slots
from pliant.plan.steps import Step


def _taking_back(step: Step) -> str:
    return f"taking back: {step.sentence}"


@dataclass(frozen=True, slots=True)
class LoadFastpath(Step):
    """Load the program made for an interface; it does not run yet."""

    acceleration: Acceleration

    @property
    def sentence(self) -> str:
        """See :class:`Step`."""
        return f"load the fast path of {self.acceleration.interface}"

    def undo(self) -> Step:
        """Unload it."""
        wanted = self.acceleration
        return ForgetFastpath(_taking_back(self), wanted.port, wanted.interface, wanted.build)


@dataclass(frozen=True, slots=True)
class AttachFastpath(Step):
    """Attach a loaded program to its interface."""

    port: Port
    interface: str
    build: str

    @property
    def sentence(self) -> str:
        """See :class:`Step`."""
        return f"attach the fast path to {self.interface} ({self.port.mode})"

    def undo(self) -> Step:
        """Detach it."""
        return DetachFastpath(_taking_back(self), self.port, self.interface, self.build)


@dataclass(frozen=True, slots=True)
class DetachFastpath(Step):
    """Detach; all packets of the interface are the kernel's again. The program stays loaded, for undo.

    Without a build the interface is gone, or its link runs nothing of ours.
    """

    port: Port
    interface: str
    build: str

    @property
    def sentence(self) -> str:
        """See :class:`Step`."""
        return f"detach the fast path from {self.interface} ({self.port.mode})"

    def undo(self) -> Step | None:
        """Attach it again; None for what was lost."""
        return (
            AttachFastpath(_taking_back(self), self.port, self.interface, self.build) if self.build else None
        )


@dataclass(frozen=True, slots=True)
class SwitchFastpath(Step):
    """Replace the program an interface runs by another that is loaded; no packet sees a gap.

    Without a previous one it was parked.
    """

    port: Port
    interface: str
    build: str
    previous: str

    @property
    def sentence(self) -> str:
        """See :class:`Step`."""
        return f"replace the fast path of {self.interface}"

    def undo(self) -> Step:
        """Switch back."""
        if not self.previous:
            return ParkFastpath(_taking_back(self), self.port, self.interface, self.build)
        return SwitchFastpath(_taking_back(self), self.port, self.interface, self.previous, self.build)


@dataclass(frozen=True, slots=True)
class ParkFastpath(Step):
    """Have an interface run a program that does nothing, at once; detaching takes the kernel a while."""

    port: Port
    interface: str
    build: str

    @property
    def sentence(self) -> str:
        """See :class:`Step`."""
        return f"leave what comes in by {self.interface} to the kernel"

    def undo(self) -> Step:
        """Run it again."""
        return SwitchFastpath(_taking_back(self), self.port, self.interface, self.build, previous="")


@dataclass(frozen=True, slots=True)
class ForgetFastpath(Step):
    """Unload a program that does not run any more. Comes after everything that might have to be undone."""

    port: Port
    interface: str
    build: str

    @property
    def sentence(self) -> str:
        """See :class:`Step`."""
        return f"unload what {self.interface} ran before"

    def undo(self) -> None:
        """None: nothing refers to it any more."""
        return


@dataclass(frozen=True, slots=True)
class SetExits(Step):
    """Say by which interfaces packets may leave, each under a number of its own."""

    exits: Mapping[int, int]
    before: Mapping[int, int]

    @property
    def sentence(self) -> str:
        """See :class:`Step`."""
        return f"let accelerated packets leave by {len(self.exits)} interfaces"

    def undo(self) -> Step:
        """As it was."""
        return SetExits(_taking_back(self), self.before, self.exits)


@dataclass(frozen=True, slots=True)
class PauseFastpath(Step):
    """Leave all packets to the kernel, at once: what is kept of flows is void, and nothing new is kept."""

    @property
    def sentence(self) -> str:
        """See :class:`Step`."""
        return "leave all packets to the kernel for the moment"

    def undo(self) -> Step:
        """Go on."""
        return ResumeFastpath(_taking_back(self))


@dataclass(frozen=True, slots=True)
class ResumeFastpath(Step):
    """Go on accelerating, with nothing known of any flow."""

    @property
    def sentence(self) -> str:
        """See :class:`Step`."""
        return "accelerate again"

    def undo(self) -> Step:
        """Pause again: what was done before is taken back as well."""
        return PauseFastpath(_taking_back(self))


@dataclass(frozen=True, slots=True)
class RetireTables(Step):
    """Remove the tables of another build, which no program uses any more. Comes last."""

    layout: str

    @property
    def sentence(self) -> str:
        """See :class:`Step`."""
        return f"remove the fast path's tables of another build ({self.layout})"

    def undo(self) -> None:
        """None: nothing refers to them any more."""
        return


KEPT = 4  # programs of an interface that do not run
STEPS = (
    *RULE_STEPS,
    LoadFastpath,
    AttachFastpath,
    DetachFastpath,
    SwitchFastpath,
    ParkFastpath,
    ForgetFastpath,
    SetExits,
    PauseFastpath,
    ResumeFastpath,
    RetireTables,
)
"""The kinds of steps there are here."""


def accelerations(found: FastpathState, target: FastpathTarget) -> Iterator[Step]:
    """The steps from what was found to the target.

    What has become wrong is disabled first: no packet is forwarded by a program made for what was while its replacement
    is loaded.
    """

    def name(port: Port) -> str:
        return found.names.get(port.ifindex, f"interface {port.ifindex} (gone)")

    if not (found.running or found.idle):  # the tables go with what was lost
        found = replace(found, exits={}, paused=False, ruleset=RulesetState(), rule_names={}, rule_slots={})
    exits = _numbered(found.exits, target.exits)
    pauses = _is_wrong(found, target, exits)
    if pauses and not found.paused:
        yield PauseFastpath("what the kernel does with packets has changed")
    for port in sorted(found.lost):
        yield DetachFastpath("there is nothing left for it to run on", port, name(port), build="")
    removed = {
        port: found.running[port] for port in sorted(found.running.keys() - target.accelerations.keys())
    }
    for port, build in removed.items():
        yield ParkFastpath("it is not to be accelerated any more", port, name(port), build)
    missing = [a for port, a in sorted(target.accelerations.items()) if found.running.get(port) != a.build]
    for acceleration in missing:
        if acceleration.build not in found.idle.get(acceleration.port, ()):
            yield LoadFastpath("it is made for what the kernel does with its packets", acceleration)
    if exits != found.exits:
        yield SetExits("what is redirected has to have somewhere to go", exits, found.exits)
    yield from rule_steps(found, target)
    for wanted in missing:
        if wanted.port in found.running:
            yield _switched(wanted, found.running[wanted.port])
    if pauses or (found.paused and (target.accelerations or target.standby)):
        yield ResumeFastpath("everything is as it should be")
    yield from _attachments(missing, removed, found)


def _is_wrong(found: FastpathState, target: FastpathTarget, exits: Mapping[int, int]) -> bool:
    """Whether what runs now does something with packets that it should not, until the plan is done.

    Programs of another build that shares no tables with this one are right until they are replaced.
    """
    if not (found.running and found.has_tables and target.accelerations):
        return False
    changed = any(
        target.accelerations[p].build != b for p, b in found.running.items() if p in target.accelerations
    )
    return changed or any(exits.get(ifindex) != number for ifindex, number in found.exits.items())


def _switched(wanted: Acceleration, running: str) -> Step:
    reason = "what the kernel does with its packets has changed"
    return SwitchFastpath(reason, wanted.port, wanted.interface, wanted.build, running)


def _attachments(
    missing: Iterable[Acceleration], removed: Mapping[Port, str], found: FastpathState
) -> Iterator[Step]:
    """What takes the kernel a while, and nothing waits for: an interface runs in one mode before it runs in another."""
    coming = [wanted for wanted in missing if wanted.port not in found.running]
    indices = {wanted.port.ifindex for wanted in coming}
    for port, build in removed.items():
        if port.ifindex in indices:
            yield _detached(port, build, found)
    for wanted in coming:
        reason = "packets that come in here are to be accelerated"
        yield AttachFastpath(reason, wanted.port, wanted.interface, wanted.build)
    for port, build in removed.items():
        if port.ifindex not in indices:
            yield _detached(port, build, found)


def _detached(port: Port, build: str, found: FastpathState) -> Step:
    name = found.names.get(port.ifindex, f"interface {port.ifindex} (gone)")
    return DetachFastpath("nothing runs on it any more", port, name, build)


def _numbered(found: Mapping[int, int], wanted: frozenset[int]) -> dict[int, int]:
    """Every interface keeps its number; new ones get the lowest that are free."""
    kept = {ifindex: number for ifindex, number in found.items() if ifindex in wanted}
    used = set(kept.values())
    free = (number for number in range(len(wanted) + len(used)) if number not in used)
    return kept | dict(zip(sorted(wanted - kept.keys()), free, strict=False))


def superseded(found: FastpathState, target: FastpathTarget) -> Iterator[Step]:
    """What comes last: programs that do not run any more, from now or from a change that was interrupted.

    The last few of an interface that is still asked for are kept: what changes often changes back. Tables of another
    build wait for the first program of this one, in whose tables what they have counted goes on.
    """
    if found.other_tables and target.standby and not (found.has_tables or target.accelerations):
        return
    for port in sorted({*found.running, *found.idle}):
        held = [*found.idle.get(port, ()), *([found.running[port]] if port in found.running else ())]
        wanted = target.accelerations.get(port)
        others = [build for build in held if wanted is None or build != wanted.build]
        for build in others[: -KEPT if _is_kept(found, target, port) else None]:
            interface = found.names.get(port.ifindex, f"interface {port.ifindex} (gone)")
            yield ForgetFastpath("nothing runs it any more", port, interface, build)
    yield from superseded_slots(found, target)
    for layout in found.other_tables:
        yield RetireTables("no program uses them any more", layout)


def _is_kept(found: FastpathState, target: FastpathTarget, port: Port) -> bool:
    """Whether programs of an interface may be of use again: not those of another mode, nor such with other tables."""
    modes = {other.mode for other in target.accelerations if other.ifindex == port.ifindex}
    return port.ifindex in target.standby and modes <= {port.mode} and not found.other_tables
