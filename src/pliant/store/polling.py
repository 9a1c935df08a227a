# SPDX-License-Identifier: Apache-2.0
"""Waiting for another process to write to a SQLite file."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable

LOOK_EVERY_S = 0.05


def wait_for_revision(
    writes: Callable[[], Hashable], newest: Callable[[], int], after: int, timeout_s: float
) -> int:
    """Return ``newest()`` as soon as it is above ``after``, or when the time is up.

    SQLite tells nobody of a write. What is looked at is ``writes``, its counter of other connections' writes (PRAGMA
    data_version), which costs microseconds; the revision is read only when that has moved.
    """
    deadline = time.monotonic() + timeout_s
    seen: Hashable = None
    while True:
        counted = writes()
        if counted != seen:
            seen, number = counted, newest()
            if number > after:
                return number
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            return newest()
        time.sleep(min(LOOK_EVERY_S, left_s))
