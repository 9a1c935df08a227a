# SPDX-License-Identifier: Apache-2.0
"""A BPF object held by a descriptor: closing and pinning, the same for maps, programs and links."""

from __future__ import annotations

import contextlib
import errno as codes
import os
from pathlib import Path
from typing import ClassVar, Self

from pliant.closing import Closable
from pliant.kernel.errors import KernelError, kernel_error
from pliant.kernel.pins import BPF_FS_MAGIC, filesystem_magic
from pliant.kernel.syscall import address, attributes, c_string, try_bpf
from pliant.kernel.uapi import Command


class Descriptor(Closable):
    """Owner of one descriptor, closed by :meth:`close`, by ``with``, or with the last reference."""

    kind: ClassVar[str] = "object"
    inode: ClassVar[str] = ""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        """Return the descriptor; raise :class:`KernelError` once closed."""
        if self._fd < 0:
            raise KernelError(f"this {self.kind} has been closed", errno=codes.EBADF)
        return self._fd

    def close(self) -> None:
        """Close the descriptor; the kernel keeps the object while something else (a pin, a link) holds it."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def pin(self, path: Path) -> None:
        """Give the object a name in a bpffs, under which it outlives this process.

        Removing the name again is removing a file. The kernel lets go of the object a moment after that: to end a
        link at once, detach it first. Raises :class:`KernelError` when the name is taken (``errno`` EEXIST), is not
        in a bpffs (EINVAL), or holds a dot (EPERM).
        """
        name = c_string(str(path))
        result = try_bpf(Command.OBJ_PIN, attributes("QII", address(name), self.fileno(), 0))
        if result < 0:
            raise _pin_error(-result, f"pin this {self.kind} at {path}", path)

    @classmethod
    def pinned(cls, path: Path) -> Self:
        """Open a pin.

        Raises :class:`KernelError` when there is none (``errno`` ENOENT), or when it is of another kind.
        """
        name = c_string(str(path))
        result = try_bpf(Command.OBJ_GET, attributes("QII", address(name), 0, 0))
        if result < 0:
            raise kernel_error(-result, f"open the pinned {cls.kind} {path}")
        found = os.readlink(f"/proc/self/fd/{result}").removeprefix("anon_inode:").strip("[]")
        if found.replace("_", "-") != cls.inode:
            os.close(result)
            raise KernelError(f"{path} is not a pinned {cls.kind} but a {found}", errno=codes.EINVAL)
        return cls(result)

    def __del__(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            self.close()


def _pin_error(number: int, action: str, path: Path) -> KernelError:
    # The kernel says EPERM for a place outside a bpffs and for a dot in the name, too.
    if number == codes.EPERM and path.parent.is_dir() and filesystem_magic(path.parent) != BPF_FS_MAGIC:
        where = f"cannot {action}: {path.parent} is not in a bpffs"
        return KernelError(where, remedy="mount one: mount -t bpf bpf /sys/fs/bpf", errno=codes.EINVAL)
    if number == codes.EPERM and "." in path.name:
        return KernelError(f"cannot {action}: names in a bpffs must not hold a dot", errno=codes.EPERM)
    remedies = {
        codes.EEXIST: "the name is taken: remove that pin first",
        codes.ENOENT: f"make the directory {path.parent} first",
    }
    return kernel_error(number, action, remedy=remedies.get(number, ""))
