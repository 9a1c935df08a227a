# SPDX-License-Identifier: Apache-2.0
"""Private mounts: pins and state that vanish with the process, kill -9 included."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pliant.errors import PliantError
from pliant.lab import ownership, syscalls


@dataclass(frozen=True, slots=True)
class PrivateMounts:
    """Directories only this process and those it starts can see: a bpffs, and two in memory."""

    bpffs: Path
    state: Path
    run: Path


def isolate() -> PrivateMounts:
    """Give this process a private mount namespace with its own bpffs, state and run directories.

    Call it on the main thread before others are started: a mount namespace belongs to a thread, and is
    inherited by the threads and processes started from it later. What is pinned or written there goes when
    the last of them ends; the empty mount point is removed at exit, or by the next lab's sweep.
    Raises PliantError when threads are running or the kernel refuses.
    """
    if threading.active_count() > 1:
        raise PliantError(
            "private mounts cannot be made while other threads are running",
            remedy="call isolate() first thing, on the main thread",
        )
    ownership.sweep()
    base = tempfile.mkdtemp(prefix=ownership.owned_name("mounts-"))
    try:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
        syscalls.mount("pliant-lab", base, "tmpfs", options="mode=0700")
        mounts = PrivateMounts(*(Path(base, name) for name in ("bpf", "state", "run")))
        for directory in (mounts.bpffs, mounts.state, mounts.run):
            directory.mkdir()
        syscalls.mount("pliant-lab", str(mounts.bpffs), "bpf", options="mode=0700")
    except OSError as error:
        shutil.rmtree(base, ignore_errors=True)
        raise PliantError(f"cannot make private mounts: {error}", remedy="run as root") from error
    atexit.register(_release, base, os.getpid())
    return mounts


def _release(base: str, pid: int) -> None:
    if os.getpid() != pid:
        return
    with suppress(OSError):
        syscalls.detach_mount(base)
        os.rmdir(base)
