# SPDX-License-Identifier: Apache-2.0
"""What another build of Pliant left under a layout of its own."""

from __future__ import annotations

import contextlib

from pliant.agent.actuator.ground import Ground, Steps, Taken
from pliant.kernel.errors import KernelError
from pliant.kernel.links import Link
from pliant.kernel.pins import PinDirectory
from pliant.observe.pin_tree import PinTree
from pliant.plan.steps import RetireLayout


class Layouts:
    """Detaches and removes everything of another layout, whatever it named its links."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    def steps(self) -> Steps:
        """The steps it takes."""
        return {RetireLayout: Taken(self._retire, self._retire_done)}

    def _retire(self, step: RetireLayout) -> None:
        other = PinTree(self._ground.pins.root, step.layout)
        for pin in other.link_pins():
            with contextlib.suppress(KernelError), Link.pinned(pin) as link:
                link.detach()
        PinDirectory(other.directory).remove_tree()

    def _retire_done(self, step: RetireLayout) -> None:
        if PinTree(self._ground.pins.root, step.layout).directory.exists():
            raise KernelError(f"pins of the layout {step.layout} are still there")
