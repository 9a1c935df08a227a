# SPDX-License-Identifier: Apache-2.0
"""The ``bpf(2)`` system call: attributes as packed bytes in, descriptors or errors out.

An attribute is the leading part of ``union bpf_attr`` that a command needs, as a ``bytearray`` from
:func:`attributes`; the kernel takes what is missing at the end as zero, so short attributes stay valid on
every kernel.
"""

from __future__ import annotations

import ctypes
import errno as codes
import functools
import os
import struct
from collections.abc import Callable, Iterator

from pliant.kernel.errors import KernelError, NotSupported, kernel_error
from pliant.kernel.uapi import NAME_BYTES, Command

_NUMBERS = {
    "x86_64": 321,
    "aarch64": 280,
    "riscv64": 280,
    "loongarch64": 280,
    "ppc64le": 361,
    "s390x": 351,
}


@functools.cache
def libc() -> ctypes.CDLL:
    """Return the C library of this process, with ``errno`` kept for each thread."""
    return ctypes.CDLL(None, use_errno=True)


@functools.cache
def _syscall() -> Callable[[int, int, int], int]:
    machine = os.uname().machine
    if machine not in _NUMBERS:
        raise NotSupported(
            f"the number of the bpf system call on {machine} is not known",
            remedy="add it to pliant/kernel/syscall.py",
        )
    call = libc().syscall
    call.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint)
    call.restype = ctypes.c_long
    return functools.partial(call, _NUMBERS[machine])


def address(buffer: bytearray) -> int:
    """Address of a buffer's first byte, good while it lives and keeps its size; 0 for an empty one."""
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer)) if buffer else 0


def attributes(layout: str, *values: int | bytes) -> bytearray:
    """Pack an attribute; ``layout`` is in the letters of :mod:`struct`, without implied padding."""
    return bytearray(struct.pack("=" + layout, *values))


def c_string(text: str) -> bytearray:
    """Encode a path or a name with its final NUL, in a buffer that has an :func:`address`."""
    return bytearray(os.fsencode(text) + b"\0")


def object_name(name: str) -> bytes:
    """Cut a name to what the kernel takes: 15 bytes of letters, digits, ``_`` and ``.``."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "_.") else "_" for c in name)
    return kept.encode()[: NAME_BYTES - 1]


def try_bpf(command: Command, attr: bytearray) -> int:
    """Call ``bpf(2)``; return its result, or the negative error number."""
    result = _syscall()(command, address(attr), len(attr))
    return result if result >= 0 else -ctypes.get_errno()


def bpf(command: Command, attr: bytearray, action: str) -> int:
    """Call ``bpf(2)``; return its result.

    Raises a :class:`KernelError` that says "cannot ``action``: reason".
    """
    result = try_bpf(command, attr)
    if result < 0:
        raise kernel_error(-result, action)
    return result


def object_info(fd: int, size: int, request: bytearray | None = None) -> bytes:
    """Read the ``bpf_*_info`` of a descriptor: ``size`` bytes, zero where this kernel has less.

    ``request`` is what the structure is preset with (addresses of buffers to be filled).
    """
    info = bytearray(size)
    if request is not None:
        info[: len(request)] = request
    bpf(
        Command.OBJ_GET_INFO_BY_FD, attributes("IIQ", fd, size, address(info)), "read an object's description"
    )
    return bytes(info)


def descriptor_of_id(command: Command, number: int) -> int:
    """Open an object by its id.

    Raises a :class:`KernelError` with ``errno`` ENOENT when there is none. A link that is only being attached, of which
    the kernel says EAGAIN (bpf_link_by_id()), is not there yet.
    """
    kind = command.name.partition("_")[0].lower()
    action = f"open {kind} {number}"
    try:
        return bpf(command, attributes("III", number, 0, 0), action)
    except KernelError as error:
        if error.errno == codes.EAGAIN:
            raise kernel_error(codes.ENOENT, action) from error
        raise


def object_ids(command: Command) -> Iterator[int]:
    """Run through the ids of the host's programs, maps or links (``command``: a ``*_GET_NEXT_ID``)."""
    current = 0
    while True:
        attr = attributes("III", current, 0, 0)
        result = try_bpf(command, attr)
        if result == -codes.ENOENT:
            return
        if result < 0:
            raise kernel_error(-result, "list the kernel's BPF objects")
        current = struct.unpack_from("=I", attr, 4)[0]
        yield current


def missing(error: KernelError) -> bool:
    """Tell whether an error says that the thing asked for is not (or no longer) there."""
    return error.errno in (codes.ENOENT, codes.ESTALE, codes.ENODEV)
