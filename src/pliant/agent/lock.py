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

LOCK_NAME, AGENT_LOCK_NAME = "lock", "agent.lock"
AGENT = " agent"  # after the process's number in the file
RETRY_S = 0.02
AGENT_HOLDS_S = 5.0
"""How long an agent's hold is waited for, whatever the timeout: it is short, and nobody has asked for it."""


class HostBusy(PliantError):
    """Another process is changing this host."""

    def __init__(self, holder: str) -> None:
        self.holder = holder or "?"
        super().__init__(
            f"another pliant (process {self.holder}) is changing this host",
            remedy="wait for it, or give a longer --timeout",
        )


@contextlib.contextmanager
def host_lock(directory: Path, timeout_s: float, *, agent: bool = False) -> Iterator[None]:
    """Hold the lock of a state directory; the kernel lets go of it when the process ends, however it ends.

    ``agent`` says that it is the agent's: others wait a little longer for that. Raises :class:`HostBusy` naming the
    holder's process after ``timeout_s`` seconds.
    """
    with _locked(directory / LOCK_NAME, timeout_s, agent=agent):
        yield


@contextlib.contextmanager
def _locked(path: Path, timeout_s: float, *, agent: bool) -> Iterator[None]:
    directory = path.parent
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise PliantError(
            f"cannot use the state directory {directory}: {(error.strerror or '').lower()}",
            remedy="run as root, or name another --state directory",
        ) from error
    try:
        _acquire(descriptor, timeout_s, agent)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}{AGENT if agent else ''}".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, timeout_s: float, agent: bool) -> None:
    started = time.monotonic()
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode()
            waits = holder.endswith(AGENT) and not agent
            allowed_s = max(timeout_s, AGENT_HOLDS_S) if waits else timeout_s
            if time.monotonic() - started >= allowed_s:
                raise HostBusy(holder.removesuffix(AGENT)) from None
        time.sleep(RETRY_S)


@contextlib.contextmanager
def agent_lock(directory: Path) -> Iterator[None]:
    """Be the only agent of a state directory. Raises :class:`PliantError` naming the other one."""
    try:
        with _locked(directory / AGENT_LOCK_NAME, 0.0, agent=True):
            yield
    except HostBusy as error:
        raise PliantError(
            f"another agent (process {error.holder}) runs on {directory}",
            remedy="stop that one, or name another --state directory",
        ) from error
