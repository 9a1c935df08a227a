# SPDX-License-Identifier: Apache-2.0
"""Congestion controls of ours: registered under their names, their code replaced under open connections."""

from __future__ import annotations

import contextlib
import errno as codes
import time

from pliant.agent.actuator.ground import Ground, Steps, Taken
from pliant.errors import PliantError
from pliant.features.controls import shipped_controls
from pliant.kernel.congestion_controls import congestion_controls
from pliant.kernel.errors import KernelError
from pliant.kernel.links import Link, attach_struct_ops
from pliant.kernel.maps import Map
from pliant.kernel.objects import load
from pliant.kernel.pins import PinDirectory
from pliant.observe.controls import FLOWS, MOVE, OPS, ControlPins, iterate, registered_build
from pliant.plan.controls import (
    ForgetControl,
    RegisterControl,
    ReplaceControl,
    RestoreControl,
    UnregisterControl,
)

UNREGISTERED_WITHIN_S = 5.0  # after its link has gone; the kernel takes some ms


class Controls:
    """Registers congestion controls with pinned links.

    The code is a struct_ops map. Replacing it by an update of the link is for connections that choose the control from
    then on; those that run it already keep the map they have, until the iterator ``move`` has them choose anew.
    """

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._pins = ControlPins(ground.pins.root)

    def steps(self) -> Steps:
        """The steps it takes."""
        return {
            RegisterControl: Taken(self._register, self._is_registered),
            UnregisterControl: Taken(self._unregister, self._is_unregistered),
            ReplaceControl: Taken(self._replace, self._is_registered),
            RestoreControl: Taken(self._restore, self._is_registered),
            ForgetControl: Taken(self._forget, self._is_forgotten),
        }

    def _register(self, step: RegisterControl) -> None:
        name, build = step.control, step.build
        if registered_build(self._pins, name) != build:
            PinDirectory(self._pins.control(name)).remove_tree()
            self._load(name, build)
            with Map.pinned(self._pins.pin(name, OPS, build)) as code, _registered(name, code) as link:
                link.pin(self._pins.link(name))
        self._move(name, build)  # connections from the time before it was unregistered

    def _replace(self, step: ReplaceControl) -> None:
        if step.build not in self._pins.builds(step.control):
            self._load(step.control, step.build)
        self._switch(step.control, step.build)

    def _restore(self, step: RestoreControl) -> None:
        self._switch(step.control, step.build)
        self._remove(step.control, step.replacement)

    def _load(self, name: str, build: str) -> None:
        """Load this installation's code and pin it; the code itself last, for it says that all is there."""
        PinDirectory(self._pins.control(name)).make()
        with load(shipped_controls()[name].path, feature=name) as loaded:
            held = {FLOWS: loaded.programs[FLOWS], MOVE: loaded.programs[MOVE], OPS: loaded.maps[name]}
            for kind, thing in held.items():
                pin = self._pins.pin(name, kind, build)
                pin.unlink(missing_ok=True)  # of a time it was loaded half
                thing.pin(pin)

    def _switch(self, name: str, build: str) -> None:
        with Link.pinned(self._pins.link(name)) as link, Map.pinned(self._pins.pin(name, OPS, build)) as code:
            if link.info().map_id != code.id:
                link.update(code)
        self._move(name, build)

    def _move(self, name: str, build: str) -> None:
        """Give the connections that run another build this one."""
        for _ in iterate(self._pins.pin(name, MOVE, build)):
            pass

    def _is_registered(self, step: RegisterControl | ReplaceControl | RestoreControl) -> None:
        if registered_build(self._pins, step.control) != step.build:
            raise KernelError(f"the congestion control {step.control} is not registered as it should be")

    def _unregister(self, step: UnregisterControl) -> None:
        """The link goes first: what is left half is then seen to be incomplete."""
        pin = self._pins.link(step.control)
        if pin.exists():
            with contextlib.suppress(KernelError), Link.pinned(pin) as link:
                pin.unlink()
                link.detach()  # from Linux 6.10; before that it ends with its last holder, which this is
            _wait_until_gone(step.control)
        PinDirectory(self._pins.control(step.control)).remove_tree()
        with contextlib.suppress(OSError):  # others are still there
            self._pins.directory.rmdir()
        self._ground.remove_if_empty()

    def _is_unregistered(self, step: UnregisterControl) -> None:
        if self._pins.control(step.control).exists():
            raise KernelError(f"pins of the congestion control {step.control} are still there")

    def _remove(self, name: str, build: str) -> None:
        for kind in (OPS, MOVE, FLOWS):
            self._pins.pin(name, kind, build).unlink(missing_ok=True)

    def _forget(self, step: ForgetControl) -> None:
        self._remove(step.control, step.build)

    def _is_forgotten(self, step: ForgetControl) -> None:
        if step.build in self._pins.builds(step.control):
            raise KernelError(f"the replaced congestion control {step.control} is still pinned")


def _wait_until_gone(name: str) -> None:
    deadline = time.monotonic() + UNREGISTERED_WITHIN_S
    while name in congestion_controls():
        if time.monotonic() > deadline:
            raise KernelError(f"the congestion control {name} is still registered")
        time.sleep(0.005)


def _registered(name: str, code: Map) -> Link:
    try:
        return attach_struct_ops(code)
    except KernelError as error:
        if error.errno == codes.EEXIST:
            raise taken(name) from error
        raise


def taken(name: str) -> PliantError:
    """The error for a name under which somebody else has registered a congestion control."""
    return PliantError(
        f"another program has registered a congestion control '{name}' on this machine",
        remedy="have its owner unregister it: 'bpftool struct_ops list' shows it",
    )
