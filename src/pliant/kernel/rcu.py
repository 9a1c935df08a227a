# SPDX-License-Identifier: Apache-2.0
"""Waiting until the programs that run now have ended."""

from __future__ import annotations

import ctypes
import os

MEMBARRIER_CMD_GLOBAL = 1
_MEMBARRIER = {"x86_64": 324, "aarch64": 283}


def wait_for_running_programs() -> bool:
    """Return when every program that was running at the time of the call has ended; some 10 ms.

    Programs on network hooks run in an RCU read-side critical section, and membarrier(2) with MEMBARRIER_CMD_GLOBAL
    waits for a grace period. False, at once, where the kernel has no such call or refuses it (``nohz_full``).
    """
    number = _MEMBARRIER.get(os.uname().machine)
    if number is None:
        return False
    result: int = ctypes.CDLL(None).syscall(ctypes.c_long(number), MEMBARRIER_CMD_GLOBAL, 0, 0)
    return result == 0
