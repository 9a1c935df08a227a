# SPDX-License-Identifier: Apache-2.0
"""inotify(7): being told of what happens in directories."""

from __future__ import annotations

import ctypes
import errno as codes
import functools
import os
import struct
from enum import IntFlag
from pathlib import Path
from typing import NamedTuple

from pliant.closing import Closable
from pliant.kernel.errors import kernel_error
from pliant.kernel.syscall import libc

_HEADER = struct.Struct("=iIII")
_BUFFER_BYTES = 1 << 16


class Mask(IntFlag):
    """What to be told of, and what has happened (``linux/inotify.h``)."""

    MODIFY = 0x2
    CLOSE_WRITE = 0x8
    CLOSE = 0x18
    MOVED_TO = 0x80
    CREATE = 0x100
    DELETE = 0x200
    OVERFLOW = 0x4000
    IGNORED = 0x8000
    ONLY_DIRECTORY = 0x01000000
    DIRECTORY = 0x40000000


class Happened(NamedTuple):
    """One event: the number of the watch (-1 for an overflow), what it was, and the name in that directory."""

    watch: int
    mask: int
    name: str


class WatchLimit(Exception):
    """The user has no watches left (``fs.inotify.max_user_watches``)."""


class Inotify(Closable):
    """An inotify instance; its descriptor is readable when something has happened."""

    def __init__(self) -> None:
        self._fd: int = _function("inotify_init1", ctypes.c_int)(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            remedy = "raise fs.inotify.max_user_instances"
            raise kernel_error(ctypes.get_errno(), "watch files (inotify)", remedy=remedy)

    def close(self) -> None:
        """Forget all watches."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def fileno(self) -> int:
        """The descriptor, for select."""
        return self._fd

    def add(self, path: Path | str, mask: int) -> int | None:
        """Watch a file or directory; the number of the watch, the same again for the same inode.

        None when there is no such path (any more). Raises :class:`WatchLimit` when the user has no more watches.
        """
        add = _function("inotify_add_watch", ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)
        watch: int = add(self._fd, os.fsencode(path), mask)
        if watch >= 0:
            return watch
        number = ctypes.get_errno()
        if number in (codes.ENOENT, codes.ENODEV, codes.ENOTDIR):
            return None
        if number == codes.ENOSPC:
            raise WatchLimit
        raise kernel_error(number, f"watch {path}")

    def read(self) -> list[Happened]:
        """Everything that has happened since the last call; empty when nothing has."""
        found: list[Happened] = []
        while True:
            try:
                data = os.read(self._fd, _BUFFER_BYTES)
            except BlockingIOError:
                return found
            at = 0
            while at < len(data):
                watch, mask, _, length = _HEADER.unpack_from(data, at)
                at += _HEADER.size
                name = data[at : at + length].partition(b"\0")[0]
                at += length
                found.append(Happened(watch, mask, os.fsdecode(name)))


@functools.cache
def _function(name: str, *arguments: type) -> ctypes._NamedFuncPointer:
    function = getattr(libc(), name)
    function.restype = ctypes.c_int
    function.argtypes = arguments
    return function  # type: ignore[no-any-return]
