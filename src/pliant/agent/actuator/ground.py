# SPDX-License-Identifier: Apache-2.0
"""What every part of the actuator stands on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pliant.errors import PliantError
from pliant.features.layout import Layout
from pliant.kernel.programs import Program
from pliant.observe.pin_tree import PinTree
from pliant.observe.reader import hooked_program
from pliant.plan.steps import Step
from pliant.store.holdings import Holdings


class Taken(NamedTuple):
    """How one type of step is taken, and how it is read back. Both take the step."""

    act: Callable[[Any], None]
    read_back: Callable[[Any], None]


Steps = Mapping[type[Step], Taken]


@dataclass(frozen=True, slots=True)
class Ground:
    """The pins, the objects of this build, the cgroup hierarchy, the host's secret, and which sysctls are ours."""

    pins: PinTree
    layout: Layout
    cgroup_root: Path
    holdout_key: int
    holdings: Holdings

    def hooked(self, name: str) -> Program:
        """The program of an object that is attached to cgroups: this build's, where it is replacing another.

        Raises :class:`PliantError` when the object is not loaded.
        """
        builds, own = self.pins.builds(name), self.layout.builds[name]
        if not builds:
            raise PliantError(f"the program {name} is not loaded")
        return Program.pinned(hooked_program(self.pins, name, own if own in builds else builds[-1]))

    def remove_if_empty(self) -> None:
        """Leave no directory behind when the last thing of ours has gone."""
        for directory in (self.pins.links, self.pins.directory, self.pins.root):
            with contextlib.suppress(OSError):  # not empty, or the mount itself
                directory.rmdir()
