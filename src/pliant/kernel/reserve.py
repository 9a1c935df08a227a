# SPDX-License-Identifier: Apache-2.0
"""Disk space set aside for a file before it is written (fallocate(2)); its size stays as it is."""

from __future__ import annotations

import ctypes
import errno
import os
from functools import cache

FALLOC_FL_KEEP_SIZE = 1
NOT_OFFERED = (
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.ENODEV,
    errno.EINVAL,
)  # by the file system, or by such a file


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    return libc


def reserve_space(descriptor: int, offset: int, length: int) -> None:
    """Set aside room for ``length`` bytes from ``offset``; does nothing on a file system that cannot.

    Raises OSError (ENOSPC, EDQUOT) when there is no room.
    """
    if _libc().fallocate(descriptor, FALLOC_FL_KEEP_SIZE, offset, length) == 0:
        return
    number = ctypes.get_errno()
    if number not in NOT_OFFERED:
        raise OSError(number, os.strerror(number))
