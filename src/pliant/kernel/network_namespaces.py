# SPDX-License-Identifier: Apache-2.0
"""The network namespaces of the machine, for what the kernel offers only one at a time (iterators over sockets)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

NAMED = Path("/run/netns")  # where ip-netns(8) keeps names


@contextlib.contextmanager
def network_namespaces() -> Iterator[list[int]]:
    """Descriptors of all that a process lives in or that has a name, open for the block; each namespace once.

    One that is held only by a socket of a process that has left it is not found: the kernel lists it nowhere.
    """
    with contextlib.ExitStack() as stack:
        found: dict[tuple[int, int], int] = {}
        for path in _candidates():
            with contextlib.suppress(OSError):  # gone meanwhile, or a name whose mount is gone
                about = path.stat()
                if (about.st_dev, about.st_ino) in found:
                    continue
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                stack.callback(os.close, descriptor)
                found[about.st_dev, about.st_ino] = descriptor
        yield list(found.values())


def _candidates() -> Iterator[Path]:
    yield Path("/proc/thread-self/ns/net")
    for process in os.listdir("/proc"):
        if process.isdigit():
            yield Path("/proc", process, "ns/net")
    with contextlib.suppress(OSError):
        yield from NAMED.iterdir()
