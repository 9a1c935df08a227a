# SPDX-License-Identifier: Apache-2.0
"""A directory in a bpffs, where pinned objects have their names."""

from __future__ import annotations

import ctypes
import errno as codes
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from pliant.kernel.errors import KernelError, NoPermission, kernel_error
from pliant.kernel.syscall import libc

BPF_FS_MAGIC = 0xCAFE4A11
_STATFS_BYTES = 256  # more than struct statfs has on any machine; its type comes first


def filesystem_magic(path: Path) -> int:
    """Return the number that tells the kind of filesystem a path is on (statfs(2))."""
    buffer = ctypes.create_string_buffer(_STATFS_BYTES)
    if libc().statfs(os.fsencode(path), buffer) != 0:
        raise kernel_error(ctypes.get_errno(), f"look at the filesystem of {path}")
    return int(struct.unpack_from("=Q", buffer)[0]) & 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class PinDirectory:
    """A directory for pins; need not exist yet."""

    path: Path

    def require(self) -> None:
        """Check that pins can be made here, or below once it is made.

        Raises :class:`KernelError` saying that it is not in a bpffs (with the command that mounts one) or
        read-only, and :class:`NoPermission`.
        """
        existing = self.path
        while not existing.exists():
            existing = existing.parent
        if filesystem_magic(existing) != BPF_FS_MAGIC:
            raise KernelError(
                f"{self.path} is not in a bpffs, where BPF objects could be pinned",
                remedy=f"mount one: mount -t bpf bpf {self._mount_point(existing)}",
                errno=codes.EINVAL,
            )
        if os.statvfs(existing).f_flag & os.ST_RDONLY:
            raise KernelError(
                f"the bpffs of {self.path} is mounted read-only",
                remedy=f"remount it: mount -o remount,rw {self._mount_point(existing)}",
                errno=codes.EROFS,
            )
        if not os.access(existing, os.W_OK | os.X_OK):
            raise NoPermission(
                f"this process may not write to {existing}", remedy="run as root", errno=codes.EACCES
            )

    def _mount_point(self, existing: Path) -> Path:
        usual = Path("/sys/fs/bpf")
        if self.path.is_relative_to(usual):
            return usual
        while not existing.is_mount():
            existing = existing.parent
        return existing if existing != Path("/") else self.path

    def make(self, sub: str = "") -> PinDirectory:
        """Make the directory, or one below it, with all its parents, and return it; it may exist already.

        Raises :class:`KernelError` for a name with a dot, which a bpffs does not take.
        """
        made = self.path / sub if sub else self.path
        if "." in sub:
            raise KernelError(f"names in a bpffs must not hold a dot: {sub}", errno=codes.EPERM)
        try:
            made.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise kernel_error(error.errno or 0, f"make the directory {made}") from error
        return PinDirectory(made)

    def names(self) -> tuple[str, ...]:
        """Names of what is in the directory, sorted; none when it does not exist."""
        try:
            return tuple(sorted(os.listdir(self.path)))
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise kernel_error(error.errno or 0, f"list {self.path}") from error

    def remove_tree(self) -> None:
        """Remove every pin in it and below, and the directory itself; what only a pin held is gone then.

        Nothing happens when it does not exist. Raises :class:`KernelError`, and touches nothing, outside a
        bpffs.
        """
        if not self.path.exists():
            return
        if filesystem_magic(self.path) != BPF_FS_MAGIC:
            raise KernelError(f"{self.path} is not in a bpffs: nothing was removed", errno=codes.EINVAL)
        for directory, directories, files in os.walk(self.path, topdown=False):
            for name in files:
                Path(directory, name).unlink(missing_ok=True)
            for name in directories:
                _remove_directory(Path(directory, name))
        _remove_directory(self.path)


def _remove_directory(path: Path) -> None:
    try:
        path.rmdir()
    except OSError as error:
        if error.errno != codes.EBUSY:  # the mount itself stays
            raise kernel_error(error.errno or 0, f"remove {path}") from error
