# SPDX-License-Identifier: Apache-2.0
"""Programs and types small enough to be put together by hand, for probing what a kernel takes."""

from __future__ import annotations

import os
import struct

from pliant.kernel.programs import Program
from pliant.kernel.syscall import address, attributes, bpf, object_name
from pliant.kernel.uapi import NO_PREALLOC, Command, MapType, ProgramType

_CALL, _EXIT, _JEQ_IMM, _LOAD_IMM64, _LOAD64 = 0x85, 0x95, 0x15, 0x18, 0x79
_MOV_IMM, _MOV_REG = 0xB7, 0xBF
_PSEUDO_MAP_FD = 1
_SOCK_OPS_SK = 184  # offset of ``sk`` in struct bpf_sock_ops
_SK_STORAGE_GET = 107
_PROBE_READ_KERNEL = 113
_ADD_IMM, _FRAME = 0x07, 10


def instruction(code: int, target: int = 0, source: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    """Encode one instruction (Documentation/bpf/standardization/instruction-set.rst)."""
    return struct.pack("=BBhi", code, source << 4 | target, offset, immediate)


def return_constant(value: int) -> bytes:
    """A program that returns a constant."""
    return instruction(_MOV_IMM, immediate=value) + instruction(_EXIT)


def use_socket_storage(map_fd: int) -> bytes:
    """A sock_ops program that makes the socket's element in a socket storage map, and returns 1."""
    return b"".join(
        (
            instruction(_LOAD64, 2, 1, _SOCK_OPS_SK),  # r2 = ctx->sk
            instruction(_JEQ_IMM, 2, 0, 6, 0),  # if (!r2) goto out
            instruction(_LOAD_IMM64, 1, _PSEUDO_MAP_FD, 0, map_fd),
            instruction(0),
            instruction(_MOV_IMM, 3),
            instruction(_MOV_IMM, 4, immediate=1),
            instruction(_CALL, immediate=_SK_STORAGE_GET),
            instruction(_MOV_REG, 1, 0),
            return_constant(1),
        )
    )


def read_own_context() -> bytes:
    """A program that copies eight bytes from the address of its context, and returns 1."""
    return b"".join(
        (
            instruction(_MOV_REG, 3, 1),
            instruction(_MOV_REG, 1, _FRAME),
            instruction(_ADD_IMM, 1, immediate=-8),
            instruction(_MOV_IMM, 2, immediate=8),
            instruction(_CALL, immediate=_PROBE_READ_KERNEL),
            return_constant(1),
        )
    )


def load_instructions(
    kind: ProgramType,
    code: bytes,
    *,
    hook: int = 0,
    attach_btf_id: int = 0,
    name: str = "probe",
) -> Program:
    """Load a program given as instructions; raise :class:`KernelError` with the kernel's number."""
    instructions, license_name = bytearray(code), bytearray(b"GPL\0")
    attr = attributes(
        "IIQQIIQII16sIIIIQIIQIII",
        *(kind, len(code) // 8, address(instructions), address(license_name), 0, 0, 0, 0, 0),
        *(object_name(name), 0, hook, 0, 0, 0, 0, 0, 0, 0, attach_btf_id, 0),
    )
    return Program(bpf(Command.PROG_LOAD, attr, f"load a {kind.name.lower()} program"))


def load_integer_type() -> int:
    """Load types that hold one ``int``, as type 1, for maps that must be typed; return the descriptor."""
    strings = b"\0int\0"
    types = struct.pack("=IIII", 1, 1 << 24, 4, 1 << 24 | 32)
    data = bytearray(struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings)))
    data += types + strings
    attr = attributes("QQIIII", address(data), 0, len(data), 0, 0, 0)
    return bpf(Command.BTF_LOAD, attr, "load type information")


def create_socket_storage() -> int:
    """Create a socket storage map of one ``int``; return its descriptor."""
    return _create_typed(MapType.SK_STORAGE, 4, 0, NO_PREALLOC, integer=1)


def create_struct_ops(value_type: int, value_size: int, flags: int) -> int:
    """Create an empty struct_ops map for a structure of the kernel's types; return its descriptor."""
    return _create_typed(MapType.STRUCT_OPS, value_size, 1, flags, kernel_type=value_type)


def _create_typed(
    kind: MapType, value_size: int, entries: int, flags: int, *, integer: int = 0, kernel_type: int = 0
) -> int:
    types = load_integer_type()
    sizes = (4, value_size, entries, flags, 0, 0, b"probe")
    try:
        attr = attributes("IIIIIII16sIIIII", kind, *sizes, 0, types, integer, integer, kernel_type)
        return bpf(Command.MAP_CREATE, attr, f"create a {kind.name.lower()} map")
    finally:
        os.close(types)
