# SPDX-License-Identifier: Apache-2.0
"""What can go wrong below: errors of the kernel, by what a person can do about them."""

from __future__ import annotations

import errno as codes
import os

from pliant.errors import PliantError

ENOTSUPP = 524
"""The kernel's internal "not supported", which ``bpf(2)`` lets out in places; not in :mod:`errno`."""

_ABSENT = frozenset({codes.EOPNOTSUPP, codes.ENOSYS, codes.EPFNOSUPPORT, ENOTSUPP})
_DENIED = frozenset({codes.EPERM, codes.EACCES})


class KernelError(PliantError):
    """The kernel did not do what it was asked; ``errno`` is its reason, where it gave one."""

    def __init__(self, message: str, *, remedy: str = "", errno: int | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.errno = errno


class NotSupported(KernelError):
    """This kernel, or this host, lacks what was asked for."""


class Refused(KernelError):
    """The verifier refused a program; the full log is in a file that the message names."""


class NoPermission(KernelError):
    """The process may not do this."""


def reason(number: int) -> str:
    """Say what an error number means (``ENOTSUPP`` included)."""
    return "Operation not supported" if number == ENOTSUPP else os.strerror(number)


def kernel_error(number: int, action: str, *, remedy: str = "") -> KernelError:
    """Make the error for a failed call: ``action`` completes the sentence "cannot ...".

    The class follows the number: :class:`NoPermission`, :class:`NotSupported`, or plain :class:`KernelError`.
    """
    message = f"cannot {action}: {reason(number)}"
    if number in _DENIED:
        default = "run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
        return NoPermission(message, remedy=remedy or default, errno=number)
    kind = NotSupported if number in _ABSENT else KernelError
    return kind(message, remedy=remedy, errno=number)
