# SPDX-License-Identifier: Apache-2.0
"""A timer with a descriptor (timerfd_create(2)), for loops that wait for descriptors; Python has it from 3.13 on."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import time

from pliant.kernel.errors import kernel_error
from pliant.kernel.syscall import libc

_SPEC = struct.Struct("=qqqq")  # struct itimerspec, where long is of 64 bits


class Timer:
    """A timer that makes its descriptor readable once, some time after it was set."""

    def __init__(self) -> None:
        self._fd: int = libc().timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise kernel_error(ctypes.get_errno(), "make a timer")

    def fileno(self) -> int:
        """The descriptor, for select."""
        return self._fd

    def set(self, seconds: float) -> None:
        """Be readable after so many seconds from now, and not before; at once for none or fewer."""
        nanoseconds = max(1, int(seconds * 1e9))
        spec = _SPEC.pack(0, 0, *divmod(nanoseconds, 1_000_000_000))
        if libc().timerfd_settime(self._fd, 0, spec, None) != 0:
            raise kernel_error(ctypes.get_errno(), "set a timer")

    def clear(self) -> None:
        """Take note that it has expired: it is no longer readable until it is set again."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, 8)

    def close(self) -> None:
        """Close the descriptor."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
