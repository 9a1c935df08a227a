# SPDX-License-Identifier: Apache-2.0
"""The cgroup v2 hierarchy as it is, kept up to date: a watch on each directory, no polling.

A directory is watched first and listed then, so what is made in it meanwhile is found in one of the two ways, or in
both, which does no harm. When the kernel's queue of events overflows, or no watch is left, the hierarchy is walked.
"""

from __future__ import annotations

import os
from pathlib import Path

from pliant.closing import Closable
from pliant.kernel import cgroups
from pliant.kernel.inotify import Inotify, Mask, WatchLimit

_MASK = Mask.CREATE | Mask.DELETE | Mask.ONLY_DIRECTORY


class CgroupWatch(Closable):
    """All cgroups below ``root``: ``known`` maps their paths to their ids.

    ``complete`` is False when the user has run out of watches: then call :meth:`rescan` from time to time.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.known: dict[str, int] = {}
        self.complete = True
        self._inotify = Inotify()
        self._paths: dict[int, str] = {}
        self.rescan()

    def close(self) -> None:
        """Stop watching."""
        self._inotify.close()

    def fileno(self) -> int:
        """Readable when cgroups have come or gone."""
        return self._inotify.fileno()

    def update(self) -> bool:
        """Take in what has happened since the last call; whether any cgroup has come or gone."""
        changed = False
        for watch, mask, name in self._inotify.read():
            if mask & Mask.OVERFLOW:
                return self.rescan() or changed
            if mask & Mask.IGNORED:
                self._paths.pop(watch, None)
            elif mask & Mask.DIRECTORY and watch in self._paths:
                path = f"{self._paths[watch].rstrip('/')}/{name}"
                if mask & Mask.CREATE:
                    changed |= self._enter(path)
                else:
                    changed |= self.known.pop(path, None) is not None
        return changed

    def rescan(self) -> bool:
        """Walk the hierarchy; whether it differs from what was known."""
        before = self.known
        self.known, self.complete = {}, True
        self._enter("/")
        return self.known != before

    def _enter(self, path: str) -> bool:
        """Watch a cgroup, then list it; whether anything was new."""
        directory = str(self.root) if path == "/" else f"{self.root}{path}"
        if not self._watch(path, directory):
            return False
        try:
            number = os.stat(directory).st_ino
            with os.scandir(directory) as entries:
                children = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:  # gone meanwhile
            return False
        new = self.known.get(path) != number
        self.known[path] = number
        for name in children:
            new |= self._enter(f"{path.rstrip('/')}/{name}")
        return new

    def _watch(self, path: str, directory: str) -> bool:
        if not self.complete:
            return True
        try:
            watch = self._inotify.add(directory, _MASK)
        except WatchLimit:
            self.complete = False
            return True
        if watch is None:
            return False
        self._paths[watch] = path
        return True

    def differs(self) -> bool:
        """Whether the hierarchy, walked, is another than the one known: nothing may be missed for good."""
        return {cgroup.path: cgroup.id for cgroup in cgroups.walk(self.root)} != self.known
