# SPDX-License-Identifier: Apache-2.0
"""Types of kernel modules, by which programs call their functions."""

from __future__ import annotations

import os
import struct
from collections.abc import Collection
from pathlib import Path

from pliant.kernel.btf import VMLINUX
from pliant.kernel.errors import KernelError
from pliant.kernel.syscall import address, descriptor_of_id, object_ids, object_info
from pliant.kernel.uapi import Command

_INFO = struct.Struct("=QIIQII")  # struct bpf_btf_info
_NAME_BYTES = 64


def modules_with(functions: Collection[str], types: Path = VMLINUX.parent) -> list[str]:
    """The modules that have any of some functions, of which the kernel itself has none with that name."""
    found = {path.name: path.read_bytes() for path in types.iterdir()}
    names = {b"\0" + name.encode() + b"\0" for name in functions}
    missing = {name for name in names if name not in found.get(VMLINUX.name, b"")}
    return sorted(module for module, text in found.items() if any(name in text for name in missing))


def module_types(module: str) -> int:
    """A descriptor of a loaded module's types, for whoever calls to close; :class:`KernelError` when there are none."""
    for number in object_ids(Command.BTF_GET_NEXT_ID):
        try:
            descriptor = descriptor_of_id(Command.BTF_GET_FD_BY_ID, number)
        except KernelError:  # gone meanwhile
            continue
        if _name(descriptor) == module:
            return descriptor
        os.close(descriptor)
    raise KernelError(f"the module {module} has no types in the kernel")


def _name(descriptor: int) -> str:
    """The name of the kernel's own types, or of a module's; empty for those that came with a program."""
    name = bytearray(_NAME_BYTES)
    request = bytearray(_INFO.pack(0, 0, 0, address(name), len(name), 0))
    info = _INFO.unpack_from(object_info(descriptor, _INFO.size, request))
    return name.partition(b"\0")[0].decode() if info[5] else ""
