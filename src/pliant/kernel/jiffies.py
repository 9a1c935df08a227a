# SPDX-License-Identifier: Apache-2.0
"""The kernel's tick, in which its timers count."""

from __future__ import annotations

import time
from functools import cache

CLOCK_MONOTONIC_COARSE = 6  # linux/time.h; it advances with each tick, so its resolution is one


@cache
def jiffy_us() -> int:
    """The length of a jiffy in microseconds: 4000 where CONFIG_HZ is 250."""
    return round(time.clock_getres(CLOCK_MONOTONIC_COARSE) * 1e6)


def jiffies(microseconds: int) -> int:
    """A time in jiffies, rounded up as the kernel does it."""
    return -(-microseconds // jiffy_us())
