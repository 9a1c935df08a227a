# SPDX-License-Identifier: Apache-2.0
"""What a link does to packets: as people write it, and as numbers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pliant.lab import quantity
from pliant.lab.quantity import Depth


@dataclass(frozen=True, slots=True)
class PathSettings:
    """One direction of a path in numbers. ``loss`` is 0..1; a None rate or queue has no limit."""

    rate: int | None
    delay_ns: int
    jitter_ns: int
    loss: float
    queue: Depth | None
    mark_above: Depth | None

    def as_json(self) -> dict[str, Any]:
        """Return the settings as plain values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class PathSpec:
    """One direction of a path as written: rate "100Mbit", delay one way "40ms", loss "1%", queue "1BDP"."""

    rate: str | None = None
    delay: str = "0ms"
    jitter: str = "0ms"
    loss: str = "0%"
    queue: str | None = None
    mark_above: str | None = None

    def settings(self, *, offloads: bool = False) -> PathSettings:
        """Read the texts; raises PliantError.

        A queue that is not given holds one bandwidth-delay product, but at least 64 KB, or 256 KB when a
        single aggregate can be 64 KB.
        """
        rate = None if self.rate is None else quantity.rate_bits_per_s(self.rate)
        delay_ns = quantity.time_ns(self.delay)
        rtt_ns = 2 * delay_ns
        queue = None
        if self.queue is not None:
            queue = quantity.depth(self.queue, rate=rate, rtt_ns=rtt_ns)
        elif rate is not None:
            queue = Depth(bytes=max(256_000 if offloads else 64_000, rate * rtt_ns // 8_000_000_000))
        mark = None if self.mark_above is None else quantity.depth(self.mark_above, rate=rate, rtt_ns=rtt_ns)
        return PathSettings(
            rate=rate,
            delay_ns=delay_ns,
            jitter_ns=quantity.time_ns(self.jitter),
            loss=quantity.share(self.loss),
            queue=queue,
            mark_above=mark,
        )

    @property
    def is_direct(self) -> bool:
        """Whether packets just pass: no rate, delay, jitter, loss or marks."""
        settings = self.settings()
        return (settings.rate, settings.mark_above) == (None, None) and not (
            settings.delay_ns or settings.jitter_ns or settings.loss
        )
