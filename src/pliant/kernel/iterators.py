# SPDX-License-Identifier: Apache-2.0
"""BPF iterators over sockets, in every network namespace of the host."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from pliant.kernel.errors import KernelError
from pliant.kernel.links import attach_iterator
from pliant.kernel.namespaces import entered
from pliant.kernel.programs import Program

PROC = Path("/proc")


def run_in_namespaces(pins: Sequence[Path]) -> None:
    """Run pinned iterator programs (``iter/tcp``) one after the other in each network namespace that has a process.

    An iterator goes through the sockets of the namespace it is run in. A namespace that ends meanwhile is left out.
    Raises :class:`KernelError`.
    """
    with contextlib.ExitStack() as stack:
        iterators = []
        for pin in pins:
            program = stack.enter_context(Program.pinned(pin))
            iterators.append(stack.enter_context(attach_iterator(program)))
        for namespace in network_namespaces():
            with contextlib.ExitStack() as inside:
                try:
                    inside.enter_context(entered(namespace))
                except KernelError:
                    continue  # its last process has ended
                for iterator in iterators:
                    iterator.read_iterator()


def network_namespaces() -> Iterator[Path]:
    """A file of each network namespace that a process of this host is in, this thread's own first."""
    own = PROC / "thread-self" / "ns" / "net"
    seen = {os.stat(own).st_ino}
    yield PROC / str(os.getpid()) / "task" / str(threading.get_native_id()) / "ns" / "net"
    for process in PROC.iterdir():
        if not process.name.isdigit():
            continue
        path = process / "ns" / "net"
        with contextlib.suppress(OSError):
            inode = path.stat().st_ino
            if inode not in seen:
                seen.add(inode)
                yield path
