# SPDX-License-Identifier: Apache-2.0
"""Loading one object many times with other constants, without what does not depend on them.

libbpf reads all of the kernel's types and relocates the object against them each time, which takes longer than the
kernel needs to verify a small program. Here it does so once in a process: its instructions are kept, and another
program is those with other maps put in, among them a new one for the constants.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

from pliant.kernel.btf import VMLINUX, Btf
from pliant.kernel.elf import Elf
from pliant.kernel.errors import KernelError
from pliant.kernel.maps import Map
from pliant.kernel.module_types import module_types, modules_with
from pliant.kernel.objects import LoadedObject, load, prepare, put_constants
from pliant.kernel.programs import Program, ProgramType
from pliant.kernel.syscall import address, attributes, bpf, object_name
from pliant.kernel.uapi import Command

_INSTRUCTION = struct.Struct("=BBhi")
_LOAD_IMM64, _CALL = 0x18, 0x85
_MAP_FD, _MAP_VALUE, _ADDRESS = 1, 2, 4  # BPF_PSEUDO_* as the source of a LOAD_IMM64
_OWN_FUNCTION, _KERNEL_FUNCTION = 1, 2  # BPF_PSEUDO_* as the source of a call
_CONSTANTS = ".rodata"
_FUNCTION_INFO = struct.Struct("=II")  # struct bpf_func_info
_EXTENSION = struct.Struct("=HBBIII")  # struct btf_ext_header, as far as functions


class _NoTemplate(KernelError):
    """An object that only libbpf can load."""


@dataclass(frozen=True, slots=True)
class _Code:
    """A program: instructions, the place of each map in them, and the type of each of its functions."""

    instructions: bytes
    maps: tuple[tuple[int, str], ...]
    functions: bytes
    type: ProgramType
    hook: int
    flags: int


@dataclass(frozen=True, slots=True)
class Template:
    """An object that was made ready. ``types`` is a descriptor, kept for the life of the process.

    So are ``modules``: of the types of the module whose functions it calls, at the number that calls have it by.
    """

    elf: Elf
    feature: str
    codes: Mapping[str, _Code]
    declared: Mapping[str, bytes]
    constants: Mapping[str, bytes]
    types: int
    modules: tuple[int, ...] = ()

    def load(self, rodata: Mapping[str, int | bytes], reuse: Mapping[str, Map]) -> LoadedObject:
        """Load its programs with these constants and maps; the maps that are not given are new."""
        with contextlib.ExitStack() as undo:
            maps = {
                name: undo.enter_context(Map(os.dup(reuse[name].fileno())))
                if name in reuse
                else undo.enter_context(self._made(name, rodata))
                for name in self.declared
            }
            programs = {
                name: undo.enter_context(self._program(name, code, maps)) for name, code in self.codes.items()
            }
            undo.pop_all()
        return LoadedObject(programs, maps)

    def _made(self, name: str, rodata: Mapping[str, int | bytes]) -> Map:
        made = Map.declared(self.declared[name])
        if name in self.constants:
            content = bytearray(self.constants[name])
            if name == _CONSTANTS:
                put_constants(content, rodata, self.elf, self.feature)
            made.put(bytes(4), bytes(content))
            made.freeze()
        return made

    def _program(self, name: str, code: _Code, maps: Mapping[str, Map]) -> Program:
        instructions, license_name = bytearray(code.instructions), bytearray(b"GPL\0")
        for position, used in code.maps:
            struct.pack_into("=i", instructions, position + 4, maps[used].fileno())
        functions = bytearray(code.functions)
        modules = bytearray(struct.pack(f"={len(self.modules)}i", *self.modules))
        attr = attributes(
            "IIQQIIQII16sIIIIQIIQIIIIQ",
            *(code.type, len(instructions) // 8, address(instructions), address(license_name)),
            *(0, 0, 0, 0, code.flags, object_name(name), 0, code.hook),
            *(self.types, _FUNCTION_INFO.size, address(functions), len(functions) // _FUNCTION_INFO.size),
            *(0, 0, 0, 0, 0, 0, address(modules) if modules else 0),
        )
        return Program(bpf(Command.PROG_LOAD, attr, f"load {self.feature} ({self.elf.path.name})"))


def load_again(
    path: Path, *, feature: str, rodata: Mapping[str, int | bytes], reuse: Mapping[str, Map]
) -> LoadedObject:
    """Load an object of which other programs are, or will be, loaded with other constants.

    The same as :func:`~pliant.kernel.objects.load`, sooner from the second time on. What the kernel refuses is given to
    libbpf once more, which says why.
    """
    try:
        return template_of(path, feature, reuse).load(rodata, reuse)
    except KernelError:
        return load(path, feature=feature, rodata=rodata, reuse=reuse)


def template_of(path: Path, feature: str, shared: Mapping[str, Map]) -> Template:
    """Make an object ready, which is kept for the life of the process.

    ``shared`` are maps that are there already, so that none are made for it. Raises :class:`KernelError` when this
    kernel does not take it, or when only libbpf can load it.
    """
    found = _template(path, feature, path.stat().st_mtime_ns, _kernel_types(), _Shared(shared))
    if isinstance(found, str):
        raise _NoTemplate(found)
    return found


def _kernel_types() -> frozenset[str]:
    """Where the kernel's types and functions are from: a module that comes later may have what an object asks for."""
    try:
        return frozenset(os.listdir(VMLINUX.parent))
    except OSError:
        return frozenset()


