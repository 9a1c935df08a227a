# SPDX-License-Identifier: Apache-2.0
"""Switching the kernel's run-time statistics of BPF programs on and off."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from pliant.kernel.syscall import attributes, bpf
from pliant.kernel.uapi import Command

_RUN_TIME = 0  # BPF_STATS_RUN_TIME


@contextlib.contextmanager
def run_time_statistics() -> Iterator[None]:
    """Have the kernel count runs and nanoseconds of every BPF program of the host, until the block is left.

    Costs some 20 ns a run of each program (Documentation: BPF_ENABLE_STATS in ``bpf.h``). Several users may
    overlap; the kernel stops counting when the last one leaves.
    """
    fd = bpf(Command.ENABLE_STATS, attributes("I", _RUN_TIME), "count the run time of BPF programs")
    try:
        yield
    finally:
        os.close(fd)
