# SPDX-License-Identifier: Apache-2.0
"""BTF, the kernel's type information: a small reader, enough to lay out keys, values and shared structures.

Format: Documentation/bpf/btf.rst. Layouts come out as :class:`pliant.kernel.codec.Codec`.
"""

from __future__ import annotations

import functools
import os
import struct
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple
from weakref import WeakValueDictionary

from pliant.kernel.codec import Array, Bytes, Codec, Integer, Layout, Member, Record
from pliant.kernel.elf import Elf
from pliant.kernel.errors import KernelError
from pliant.kernel.syscall import address, descriptor_of_id, object_info
from pliant.kernel.uapi import Command, MapType

VMLINUX = Path("/sys/kernel/btf/vmlinux")
MAGIC = 0xEB9F


class Kind(IntEnum):
    """``BTF_KIND_*``."""

    VOID = 0
    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


# Bytes that follow the 12 bytes every type has: (fixed, for each of its members).
_TAIL = {
    Kind.INT: (4, 0),
    Kind.ARRAY: (12, 0),
    Kind.STRUCT: (0, 12),
    Kind.UNION: (0, 12),
    Kind.ENUM: (0, 8),
    Kind.FUNC_PROTO: (0, 8),
    Kind.VAR: (4, 0),
    Kind.DATASEC: (0, 12),
    Kind.DECL_TAG: (4, 0),
    Kind.ENUM64: (0, 12),
}
_TAILS = tuple(_TAIL.get(Kind(kind), (0, 0)) for kind in range(len(Kind)))
_ALIASES = (Kind.TYPEDEF, Kind.VOLATILE, Kind.CONST, Kind.RESTRICT, Kind.TYPE_TAG)
_EXTERNS = ".ksyms"
_HEADER = struct.Struct("=HBBIIIII")


class Type(NamedTuple):
    """One type: ``size`` is its bytes, or the type it refers to; ``tail`` where its details start."""

    id: int
    name: str
    kind: Kind
    members: int
    flag: bool
    size: int
    tail: int


