# SPDX-License-Identifier: Apache-2.0
"""The CPUs a per-CPU map has values for."""

from __future__ import annotations

import functools
from pathlib import Path


def parse_cpu_list(text: str) -> int:
    """Count the CPUs of a kernel CPU list such as ``0-3,8``, up to the highest one."""
    ranges = [part.partition("-") for part in text.strip().split(",")]
    return max(int(last or first) for first, _, last in ranges) + 1


@functools.cache
def possible_cpus() -> int:
    """Number of CPUs this kernel could ever have: the number of values in each per-CPU element."""
    return parse_cpu_list(Path("/sys/devices/system/cpu/possible").read_text())
