# SPDX-License-Identifier: Apache-2.0
"""Carries steps out in the kernel and reads them back. Each one may be taken again after it was taken half.

A kind of thing that steps change has a class in a file of its own, which says the types of step it takes.
"""

from __future__ import annotations

from pliant.agent.actuator.attachments import Attachments
from pliant.agent.actuator.controls import Controls
from pliant.agent.actuator.fastpath import Fastpaths
from pliant.agent.actuator.ground import Ground, Taken
from pliant.agent.actuator.layouts import Layouts
from pliant.agent.actuator.objects import Objects
from pliant.agent.actuator.open_connections import OpenConnections
from pliant.agent.actuator.sysctls import Sysctls
from pliant.agent.actuator.tables import TableWriter
from pliant.plan.steps import Step

__all__ = ["Ground", "KernelActuator"]


class KernelActuator:
    """Takes steps on the host this process runs on; see :class:`pliant.plan.executor.Actuator`.

    Errors are those of :mod:`pliant.kernel.errors`.
    """

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        parts = (
            Objects(ground),
            TableWriter(ground),
            Attachments(ground),
            OpenConnections(ground),
            Controls(ground),
            Layouts(ground),
            Sysctls(ground),
            Fastpaths(ground),
        )
        self._taken: dict[type[Step], Taken] = {
            kind: how for part in parts for kind, how in part.steps().items()
        }

    def act(self, step: Step) -> None:
        """Make the change."""
        self._taken[type(step)].act(step)

    def read_back(self, step: Step) -> None:
        """Check the change in the kernel."""
        self._taken[type(step)].read_back(step)
