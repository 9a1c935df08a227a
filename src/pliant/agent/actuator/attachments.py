# SPDX-License-Identifier: Apache-2.0
"""Programs at the hooks of cgroups."""

from __future__ import annotations

from pathlib import Path

from pliant.agent.actuator.ground import Ground, Steps, Taken
from pliant.features import features
from pliant.kernel.errors import KernelError
from pliant.kernel.links import Link, attach_cgroup
from pliant.kernel.programs import Program
from pliant.kernel.uapi import AttachType
from pliant.observe.pin_tree import Hook, PinTree
from pliant.observe.reader import hooked_program
from pliant.plan.steps import Attach, Detach, GiveBack, TakeOver
from pliant.policy.desired import SCOPE


def attach_type(program: str) -> AttachType:
    """The hook that an object's program is attached to: of scope, or of a feature that has one of its own."""
    if program == SCOPE:
        return AttachType.CGROUP_SOCK_OPS
    hook = features()[program].hook
    assert hook is not None, program
    return hook


class Attachments:
    """Attaches with pinned links, and detaches what was so attached."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    def steps(self) -> Steps:
        """The steps it takes."""
        return {
            Attach: Taken(self._attach, self._attach_done),
            Detach: Taken(self._detach, self._detach_done),
            TakeOver: Taken(self._take_over, self._attach_done),
            GiveBack: Taken(self._give_back, self._given_back),
        }

    def _attach(self, step: Attach) -> None:
        pins = self._ground.pins
        pin = pins.link(step.hook)
        if pin.exists():
            return
        pins.links.mkdir(parents=True, exist_ok=True)
        cgroup = self._ground.cgroup_root / step.cgroup.lstrip("/")
        name = step.hook.program
        with self._ground.hooked(name) as program, attach_cgroup(program, cgroup, attach_type(name)) as link:
            link.pin(pin)

    def _take_over(self, step: TakeOver) -> None:
        """The pin moves last: until then the next one to look finds it under the other layout, and takes it over."""
        pins, theirs = self._ground.pins, PinTree(self._ground.pins.root, step.layout).link(step.hook)
        if not theirs.exists():
            return  # taken already
        pins.links.mkdir(parents=True, exist_ok=True)
        with self._ground.hooked(step.hook.program) as program, Link.pinned(theirs) as link:
            link.update(program)
        theirs.rename(pins.link(step.hook))

    def _give_back(self, step: GiveBack) -> None:
        ours, theirs = self._ground.pins.link(step.hook), PinTree(self._ground.pins.root, step.layout)
        if not ours.exists():
            return
        theirs.links.mkdir(parents=True, exist_ok=True)
        with Program.pinned(_hooked_of(theirs, step.hook.program)) as program, Link.pinned(ours) as link:
            link.update(program)
        ours.rename(theirs.link(step.hook))
        self._ground.remove_if_empty()

    def _given_back(self, step: GiveBack) -> None:
        theirs = PinTree(self._ground.pins.root, step.layout)
        with (
            Program.pinned(_hooked_of(theirs, step.hook.program)) as program,
            Link.pinned(theirs.link(step.hook)) as link,
        ):
            check_link(link, step.hook, program.id)

    def _attach_done(self, step: Attach | TakeOver) -> None:
        with (
            self._ground.hooked(step.hook.program) as program,
            Link.pinned(self._ground.pins.link(step.hook)) as link,
        ):
            check_link(link, step.hook, program.id)

    def _detach(self, step: Detach) -> None:
        pin = self._ground.pins.link(step.hook)
        try:
            with Link.pinned(pin) as link:
                link.detach()
        except KernelError:
            if not pin.exists():
                return  # taken already
        pin.unlink(missing_ok=True)
        self._ground.remove_if_empty()

    def _detach_done(self, step: Detach) -> None:
        if self._ground.pins.link(step.hook).exists():
            raise KernelError(f"the link to {step.cgroup} is still pinned")


def _hooked_of(pins: PinTree, name: str) -> Path:
    builds = pins.builds(name)
    if not builds:
        raise KernelError(f"the other build's program {name} is gone")
    return hooked_program(pins, name, builds[-1])


def check_link(link: Link, hook: Hook, program_id: int) -> None:
    """Raise :class:`KernelError` unless a link runs a program where its pin says."""
    if link.program_id != program_id or link.info().cgroup_id != hook.cgroup_id:
        raise KernelError(f"the link to cgroup {hook.cgroup_id} does not run {hook.program} there")