class Btf:
    """The types of one object, or of the running kernel."""

    def __init__(self, data: bytes, source: str = "BTF") -> None:
        self._data, self._source = data, source
        try:
            self._index()
        except (struct.error, IndexError) as error:
            raise KernelError(f"the type information of {source} is damaged") from error

    def _index(self) -> None:
        magic, _, _, header, types, type_bytes, strings, string_bytes = _HEADER.unpack_from(self._data)
        if magic != MAGIC:
            raise KernelError(f"{self._source} holds no type information of this byte order")
        self._strings = self._data[header + strings : header + strings + string_bytes]
        offset, end = header + types, header + types + type_bytes
        self._types = [(0, 0, 0, 0)]  # name, info, size or type, offset of the tail
        read = struct.Struct("=III").unpack_from
        while offset < end:
            name, info, size = read(self._data, offset)
            offset += 12
            self._types.append((name, info, size, offset))
            fixed, each = _TAILS[info >> 24 & 0x1F]
            offset += fixed + each * (info & 0xFFFF)

    @classmethod
    def from_elf(cls, path: Path) -> Btf:
        """Read the types of a BPF object file; :class:`KernelError` when it has none."""
        data = Elf(path).section(".BTF")
        if data is None:
            raise KernelError(f"{path} has no type information", remedy="compile it with -g")
        return cls(data, str(path))

    @classmethod
    @functools.lru_cache(maxsize=64)
    def from_kernel_id(cls, number: int) -> Btf:
        """Read the types that were loaded with a map or a program, by the id in its description."""
        fd = descriptor_of_id(Command.BTF_GET_FD_BY_ID, number)
        try:
            size = struct.unpack_from("=QI", object_info(fd, 32))[1]
            data = bytearray(size)
            object_info(fd, 32, bytearray(struct.pack("=QI", address(data), size)))
        finally:
            os.close(fd)
        return cls(bytes(data), f"BTF {number}")

    @classmethod
    def vmlinux(cls, path: Path = VMLINUX) -> Btf:
        """Read the types of the running kernel (some 150 ms and 30 MB: not for everyday use).

        They are read once for all who hold them at the same time.
        """
        found = _of_kernel.get(path)
        if found is not None:
            return found
        try:
            found = _of_kernel[path] = cls(path.read_bytes(), str(path))
        except OSError as error:
            message = f"cannot read the kernel's type information {path}: {error.strerror}"
            raise KernelError(message, errno=error.errno) from error
        return found

    def type(self, number: int) -> Type:
        """One type by its id."""
        name, info, size, tail = self._types[number]
        return Type(
            number, self.text(name), Kind(info >> 24 & 0x1F), info & 0xFFFF, info >> 31 == 1, size, tail
        )

    def text(self, offset: int) -> str:
        """A string of the string section."""
        return self._strings[offset : self._strings.index(b"\0", offset)].decode()

    def find(self, name: str, *kinds: Kind) -> Type:
        """Find the type of that name and one of those kinds, else raise :class:`KernelError`."""
        number = self._names.get(name, {})
        for kind in kinds:
            if kind in number:
                return self.type(number[kind])
        raise KernelError(f"{self._source} has no {'/'.join(k.name.lower() for k in kinds)} {name}")

    @functools.cached_property
    def _names(self) -> dict[str, dict[int, int]]:
        found: dict[str, dict[int, int]] = {}
        for number, (name, info, _, _) in enumerate(self._types):
            if name:
                found.setdefault(self.text(name), {}).setdefault(info >> 24 & 0x1F, number)
        return found

    def struct(self, name: str) -> Codec:
        """Return the codec of a structure; raise :class:`KernelError` when there is none of that name."""
        return self.codec(self.find(name, Kind.STRUCT).id)

    def enum(self, name: str) -> dict[str, int]:
        """Constants of an enumeration by name."""
        found = self.find(name, Kind.ENUM, Kind.ENUM64)
        wide = found.kind is Kind.ENUM64
        layout = struct.Struct("=III" if wide else "=Ii" if found.flag else "=II")
        rows = (layout.unpack_from(self._data, found.tail + i * layout.size) for i in range(found.members))
        return {self.text(row[0]): row[1] | row[2] << 32 if wide else row[1] for row in rows}

    def codec(self, number: int) -> Codec:
        """Return the codec of any type by its id; raise :class:`KernelError` for what has no plain layout."""
        named = self.type(number)
        return Codec(named.name or self._resolve(number).name, self._layout(number))

    def layout(self, number: int) -> Layout:
        """Return how a type lies in memory, by its id; raise :class:`KernelError` for what has no plain layout."""
        return self._layout(number)

    def member_names(self, number: int) -> tuple[str, ...]:
        """The names of the members of a structure or union, by its id; those without one are left out."""
        return tuple(name for name, *_ in self._members(self.type(number)) if name)

    def map_layouts(self) -> dict[str, tuple[Layout | None, Layout | None]]:
        """The layouts of key and value of every map that an object declares; None for one declared by size."""
        found = {}
        for name, members in self._declared_maps():
            layouts = {field: self._layout(members[field]) for field in ("key", "value") if field in members}
            found[name] = (layouts.get("key"), layouts.get("value"))
        return found

    def map_types(self) -> dict[str, MapType]:
        """The type of every map that an object declares."""
        return {name: MapType(self._length(members["type"])) for name, members in self._declared_maps()}

    def _declared_maps(self) -> Iterator[tuple[str, dict[str, int]]]:
        """Each map that an object declares, and the type that each member of its declaration points to."""
        section = self.find(".maps", Kind.DATASEC)
        for i in range(section.members):
            variable = self.type(struct.unpack_from("=I", self._data, section.tail + i * 12)[0])
            members = self._members(self._resolve(variable.size))
            yield variable.name, {field: self._resolve(declared).size for field, declared, _, _ in members}

    def _length(self, number: int) -> int:
        """How many elements an array has: a declaration says a number as a pointer to an array of so many."""
        length: int = struct.unpack_from("=III", self._data, self._resolve(number).tail)[2]
        return length

    def externs(self) -> tuple[str, ...]:
        """The names of the kernel's functions and variables that an object asks for."""
        if Kind.DATASEC not in self._names.get(_EXTERNS, {}):
            return ()
        section = self.find(_EXTERNS, Kind.DATASEC)
        rows = (
            struct.unpack_from("=I", self._data, section.tail + i * 12)[0] for i in range(section.members)
        )
        return tuple(self.type(number).name for number in rows)

    def map_codecs(self, name: str) -> tuple[Codec | None, Codec | None]:
        """Return the codecs of key and value of a map as declared; None for one declared by size."""
        variable = self.find(name, Kind.VAR)
        codecs: dict[str, Codec] = {}
        for field, number, _, _ in self._members(self._resolve(variable.size)):
            if field in ("key", "value"):
                codecs[field] = self.codec(self._resolve(number).size)  # declared as a pointer to the type
        return codecs.get("key"), codecs.get("value")

    def _resolve(self, number: int) -> Type:
        found = self.type(number)
        while found.kind in _ALIASES:
            found = self.type(found.size)
        return found

    def _members(self, record: Type) -> Iterator[tuple[str, int, int, int]]:
        for index in range(record.members):
            name, number, place = struct.unpack_from("=III", self._data, record.tail + index * 12)
            bits, width = (place & 0xFFFFFF, place >> 24) if record.flag else (place, 0)
            yield self.text(name), number, bits, width

    def _layout(self, number: int) -> Layout:
        found = self._resolve(number)
        match found.kind:
            case Kind.INT:
                encoding = struct.unpack_from("=I", self._data, found.tail)[0] >> 24 & 0xF
                if found.size not in (1, 2, 4, 8):  # __int128
                    return Bytes(found.size)
                return Integer(found.size, signed=bool(encoding & 1), boolean=bool(encoding & 4))
            case Kind.ENUM | Kind.ENUM64:
                return Integer(found.size, signed=found.flag)
            case Kind.PTR:
                return Integer(8)
            case Kind.UNION:
                return Bytes(found.size)
            case Kind.ARRAY:
                return self._array(found)
            case Kind.STRUCT:
                return Record(found.size, tuple(self._fields(found, 0)))
            case Kind.DATASEC if found.size:  # in an object file neither size nor offsets are filled in yet
                return Record(found.size, tuple(self._variables(found)))
        raise KernelError(f"{self._source}: {found.kind.name.lower()} {found.name} has no plain layout")

    def _array(self, array: Type) -> Layout:
        element, _, count = struct.unpack_from("=III", self._data, array.tail)
        layout = self._layout(element)
        if isinstance(layout, Integer) and layout.size == 1 and not layout.boolean:
            return Bytes(count, text=self._resolve(element).name == "char")
        return Array(layout, count)

    def _variables(self, section: Type) -> Iterator[Member]:
        rows = (struct.unpack_from("=II", self._data, section.tail + i * 12) for i in range(section.members))
        for number, offset in sorted(rows, key=lambda row: row[1]):
            variable = self.type(number)
            yield Member(variable.name, offset, self._layout(variable.size))

    def _fields(self, record: Type, base: int) -> Iterator[Member]:
        for name, number, bits, width in self._members(record):
            inner = self._resolve(number)
            if width or bits % 8:
                raise KernelError(f"{self._source}: the bit field {record.name}.{name} has no plain layout")
            if name:
                yield Member(name, base + bits // 8, self._layout(number))
            elif inner.kind is Kind.STRUCT:
                yield from self._fields(inner, base + bits // 8)
            else:
                raise KernelError(f"{self._source}: {record.name} holds a union without a name")


_of_kernel: WeakValueDictionary[Path, Btf] = WeakValueDictionary()
