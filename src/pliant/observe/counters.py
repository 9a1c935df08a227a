# SPDX-License-Identifier: Apache-2.0
"""What the programs have counted."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from pliant.kernel.codec import Codec
from pliant.kernel.maps import Map
from pliant.observe.pin_tree import PinTree
from pliant.observe.tables import Table
from pliant.policy.desired import SCOPE

SCOPE_OUTCOMES = ("matched", "held-out", "no-rule", "no-service", "no-memory")
"""How judged connections ended: ``enum scope_outcome`` in scope.bpf.c."""

FEATURE_OUTCOMES = ("applied", "refused", "unchanged", "restored")
"""What became of a setting: ``enum feature_outcome`` in feature.h."""


@dataclass(frozen=True, slots=True)
class Arms:
    """Connections since a policy was written: those it has won an option of, and those it held out of that.

    Connections that policies of higher priority have taken whole count for neither.
    """

    treated: int = 0
    held_out: int = 0


def read_arms(pins: PinTree, policy: Codec) -> dict[int, Arms]:
    """The connections of each policy number; empty when nothing is loaded."""
    pin = pins.map(Table(SCOPE, "policies"))
    if not pin.exists():
        return {}
    counters = [field for field in policy.fields if field.name in ("treated", "held_out")]
    places = [slice(field.offset, field.offset + field.size) for field in counters]  # in the order of Arms
    with Map.pinned(pin) as held:
        return {
            int.from_bytes(key, sys.byteorder): Arms(
                *(int.from_bytes(value[place], sys.byteorder) for place in places)
            )
            for key, value in held.items()
        }


def read_outcomes(pins: PinTree, name: str) -> dict[str, int]:
    """How often each outcome was counted by an object's program, over all CPUs; empty when it is not loaded."""
    labels, table = (SCOPE_OUTCOMES, "scope_outcomes") if name == SCOPE else (FEATURE_OUTCOMES, "outcomes")
    pin = pins.map(Table(name, table))
    if not pin.exists():
        return {}
    with Map.pinned(pin) as held:
        counts = [
            sum(int.from_bytes(cpu, sys.byteorder) for cpu in held.percpu(value)) for _, value in held.items()
        ]
    return dict(zip(labels, counts, strict=True))
