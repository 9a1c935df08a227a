# SPDX-License-Identifier: Apache-2.0
"""Control groups of the second version: where the hierarchy is, and how a subtree is removed."""

from __future__ import annotations

import os
import select
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

from pliant.errors import PliantError
from pliant.lab import holder


@cache
def version2_root() -> Path:
    """Return where the cgroup v2 hierarchy is mounted, from /proc/self/mountinfo (proc(5)).

    Hybrid hosts have it at /sys/fs/cgroup/unified, others at /sys/fs/cgroup. Raises PliantError if nowhere.
    """
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, filesystem = line.partition(" - ")
        if filesystem.split()[0] == "cgroup2":
            return Path(fields.split()[4].encode().decode("unicode_escape"))
    raise PliantError(
        "no cgroup v2 hierarchy is mounted on this host",
        remedy="mount one: mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified",
    )


def wait_unpopulated(group: Path, timeout_s: float) -> bool:
    """Wait until no process is left in a group or below it; False when the time is up."""
    deadline = time.monotonic() + timeout_s
    events = os.open(group / "cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    try:
        poller = select.poll()
        poller.register(events, select.POLLPRI)
        while b"populated 1" in os.pread(events, 4096, 0):
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            poller.poll(left * 1000)
        return True
    finally:
        os.close(events)


def remove(group: Path, *, kill: bool = False, timeout_s: float = 2.0) -> None:
    """Remove a group with everything below it, waiting for its last processes to end.

    With ``kill`` they are killed first. Raises PliantError if some stay.
    """
    with suppress(FileNotFoundError):
        if kill:
            holder.kill_group(str(group))
        if not wait_unpopulated(group, timeout_s):
            raise PliantError(
                f"processes are still running in {group}",
                remedy=f"end them (their pids are in {group}/cgroup.procs and below) and try again",
            )
        for directory, _, _ in os.walk(group, topdown=False):
            os.rmdir(directory)
