# SPDX-License-Identifier: Apache-2.0
"""What another build of Pliant left under a layout of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from pliant.agent.actuator.ground import Ground, Steps, Taken
from pliant.agent.actuator.open_connections import open_iterators
from pliant.kernel.errors import KernelError
from pliant.kernel.iterators import run_in_namespaces
from pliant.kernel.links import Link
from pliant.kernel.maps import Map
from pliant.kernel.pins import PinDirectory
from pliant.observe.pin_tree import PinTree
from pliant.observe.reader import EFFECTS, POLICIES
from pliant.observe.tables import Table
from pliant.plan.steps import CarryCounters, RetireLayout
from pliant.policy.desired import SCOPE

SERVICES = Table(SCOPE, "services")
ARMS = ("treated", "held_out")  # counters in struct policy


class Layouts:
    """Detaches and removes everything of another layout, whatever it named its links."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    def steps(self) -> Steps:
        """The steps it takes."""
        return {
            CarryCounters: Taken(self._carry, _nothing),
            RetireLayout: Taken(self._retire, self._retire_done),
        }

    def _carry(self, step: CarryCounters) -> None:
        """Fields are told by their names, for the other build may have them elsewhere."""
        theirs, ours = PinTree(self._ground.pins.root, step.layout), self._ground.pins
        for table in (POLICIES, EFFECTS):
            with contextlib.ExitStack() as stack:
                try:
                    old = stack.enter_context(Map.pinned(theirs.map(table)))
                except KernelError:
                    continue  # that build has no such thing, or is gone half
                new = stack.enter_context(Map.pinned(ours.map(table)))
                if table == POLICIES:
                    _carry_fields(old, new, ARMS)
                elif old.value_layout == new.value_layout:
                    _carry_values(old, new)

    def _retire(self, step: RetireLayout) -> None:
        other = PinTree(self._ground.pins.root, step.layout)
        with contextlib.suppress(KernelError):  # that build may be gone half
            self._give_back(other)
        for pin in other.link_pins():
            with contextlib.suppress(KernelError), Link.pinned(pin) as link:
                link.detach()
        PinDirectory(other.directory).remove_tree()

    def _give_back(self, other: PinTree) -> None:
        """Have open connections get back what they had before features that this build does not go on with.

        The other build does so by its own iterators, when no service has policies any more as far as it knows.
        """
        features = [name for name in other.objects() if name != SCOPE and not self._goes_on_with(name)]
        iterators = open_iterators(other, features)
        if not iterators:
            return
        with Map.pinned(other.map(SERVICES)) as services:
            services.delete_many(list(services.keys()))
        run_in_namespaces([*open_iterators(other, [SCOPE]), *iterators])

    def _goes_on_with(self, name: str) -> bool:
        return bool(self._ground.pins.builds(SCOPE) and self._ground.pins.builds(name))

    def _retire_done(self, step: RetireLayout) -> None:
        if PinTree(self._ground.pins.root, step.layout).directory.exists():
            raise KernelError(f"pins of the layout {step.layout} are still there")


def _carry_fields(old: Map, new: Map, names: Sequence[str]) -> None:
    codecs = old.value_codec, new.value_codec
    if codecs[0] is None or codecs[1] is None:
        return
    for key, value in list(new.items()):
        before = old.get(key)
        if before is None:
            continue
        found = codecs[0].unpack(before)
        carried = codecs[1].unpack(value) | {name: found[name] for name in names if name in found}
        new.put(key, codecs[1].pack(carried))


def _carry_values(old: Map, new: Map) -> None:
    for key in list(new.keys()):
        before = old.get(key)
        if before is not None:
            new.put(key, before)


def _nothing(step: CarryCounters) -> None:
    """The counters move on at once: there is nothing that they could be held against."""
