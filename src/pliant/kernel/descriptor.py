# SPDX-License-Identifier: Apache-2.0
"""A BPF object held by a descriptor: closing and pinning, the same for maps, programs and links."""

from __future__ import annotations

import contextlib
import errno as codes
import os
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from pliant.kernel.errors import KernelError, kernel_error
from pliant.kernel.syscall import address, attributes, c_string, try_bpf
from pliant.kernel.uapi import Command


class Descriptor:
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

        Raises :class:`KernelError` when the name is taken, is not in a bpffs, or holds a dot.
        """
        name = c_string(str(path))
        result = try_bpf(Command.OBJ_PIN, attributes("QII", address(name), self.fileno(), 0))
        if result < 0:
            raise kernel_error(-result, f"pin this {self.kind} at {path}", remedy=_pin_remedy(-result, path))

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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            self.close()


def _pin_remedy(number: int, path: Path) -> str:
    if number == codes.EEXIST:
        return "the name is taken: remove that pin first"
    if "." in path.name:
        return "names in a bpffs must not hold a dot"
    if number == codes.ENOENT:
        return f"make the directory {path.parent} first"
    if number == codes.EINVAL:
        return f"{path.parent} must be in a bpffs (mount -t bpf bpf /sys/fs/bpf)"
    return ""
