# SPDX-License-Identifier: Apache-2.0
"""Steps that register congestion controls of ours, replace their code and take them away. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pliant.observe.controls import ControlState
from pliant.plan.steps import Step


def _taking_back(step: Step) -> str:
    return f"taking back: {step.sentence}"


@dataclass(frozen=True, slots=True)
class RegisterControl(Step):
    """Load a congestion control and register it under its name, for the whole machine."""

    control: str
    build: str

    @property
    def sentence(self) -> str:
        """See :class:`Step`."""
        return f"register the congestion control {self.control}"

    def undo(self) -> Step:
        """Unregister it."""
        return UnregisterControl(_taking_back(self), self.control, self.build)


@dataclass(frozen=True, slots=True)
class UnregisterControl(Step):
    """Unregister a congestion control. Connections that run it keep its code until they close; nobody can choose it.

    Without a build its registration was interrupted.
    """

    control: str
    build: str

    @property
    def sentence(self) -> str:
        """See :class:`Step`."""
        return f"unregister the congestion control {self.control}"

    def undo(self) -> Step | None:
        """Register it again; None for what was registered half."""
        return RegisterControl(_taking_back(self), self.control, self.build) if self.build else None


@dataclass(frozen=True, slots=True)
class ReplaceControl(Step):
    """Replace a congestion control's code by that of another build, and give it to the connections that run the old.

    The code that was replaced stays pinned, for undo has to put it back; :class:`ForgetControl` removes it.
    """

    control: str
    build: str
    previous: str

    @property
    def sentence(self) -> str:
        """See :class:`Step`."""
        return f"replace the congestion control {self.control} by this build's"

    def undo(self) -> Step:
        """Put the code that was replaced back."""
        return RestoreControl(_taking_back(self), self.control, self.previous, self.build)


@dataclass(frozen=True, slots=True)
class RestoreControl(Step):
    """Put code that is still pinned back in the place of ``replacement``, and remove that."""

    control: str
    build: str
    replacement: str

    @property
    def sentence(self) -> str:
        """See :class:`Step`."""
        return f"put the other build's congestion control {self.control} back"

    def undo(self) -> Step:
        """Replace it again."""
        return ReplaceControl(_taking_back(self), self.control, self.replacement, self.build)


@dataclass(frozen=True, slots=True)
class ForgetControl(Step):
    """Remove the pins of code that was replaced. Comes after everything that might have to be undone."""

    control: str
    build: str

    @property
    def sentence(self) -> str:
        """See :class:`Step`."""
        return f"forget the other build's congestion control {self.control}"

    def undo(self) -> None:
        """None: nothing refers to it any more."""
        return


def registrations(found: ControlState, wanted: Mapping[str, str]) -> Iterator[Step]:
    """What has to come before the first setting that names a control; ``wanted`` maps names to builds."""
    for name in sorted(found.partial):
        yield UnregisterControl("its registration was interrupted", name, build="")
    for name, build in sorted(wanted.items()):
        held = found.registered.get(name)
        if held is None:
            yield RegisterControl("a policy chooses it", name, build)
        elif held != build:
            yield ReplaceControl("it was registered by another build of Pliant", name, build, held)


def removals(found: ControlState, wanted: Mapping[str, str]) -> Iterator[Step]:
    """What has to come after the last setting that names a control that is not wanted is gone."""
    for name, build in sorted(found.registered.items()):
        if name not in wanted:
            yield UnregisterControl("no policy chooses it any more", name, build)


def leftovers(found: ControlState, wanted: Mapping[str, str]) -> Iterator[Step]:
    """What comes last of all: code that has been replaced, now or by a change that was interrupted then."""
    for name, build in sorted(wanted.items()):
        held = {found.registered[name], *found.replaced.get(name, ())} if name in found.registered else set()
        for other in sorted(held - {build}):
            yield ForgetControl("its replacement is in place", name, other)
