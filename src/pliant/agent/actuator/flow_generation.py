# SPDX-License-Identifier: Apache-2.0
"""The number by which the programs of the fast path tell what they keep of flows from what was before."""

from __future__ import annotations

import struct
import time

from pliant.kernel.maps import Map
from pliant.observe.fastpath import GENERATION, PAUSED, FastpathPins

_U32 = struct.Struct("=I")


def fresh_generation() -> int:
    """A number that no way that is still believed was found under: it comes again after an hour."""
    return (time.monotonic_ns() // 1000) % PAUSED


def set_generation(pins: FastpathPins, number: int) -> None:
    """Make programs forget what they keep of flows, or, with :data:`PAUSED`, leave all packets to the kernel."""
    with Map.pinned(pins.table(GENERATION)) as held:
        held.put(bytes(_U32.size), _U32.pack(number))
