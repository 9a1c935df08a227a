# SPDX-License-Identifier: Apache-2.0
"""The length of a bottleneck's queue over time, from when each packet came and left."""

from __future__ import annotations

import mmap
from bisect import bisect_left, bisect_right
from dataclasses import dataclass

from pliant.lab.relay import PASSAGE, RECORDING_HEADER

_NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class QueueRecord:
    """When packets were in a queue, in order: times in ns of CLOCK_MONOTONIC.

    A packet is in the queue from its arrival until its last bit is sent; the one being sent counts.
    """

    arrived: tuple[int, ...]
    departed: tuple[int, ...]

    def between(self, start_ns: int, end_ns: int) -> QueueRecord:
        """The packets that arrived from one time until just before another."""
        first, last = bisect_left(self.arrived, start_ns), bisect_left(self.arrived, end_ns)
        return QueueRecord(self.arrived[first:last], self.departed[first:last])

    def length_at(self, time_ns: int) -> int:
        """How many packets were in the queue at a time."""
        return bisect_right(self.arrived, time_ns) - bisect_right(self.departed, time_ns)

    def lengths(self, every_s: float = 0.001) -> list[int]:
        """The length at regular times, from the first arrival to the last: as much time, as many samples."""
        if not self.arrived:
            return []
        step_ns = round(every_s * _NS_PER_S)
        return [self.length_at(time) for time in range(self.arrived[0], self.arrived[-1] + 1, step_ns)]


def read_recording(ring: mmap.mmap) -> QueueRecord:
    """Read the ring that a relay writes: what it holds, oldest packet first."""
    count, _ = RECORDING_HEADER.unpack_from(ring)
    room = (len(ring) - RECORDING_HEADER.size) // PASSAGE.size
    pairs = list(PASSAGE.iter_unpack(ring[RECORDING_HEADER.size :]))
    held = pairs[:count] if count <= room else pairs[count % room :] + pairs[: count % room]
    return QueueRecord(tuple(pair[0] for pair in held), tuple(pair[1] for pair in held))