class _Shared(dict[str, Map]):
    """Maps that are there already, so that none are made for the template; which ones is all the same."""

    def __hash__(self) -> int:  # type: ignore[override]
        return 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Shared)


@cache
def _template(
    path: Path, feature: str, version: int, kernel_types: frozenset[str], shared: _Shared
) -> Template | str:
    """The template, or why only libbpf can load the object: it is not made ready in vain each time."""
    del version, kernel_types
    try:
        return _made_ready(path, feature, shared)
    except _NoTemplate as reason:
        return reason.message


def _made_ready(path: Path, feature: str, shared: Mapping[str, Map]) -> Template:
    elf, types = Elf(path), Btf.from_elf(path)
    prepared = prepare(path, feature=feature, reuse=shared)
    by_type = _function_types(elf, types)
    try:
        declared = {name: held.declaration(prepared.types) for name, held in prepared.maps.items()}
        internal = {name: held for name, held in prepared.maps.items() if name.startswith(".")}
        if strange := [name for name in internal if not name.startswith(_CONSTANTS)]:
            raise _NoTemplate(f"{feature} has variables that are not constant ({', '.join(strange)})")
        constants = {name: held.get(bytes(4)) or b"" for name, held in internal.items()}
        codes = {
            name: _Code(
                instructions,
                tuple(_places(instructions, prepared.names)),
                b"".join(_functions(instructions, name, elf, by_type)),
                kind,
                hook,
                flags,
            )
            for name, (instructions, kind, hook, flags) in prepared.programs.items()
        }
        modules = _modules_called((made[0] for made in prepared.programs.values()), types)
    except BaseException:
        os.close(prepared.types)
        raise
    finally:
        for held in prepared.maps.values():
            held.close()
    return Template(elf, feature, codes, declared, constants, prepared.types, modules)


def _modules_called(programs: Iterable[bytes], types: Btf) -> tuple[int, ...]:
    """Descriptors of the types of the module whose functions are called, at the number that libbpf has given it."""
    called = {
        offset
        for instructions in programs
        for code, registers, offset, _ in _INSTRUCTION.iter_unpack(instructions)
        if code == _CALL and registers >> 4 == _KERNEL_FUNCTION and offset
    }
    if not called:
        return ()
    modules = modules_with(types.externs())
    if len(called) != 1 or len(modules) != 1:
        raise _NoTemplate("it is not known which modules have the functions that are called")
    number: int = called.pop()
    return (module_types(modules[0]),) * (number + 1)


def _places(instructions: bytes, names: Mapping[int, str]) -> Iterator[tuple[int, str]]:
    """Where maps are named, in bytes."""
    for number, (code, registers, _, immediate) in enumerate(_INSTRUCTION.iter_unpack(instructions)):
        source = registers >> 4
        if code == _LOAD_IMM64 and source in (_MAP_FD, _MAP_VALUE):
            yield number * _INSTRUCTION.size, names[immediate]


def _functions(instructions: bytes, name: str, elf: Elf, types: Mapping[str, int]) -> Iterator[bytes]:
    """The first instruction of each function of a program, and its type.

    libbpf puts the functions that a program uses behind it; which is where is told by what they are made of.
    """
    codes = instructions[:: _INSTRUCTION.size]
    starts = [*_starts(instructions), len(codes)]
    known = {
        function: (elf.section(where.section) or b"")[where.offset : where.offset + where.size : 8]
        for function, where in elf.functions().items()
    }
    for start, end in pairwise(starts):
        alike = {f: made for f, made in known.items() if len(made) == end - start and f in types}
        if not alike or (start == 0 and name not in alike):
            raise _NoTemplate(f"a function of {name} cannot be told")
        found = name if start == 0 else max(alike, key=lambda f: _likeness(alike[f], codes[start:end]))
        yield _FUNCTION_INFO.pack(start, types[found])


def _likeness(one: bytes, other: bytes) -> int:
    """How many instructions are the same: relocating changes few."""
    return sum(a == b for a, b in zip(one, other, strict=True))


def _starts(instructions: bytes) -> list[int]:
    """The first instruction of each function."""
    starts = {0}
    for number, (code, registers, _, immediate) in enumerate(_INSTRUCTION.iter_unpack(instructions)):
        source = registers >> 4
        if (code == _CALL and source == _OWN_FUNCTION) or (code == _LOAD_IMM64 and source == _ADDRESS):
            starts.add(number + 1 + immediate)
    return sorted(starts)


def _function_types(elf: Elf, types: Btf) -> dict[str, int]:
    """The number of each function's type, from the object's .BTF.ext."""
    data = elf.section(".BTF.ext") or b""
    if not data:
        raise _NoTemplate(f"{elf.path.name} does not say what its functions are")
    header = _EXTENSION.unpack_from(data)
    at, end = header[3] + header[4], header[3] + header[4] + header[5]
    size = struct.unpack_from("=I", data, at)[0]
    at += 4
    places = {(where.section, where.offset): name for name, where in elf.functions().items()}
    found = {}
    while at < end:
        section, count = struct.unpack_from("=II", data, at)
        for number in range(count):
            offset, kind = struct.unpack_from("=II", data, at + 8 + number * size)
            found[places[types.text(section), offset]] = kind
        at += 8 + count * size
    return found
