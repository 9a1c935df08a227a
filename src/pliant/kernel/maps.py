# SPDX-License-Identifier: Apache-2.0
"""BPF maps through a descriptor: elements singly and in batches, memory mapping, typed keys and values."""

from __future__ import annotations

import errno as codes
import functools
import mmap
import struct
from collections.abc import Iterable, Iterator
from itertools import islice

from pliant.kernel import map_batch
from pliant.kernel.btf import Btf
from pliant.kernel.codec import Codec, Layout
from pliant.kernel.cpus import possible_cpus
from pliant.kernel.descriptor import Descriptor
from pliant.kernel.errors import KernelError, NotSupported, kernel_error
from pliant.kernel.syscall import (
    address,
    attributes,
    bpf,
    descriptor_of_id,
    object_ids,
    object_info,
    object_name,
    try_bpf,
)
from pliant.kernel.uapi import MMAPABLE, Command, MapType

__all__ = ["Map", "MapType", "map_ids"]

_RDONLY_PROG = 1 << 7  # BPF_F_RDONLY_PROG
_INFO = struct.Struct("=IIIIII16sIIQQIIIIQ")


class Map(Descriptor):
    """A map: what it is, read once from the kernel, and its elements as bytes.

    Elements of per-CPU maps are the values of all possible CPUs after one another, each padded to 8 bytes;
    :meth:`percpu` takes them apart. :attr:`key_codec` and :attr:`value_codec` turn bytes into Python values.
    """

    kind = "map"
    inode = "bpf-map"

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        info = _INFO.unpack(object_info(fd, _INFO.size))
        self.type = MapType(info[0])
        self.id: int = info[1]
        self.key_size: int = info[2]
        self.value_size: int = info[3]
        self.max_entries: int = info[4]
        self.flags: int = info[5]
        self.name: str = info[6].rstrip(b"\0").decode()
        self.btf_id, self._key_type, self._value_type = info[11:14]
        self._element_size = (
            -(-self.value_size // 8) * 8 * possible_cpus() if self.type.per_cpu else self.value_size
        )

    def __repr__(self) -> str:
        return f"<Map {self.name} id={self.id} {self.type.name} {self.key_size}+{self.value_size} bytes>"

    @classmethod
    def create(
        cls,
        kind: MapType,
        key_size: int,
        value_size: int,
        max_entries: int,
        *,
        name: str = "",
        flags: int = 0,
    ) -> Map:
        """Create an untyped map; sizes in bytes. Maps of features come from their object instead."""
        attr = attributes(
            "IIIIIII16s", kind, key_size, value_size, max_entries, flags, 0, 0, object_name(name)
        )
        return cls(bpf(Command.MAP_CREATE, attr, f"create the map {name or kind.name.lower()}"))

    def declaration(self, types: int) -> bytes:
        """What :meth:`declared` makes a map like this one of; ``types`` describe its keys and values, if any do."""
        typed = types if self._key_type or self._value_type else 0
        flags = self.flags & ~added_flags(self.type)
        sizes = (self.type, self.key_size, self.value_size, self.max_entries, flags, 0, 0)
        name = object_name(self.name)
        return bytes(attributes("IIIIIII16sIIII", *sizes, name, 0, typed, self._key_type, self._value_type))

    @classmethod
    def declared(cls, declaration: bytes) -> Map:
        """Create an empty map as declared."""
        return cls(bpf(Command.MAP_CREATE, bytearray(declaration), "create a map"))

    def freeze(self) -> None:
        """Have it never changed by user space again; with it programs know what is in it."""
        bpf(Command.MAP_FREEZE, attributes("I", self.fileno()), f"freeze the map {self.name}")

    @classmethod
    def by_id(cls, number: int) -> Map:
        """Open a map of this host by its id; raise :class:`KernelError` (ENOENT) when there is none."""
        return cls(descriptor_of_id(Command.MAP_GET_FD_BY_ID, number))

    @functools.cached_property
    def key_codec(self) -> Codec | None:
        """How a key is laid out, from the type the map was declared with; None for an untyped map."""
        return self._codec(self._key_type)

    @functools.cached_property
    def value_codec(self) -> Codec | None:
        """How a value (one CPU's, in a per-CPU map) is laid out; None for an untyped map."""
        return self._codec(self._value_type)

    @property
    def value_layout(self) -> Layout | None:
        """The layout of a value; None for a map made without type information."""
        return (
            Btf.from_kernel_id(self.btf_id).layout(self._value_type)
            if self.btf_id and self._value_type
            else None
        )

    def _codec(self, type_id: int) -> Codec | None:
        return Btf.from_kernel_id(self.btf_id).codec(type_id) if self.btf_id and type_id else None

    def get(self, key: bytes) -> bytes | None:
        """Look a key up; None when the map has no such element."""
        value = bytearray(self._element_size)
        result = self._call(Command.MAP_LOOKUP_ELEM, self._key(key), value)
        if result == -codes.ENOENT:
            return None
        if result < 0:
            raise self._error(result, "read")
        return bytes(value)

    def put(self, key: bytes, value: bytes, *, flags: int = 0) -> None:
        """Write an element, new or not; in a per-CPU map one value is written for every CPU.

        ``flags`` as in ``bpf(2)``: 1 (BPF_NOEXIST) only creates, 2 (BPF_EXIST) only replaces.
        Raises :class:`KernelError` with ``errno`` E2BIG or ENOSPC when the map is full.
        """
        result = self._call(Command.MAP_UPDATE_ELEM, self._key(key), bytearray(self._value(value)), flags)
        if result < 0:
            raise self._error(result, "write")

    def delete(self, key: bytes) -> bool:
        """Remove an element; tell whether it was there."""
        result = self._call(Command.MAP_DELETE_ELEM, self._key(key), bytearray())
        if result < 0 and result != -codes.ENOENT:
            raise self._error(result, "delete from")
        return result >= 0

    def put_many(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Write many elements, in batches where this kernel has them for this type of map.

        Raises :class:`KernelError` at the first element refused (the ones before it are written) and
        :class:`ValueError` for a key or a value of the wrong size (nothing of its batch is written).
        """
        remaining = iter(items)
        while chunk := list(islice(remaining, map_batch.CHUNK)):
            keys = [bytes(self._key(key)) for key, _ in chunk]
            values = [self._value(value) for _, value in chunk]
            done = map_batch.update(self.fileno(), keys, values)
            if done < 0:
                for key, value in zip(keys, values, strict=True):
                    self.put(key, value)
            elif done < len(chunk):  # the element that stopped the batch says why
                for key, value in zip(keys[done:], values[done:], strict=True):
                    self.put(key, value)

    def delete_many(self, keys: Iterable[bytes]) -> int:
        """Remove many elements, in batches where possible; return how many were there."""
        remaining, deleted = iter(keys), 0
        while chunk := [bytes(self._key(key)) for key in islice(remaining, map_batch.CHUNK)]:
            while chunk:
                done = max(map_batch.delete(self.fileno(), chunk), 0)
                deleted += done
                if chunk := chunk[
                    done:
                ]:  # a key that is not there stops a batch; so does a kernel without batches
                    deleted += self.delete(chunk.pop(0))
        return deleted

    def keys(self) -> Iterator[bytes]:
        """Run through the keys, each once, also while elements come and go."""
        key, seen = bytearray(), set[bytes]()
        while True:
            following = bytearray(self.key_size)
            result = self._call(Command.MAP_GET_NEXT_KEY, key, following)
            if result < 0 and result != -codes.ENOENT:
                raise self._error(result, "list")
            if result < 0 or bytes(following) in seen:
                return
            seen.add(bytes(following))
            yield bytes(following)
            key = following

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Run through the elements, in batches where this kernel has them for this type of map.

        Not a snapshot: an element written or deleted meanwhile may or may not be seen, others are.
        """
        batches = map_batch.lookup(self.fileno(), self.key_size, self._element_size, self.max_entries)
        try:
            yield from batches
        except NotSupported:
            for key in self.keys():
                value = self.get(key)
                if value is not None:
                    yield key, value

    def percpu(self, value: bytes) -> list[bytes]:
        """Take an element of a per-CPU map apart: one value for each possible CPU, without the padding."""
        step = -(-self.value_size // 8) * 8
        return [value[start : start + self.value_size] for start in range(0, len(value), step)]

    def mmap(self, *, writable: bool = True) -> mmap.mmap:
        """Map an array's values into memory, shared with the kernel; close it when done.

        Values start at multiples of ``value_size`` rounded up to 8 bytes. Raises :class:`NotSupported` for a
        map made without BPF_F_MMAPABLE.
        """
        if not self.flags & MMAPABLE:
            raise NotSupported(f"the map {self.name} cannot be mapped into memory: it lacks BPF_F_MMAPABLE")
        size = -(-self.value_size // 8) * 8 * self.max_entries
        pages = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        try:
            return mmap.mmap(self.fileno(), pages, mmap.MAP_SHARED, access)
        except OSError as error:
            raise kernel_error(error.errno or 0, f"map {self.name} into memory") from error

    def _call(self, command: Command, key: bytearray, value: bytearray, flags: int = 0) -> int:
        return try_bpf(command, attributes("IIQQQ", self.fileno(), 0, address(key), address(value), flags))

    def _key(self, key: bytes) -> bytearray:
        if len(key) != self.key_size:
            raise ValueError(f"key of {self.name}: {len(key)} bytes given, {self.key_size} needed")
        return bytearray(key)

    def _value(self, value: bytes) -> bytes:
        if len(value) == self._element_size:
            return value
        if len(value) != self.value_size:
            raise ValueError(f"value of {self.name}: {len(value)} bytes given, {self.value_size} needed")
        return value.ljust(-(-self.value_size // 8) * 8, b"\0") * possible_cpus()

    def _error(self, result: int, verb: str) -> KernelError:
        full = -result in (codes.E2BIG, codes.ENOSPC)
        remedy = f"it is full ({self.max_entries} entries)" if full else ""
        return kernel_error(-result, f"{verb} the map {self.name}", remedy=remedy)


def added_flags(kind: MapType) -> int:
    """The flags that the kernel itself adds to maps of a type."""
    return _RDONLY_PROG if kind in (MapType.DEVMAP, MapType.DEVMAP_HASH) else 0


def map_ids() -> Iterator[int]:
    """Run through the ids of all maps of the host."""
    return object_ids(Command.MAP_GET_NEXT_ID)
