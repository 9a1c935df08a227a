# SPDX-License-Identifier: Apache-2.0
"""Noticing that another process has changed the policies, or has let go of the host's lock."""

from __future__ import annotations

from pathlib import Path

from pliant.agent.lock import LOCK_NAME
from pliant.kernel.inotify import Inotify, Mask


class StateWatch:
    """The files of a state directory; readable when one of them was written.

    SQLite tells nobody of a write, but its log is a file. The lock is written and closed by whoever held it, by the
    kernel where that process was killed.
    """

    def __init__(self, directory: Path) -> None:
        self._inotify = Inotify()
        self._inotify.add(directory, Mask.MODIFY | Mask.CREATE | Mask.CLOSE_WRITE)

    def close(self) -> None:
        """Stop watching."""
        self._inotify.close()

    def fileno(self) -> int:
        """Readable when something was written."""
        return self._inotify.fileno()

    def take(self) -> bool:
        """Forget what has happened; whether the lock was let go of."""
        return any(h.name == LOCK_NAME and h.mask & Mask.CLOSE_WRITE for h in self._inotify.read())
