# SPDX-License-Identifier: Apache-2.0
"""The few system calls the lab needs and Python 3.11 does not offer: namespaces and mounts.

All of them act on the calling thread only, which is what lets a lab live inside a threaded program.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000

MS_REC = 0x4000
MS_PRIVATE = 0x40000
MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def setns(namespace_fd: int, kind: int) -> None:
    """Move the calling thread into a namespace (setns(2)); raises OSError."""
    _checked(_libc.setns(namespace_fd, kind), "setns")


def unshare(kinds: int) -> None:
    """Give the calling thread new namespaces (unshare(2)); raises OSError."""
    _checked(_libc.unshare(kinds), "unshare")


def mount(source: str, target: str, filesystem: str = "", flags: int = 0, options: str = "") -> None:
    """Mount a filesystem or change a mount's flags (mount(2)); raises OSError."""
    arguments = (
        source.encode(),
        target.encode(),
        filesystem.encode(),
        ctypes.c_ulong(flags),
        options.encode(),
    )
    _checked(_libc.mount(*arguments), f"mount {filesystem or 'flags'} on {target}")


def detach_mount(target: str) -> None:
    """Take a mount out of the tree now, and free it when its last user is gone; raises OSError."""
    _checked(_libc.umount2(target.encode(), MNT_DETACH), f"umount {target}")


@contextmanager
def thread_network_restored() -> Iterator[None]:
    """Put the calling thread's network namespace back when the block, which may change it, ends."""
    network = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield
    finally:
        try:
            setns(network, CLONE_NEWNET)
        finally:
            os.close(network)
