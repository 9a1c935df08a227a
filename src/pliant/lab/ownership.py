# SPDX-License-Identifier: Apache-2.0
"""Names that say which process owns a thing, so that what a dead owner left is recognised and swept.

A name is ``pliant-lab-<pid>-<start time>-<label>``: the start time (clock ticks since boot, field 22 of
/proc/PID/stat, proc(5)) tells a living owner from a stranger who got the same pid later.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from pliant.errors import PliantError
from pliant.lab import cgroup

_NAME = re.compile(r"pliant-lab-(?P<pid>\d+)-(?P<start>\d+)-")


def start_time(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot, or None if there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(stat.rpartition(")")[2].split()[19])


def owned_name(label: str) -> str:
    """Return a name for something that belongs to this process."""
    pid = int(os.readlink("/proc/self"))  # in a PID namespace of its own, getpid() is not what /proc says
    return f"pliant-lab-{pid}-{start_time(pid)}-{label}"


def is_stale(name: str) -> bool:
    """Say whether a name is one of ours whose owner is dead."""
    match = _NAME.match(name)
    return match is not None and start_time(int(match["pid"])) != int(match["start"])


def sweep() -> list[Path]:
    """Remove the control groups and temporary directories of dead owners, and return their paths.

    Processes still running in such a control group are killed: they are a dead lab's.
    """
    swept = []
    for group in cgroup.version2_root().iterdir():
        if is_stale(group.name):
            with suppress(PliantError, OSError):  # another lab may be sweeping too; the next one tries again
                cgroup.remove(group, kill=True)
                swept.append(group)
    for directory in Path(tempfile.gettempdir()).iterdir():
        if is_stale(directory.name):
            shutil.rmtree(directory, ignore_errors=True)
            swept.append(directory)
    return swept
