# SPDX-License-Identifier: Apache-2.0
"""Connections that are open already: iterators go through all TCP sockets of the host."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from pliant.agent.actuator.ground import Ground, Steps, Taken
from pliant.kernel.errors import KernelError
from pliant.kernel.iterators import run_in_namespaces
from pliant.kernel.maps import Map
from pliant.observe.pin_tree import PinTree
from pliant.observe.reader import TUNED, UNDER_WAY
from pliant.plan.steps import RetuneOnUndo, TuneOpen
from pliant.policy.desired import SCOPE

DIGEST, ADOPT = (number.to_bytes(4, sys.byteorder) for number in (0, 1))  # enum tuned_entry in scope.bpf.c


class OpenConnections:
    """Runs scope's iterator, which judges every open socket anew, then those of the features, which act on it."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    def steps(self) -> Steps:
        """The steps it takes."""
        return {
            TuneOpen: Taken(self._tune, self._tune_done),
            RetuneOnUndo: Taken(_nothing, _nothing),
        }

    def _tune(self, step: TuneOpen) -> None:
        self._mark(UNDER_WAY, adopt=step.adopt)
        pins = self._ground.pins
        run_in_namespaces(open_iterators(pins, pins.objects()))
        self._mark(step.after)

    def _tune_done(self, step: TuneOpen) -> None:
        with Map.pinned(self._ground.pins.map(TUNED)) as held:
            if held.get(DIGEST) != step.after.to_bytes(8, sys.byteorder):
                raise KernelError("open connections were not all gone through")

    def _mark(self, digest: int, *, adopt: bool = False) -> None:
        with Map.pinned(self._ground.pins.map(TUNED)) as held:
            held.put(DIGEST, digest.to_bytes(8, sys.byteorder))
            held.put(ADOPT, adopt.to_bytes(8, sys.byteorder))


def open_iterators(pins: PinTree, names: Iterable[str]) -> list[Path]:
    """The pins of objects' iterators, scope's first; where a program is being replaced, the newer one."""
    ordered = sorted(names, key=lambda name: (name != SCOPE, name))
    found = (pins.part(name, "open", builds[-1]) for name in ordered if (builds := pins.builds(name)))
    return [pin for pin in found if pin.exists()]


def _nothing(step: RetuneOnUndo) -> None:
    """See :class:`RetuneOnUndo`."""
