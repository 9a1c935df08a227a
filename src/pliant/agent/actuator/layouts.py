# SPDX-License-Identifier: Apache-2.0
"""What another build of Pliant left under a layout of its own."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from pliant.agent.actuator.ground import Ground, Steps, Taken
from pliant.agent.actuator.open_connections import open_iterators
from pliant.kernel.errors import KernelError
from pliant.kernel.iterators import run_in_namespaces
from pliant.kernel.links import Link
from pliant.kernel.maps import Map
from pliant.kernel.pins import PinDirectory
from pliant.kernel.programs import Program
from pliant.kernel.rcu import wait_for_running_programs
from pliant.observe.pin_tree import PinTree
from pliant.observe.reader import EFFECTS, POLICIES
from pliant.observe.tables import Table
from pliant.plan.steps import CarryCounters, RetireLayout
from pliant.policy.desired import SCOPE

SERVICES = Table(SCOPE, "services")
ARMS = ("treated", "held_out")  # counters in struct policy
CARRIED = Table(SCOPE, "carried")
FIRST = bytes(4)


class Layouts:
    """Moves the counters of another layout here; detaches and removes everything of it, whatever it named its links."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    def steps(self) -> Steps:
        """The steps it takes."""
        return {
            CarryCounters: Taken(self._carry, _nothing),
            RetireLayout: Taken(self._retire, self._retire_done),
        }

    def _carry(self, step: CarryCounters) -> None:
        """Take out each of their counters and add it to ours; an interruption loses what is between the two."""
        wait_for_running_programs()
        ours, theirs = self._ground.pins, PinTree(self._ground.pins.root, step.layout)
        build = ours.builds(SCOPE)[-1]
        with (
            Map.pinned(ours.map(CARRIED)) as carried,
            Program.pinned(ours.part(SCOPE, "carry", build)) as program,
        ):
            for added in (*self._arms_of(theirs), *self._effects_of(theirs)):
                codec = carried.value_codec
                assert codec is not None  # its object has BTF
                carried.put(FIRST, codec.pack(codec.unpack(bytes(carried.value_size)) | added))
                program.test_run(repeat=0)

    def _arms_of(self, theirs: PinTree) -> Iterator[Mapping[str, Any]]:
        """The counters of their policies. Fields are told by their names, for they may have them elsewhere."""
        with contextlib.ExitStack() as stack:
            held = _opened(theirs, POLICIES, stack)
            codec = held.value_codec if held else None
            if held is None or codec is None:
                return
            for key, value in list(held.items()):
                fields = codec.unpack(value)
                found = {name: fields[name] for name in ARMS if name in fields}
                if any(found.values()):
                    held.put(key, codec.pack(fields | dict.fromkeys(found, 0)))
                    yield {"policy": int.from_bytes(key, sys.byteorder), **found}

    def _effects_of(self, theirs: PinTree) -> Iterator[Mapping[str, Any]]:
        """What was measured for them, where both builds measure the same."""
        with contextlib.ExitStack() as stack:
            held = _opened(theirs, EFFECTS, stack)
            ours = stack.enter_context(Map.pinned(self._ground.pins.map(EFFECTS)))
            if held is None or held.value_layout != ours.value_layout:
                return
            keys, values = held.key_codec, held.value_codec
            assert keys is not None
            assert values is not None
            for key, value in list(held.items()):
                if any(value):
                    held.put(key, bytes(held.value_size))
                    yield {**keys.unpack(key), "effect": values.unpack(value)}

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


def _opened(pins: PinTree, table: Table, stack: contextlib.ExitStack) -> Map | None:
    try:
        return stack.enter_context(Map.pinned(pins.map(table)))
    except KernelError:
        return None  # that build has no such thing, or is gone half


def _nothing(step: CarryCounters) -> None:
    """Counters move on at once: there is nothing that they could be held against."""
