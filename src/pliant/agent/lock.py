# SPDX-License-Identifier: Apache-2.0
"""One process at a time changes a host."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from pliant.errors import PliantError

RETRY_S = 0.02


@contextlib.contextmanager
def host_lock(directory: Path, timeout_s: float) -> Iterator[None]:
    """Hold the lock of a state directory; the kernel lets go of it when the process ends, however it ends.

    Raises :class:`PliantError` naming the holder's process after ``timeout_s`` seconds.
    """
    path = directory / "lock"
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise PliantError(
            f"cannot use the state directory {directory}: {(error.strerror or '').lower()}",
            remedy="run as root, or name another --state directory",
        ) from error
    try:
        _acquire(descriptor, timeout_s)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                holder = os.pread(descriptor, 32, 0).decode() or "?"
                raise PliantError(
                    f"another pliant (process {holder}) is changing this host",
                    remedy="wait for it, or give a longer --timeout",
                ) from None
        time.sleep(RETRY_S)
