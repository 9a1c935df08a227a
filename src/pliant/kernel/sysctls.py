# SPDX-License-Identifier: Apache-2.0
"""Kernel parameters under /proc/sys, written with a check that the kernel took the value.

Names are as in sysctl(8): ``net.ipv4.tcp_rmem``, or with slashes where a part holds a dot,
``net/ipv4/conf/eth0.100/rp_filter``. Those under ``net`` are the calling thread's network namespace's.
"""

from __future__ import annotations

import errno as codes
import os
from pathlib import Path

from pliant.kernel.errors import KernelError, NotSupported, kernel_error

ROOT = Path("/proc/sys")


def path_of(name: str) -> Path:
    """Return the file of a parameter.

    As sysctl(8) does it: when the first separator is a slash, dots belong to the names; otherwise dots
    separate, and a slash stands for a dot in a name. Raises :class:`KernelError` for a name that leads out of
    /proc/sys.
    """
    first = next((c for c in name if c in "./"), ".")
    relative = name if first == "/" else name.translate(str.maketrans("./", "/."))
    parts = relative.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise KernelError(f"{name!r} is not the name of a sysctl", errno=codes.EINVAL)
    return ROOT.joinpath(*parts)


def read(name: str) -> str:
    """Read a parameter, its parts separated by single spaces.

    Raises :class:`NotSupported` when this kernel has no such parameter.
    """
    try:
        return _normal(path_of(name).read_text())
    except OSError as error:
        raise _error(error, f"read the sysctl {name}") from error


def can_be_written(name: str) -> bool:
    """Whether this process may write a parameter: some are there in every network namespace, and the first one's."""
    return os.access(path_of(name), os.W_OK)


def write(name: str, value: str | int) -> None:
    """Write a parameter and read it back.

    Raises :class:`KernelError` naming both values when the kernel took another one, and with its reason
    (EINVAL) when it refused; :class:`NotSupported` when it has no such parameter.
    """
    wanted = _normal(str(value))
    try:
        path_of(name).write_text(wanted)
    except OSError as error:
        raise _error(error, f"set the sysctl {name} to {wanted!r}") from error
    found = read(name)
    if found != wanted:
        raise KernelError(f"the sysctl {name} was set to {wanted!r} but reads {found!r}")


def _normal(text: str) -> str:
    return " ".join(text.split())


def _error(error: OSError, action: str) -> KernelError:
    if isinstance(error, FileNotFoundError):
        return NotSupported(f"cannot {action}: this kernel has none of that name", errno=error.errno)
    return kernel_error(error.errno or 0, action)
