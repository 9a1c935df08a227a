# SPDX-License-Identifier: Apache-2.0
"""Packets and bytes, as the kernel counts them and as programs do, each CPU by itself."""

from __future__ import annotations

import struct
from typing import NamedTuple

from pliant.kernel.maps import Map

_COUNT = struct.Struct("=QQ")  # struct count in fastpath/port.h


class Counted(NamedTuple):
    """Packets and bytes."""

    packets: int = 0
    bytes: int = 0

    def plus(self, other: Counted) -> Counted:
        """Both together."""
        return Counted(self.packets + other.packets, self.bytes + other.bytes)


def counts_of(table: Map, key: bytes) -> list[Counted]:
    """What an element of a per-CPU table has, one count after the other, of all CPUs; empty where it is not there."""
    by_cpu = [list(_COUNT.iter_unpack(own)) for own in table.percpu(table.get(key) or b"")]
    return [Counted(*map(sum, zip(*one, strict=True))) for one in zip(*by_cpu, strict=True)]
