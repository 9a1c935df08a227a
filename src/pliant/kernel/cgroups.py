# SPDX-License-Identifier: Apache-2.0
"""The cgroup v2 hierarchy: where it is mounted, what is in it, and the ids the kernel knows cgroups by."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pliant.kernel.errors import NotSupported, kernel_error
from pliant.kernel.mounts import Mount, mounts


@dataclass(frozen=True, slots=True)
class Cgroup:
    """A cgroup by its path below the root of the hierarchy (``/`` is the root itself) and its kernel id."""

    path: str
    id: int


def choose_root(mounted: Iterable[Mount]) -> Path:
    """Choose the mount of the whole cgroup v2 hierarchy, the one with the shortest path.

    On a unified host that is /sys/fs/cgroup, on a hybrid one often /sys/fs/cgroup/unified. Raises
    :class:`NotSupported` when there is none, also where only a part of the hierarchy is mounted (a
    container).
    """
    found = [m for m in mounted if m.filesystem == "cgroup2"]
    whole = [m.point for m in found if m.root == "/"]
    if whole:
        return min(whole, key=lambda point: (len(str(point)), str(point)))
    if found:
        raise NotSupported(
            f"only the part {found[0].root} of the cgroup v2 hierarchy is mounted here, at {found[0].point}",
            remedy="run outside the container, or share the host's cgroup namespace with it",
        )
    raise NotSupported(
        "no cgroup v2 hierarchy is mounted on this host",
        remedy="mount one: mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified",
    )


def find_root() -> Path:
    """Find the directory the whole cgroup v2 hierarchy is mounted at; see :func:`choose_root`."""
    return choose_root(mounts())


def cgroup_id(path: Path) -> int:
    """Return the id the kernel knows a cgroup by (``bpf_skb_cgroup_id()``, a link's ``cgroup_id``).

    It is the inode number of the directory on 64-bit kernels (fs/kernfs: ``kernfs_id()``). Raises
    :class:`KernelError` with ``errno`` ENOENT when the cgroup is gone.
    """
    try:
        return path.stat().st_ino
    except OSError as error:
        raise kernel_error(error.errno or 0, f"look at the cgroup {path}") from error


def walk(root: Path) -> Iterator[Cgroup]:
    """Run through a hierarchy, parents first, names in order; cgroups may come and go meanwhile."""
    try:
        yield Cgroup("/", root.stat().st_ino)
    except FileNotFoundError:
        return
    yield from _below(str(root), "")


def _below(directory: str, path: str) -> Iterator[Cgroup]:
    try:
        with os.scandir(directory) as entries:
            children = sorted(
                (entry.name, entry.inode()) for entry in entries if entry.is_dir(follow_symlinks=False)
            )
    except OSError:  # removed meanwhile (ENOENT, or ENODEV while it is open)
        return
    for name, inode in children:
        yield Cgroup(f"{path}/{name}", inode)
        yield from _below(f"{directory}/{name}", f"{path}/{name}")


def processes(path: Path) -> list[int]:
    """The processes in a cgroup itself, without those below; none when it is gone, or one of threads."""
    try:
        return [int(line) for line in (path / "cgroup.procs").read_text().split()]
    except OSError:
        return []
