# SPDX-License-Identifier: Apache-2.0
"""Turning Python values into the bytes of a C type and back, after a layout read from BTF.

A structure is a mapping, an array a list, an array of ``char`` or ``__u8`` is bytes, a union the bytes of its
whole size, everything else an integer. Padding is written as zero, as keys of hash maps need it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

_LETTERS = {(1, False): "B", (2, False): "H", (4, False): "I", (8, False): "Q"} | {
    (1, True): "b",
    (2, True): "h",
    (4, True): "i",
    (8, True): "q",
}


@dataclass(frozen=True, slots=True)
class Integer:
    """An integer, enumeration or pointer of ``size`` bytes."""

    size: int
    signed: bool = False
    boolean: bool = False

    @property
    def letter(self) -> str:
        """The letter for it in :mod:`struct`."""
        return "?" if self.boolean else _LETTERS[self.size, self.signed]


@dataclass(frozen=True, slots=True)
class Bytes:
    """Bytes as they are; ``text`` (an array of ``char``) may be shorter and is filled up with NUL."""

    size: int
    text: bool = False


@dataclass(frozen=True, slots=True)
class Array:
    """``count`` elements of one layout."""

    element: Layout
    count: int

    @property
    def size(self) -> int:
        """Bytes of the whole array."""
        return self.element.size * self.count


@dataclass(frozen=True, slots=True)
class Member:
    """A field of a structure; ``offset`` in bytes from its start."""

    name: str
    offset: int
    layout: Layout


@dataclass(frozen=True, slots=True)
class Record:
    """A structure."""

    size: int
    members: tuple[Member, ...]


Layout = Integer | Bytes | Array | Record


@dataclass(frozen=True, slots=True)
class Field:
    """Where a field of a structure lies; ``offset`` and ``size`` in bytes."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class _Flat:
    """One value of the flattened layout."""

    name: str
    offset: int
    layout: Integer | Bytes


class Codec:
    """Packs and unpacks one C type, through one precompiled :class:`struct.Struct`.

    ``name`` is the C type's name (may be empty), ``size`` its bytes, ``fields`` a structure's fields.
    """

    def __init__(self, name: str, layout: Layout) -> None:
        self.name = name
        self.layout = layout
        self.size = layout.size
        members = layout.members if isinstance(layout, Record) else ()
        self.fields = tuple(Field(m.name, m.offset, m.layout.size) for m in members)
        self._flat = tuple(_flatten_layout(layout, name, 0))
        self._struct = struct.Struct(_format(self._flat, self.size))
        self._bytes = tuple((i, f.layout) for i, f in enumerate(self._flat) if isinstance(f.layout, Bytes))
        simple = isinstance(layout, Record) and all(isinstance(m.layout, Integer | Bytes) for m in members)
        self._names = tuple(m.name for m in members) if simple else ()

    def __repr__(self) -> str:
        return f"<Codec {self.name or 'unnamed'} {self.size} bytes>"

    def pack(self, value: Any) -> bytes:
        """Encode a value (a mapping, for a structure).

        Raises :class:`ValueError` naming the field for an unknown key, a missing key, or a value that does
        not fit.
        """
        values: list[Any] = []
        _flatten(self.layout, value, values, self.name)
        return self.pack_values(*values)

    def pack_values(self, *values: Any) -> bytes:
        """Encode values given flat, in the order of declaration; the fast way for thousands of keys.

        Raises :class:`ValueError` as :meth:`pack` does.
        """
        try:
            for index, layout in self._bytes:
                length = len(values[index])
                if length != layout.size and (length > layout.size or not layout.text):
                    self._complain(values)
            return self._struct.pack(*values)
        except (struct.error, TypeError, IndexError):
            self._complain(values)

    def unpack(self, data: bytes) -> Any:
        """Decode bytes of exactly ``size``, to a dict for a structure; else raise :class:`ValueError`."""
        if len(data) != self.size:
            raise ValueError(f"{self.name or 'value'}: {len(data)} bytes given, {self.size} needed")
        values = self._struct.unpack(data)
        if self._names:
            return dict(zip(self._names, values, strict=True))
        return _gather(self.layout, iter(values))

    def _complain(self, values: Sequence[Any]) -> NoReturn:
        if len(values) != len(self._flat):
            raise ValueError(f"{self.name or 'value'}: {len(values)} values given, {len(self._flat)} needed")
        for value, flat in zip(values, self._flat, strict=True):
            problem = _problem(flat.layout, value)
            if problem:
                raise ValueError(f"{flat.name or 'value'}: {problem}")
        raise ValueError(f"{self.name or 'value'} cannot be encoded")


def _problem(layout: Integer | Bytes, value: object) -> str:
    if isinstance(layout, Bytes):
        if not isinstance(value, bytes | bytearray):
            return f"{value!r} is not bytes"
        wrong = len(value) > layout.size or (len(value) < layout.size and not layout.text)
        return f"{len(value)} bytes given, {layout.size} needed" if wrong else ""
    if not isinstance(value, int):
        return f"{value!r} is not an integer"
    bits = layout.size * 8
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if layout.signed else (0, (1 << bits) - 1)
    return "" if low <= value <= high else f"{value} is not in {low} to {high}"


def _flatten_layout(layout: Layout, name: str, offset: int) -> Iterator[_Flat]:
    if isinstance(layout, Record):
        for member in layout.members:
            inner = f"{name}.{member.name}" if name else member.name
            yield from _flatten_layout(member.layout, inner, offset + member.offset)
    elif isinstance(layout, Array):
        for index in range(layout.count):
            yield from _flatten_layout(
                layout.element, f"{name}[{index}]", offset + index * layout.element.size
            )
    else:
        yield _Flat(name, offset, layout)


def _format(flat: Sequence[_Flat], size: int) -> str:
    parts, position = ["="], 0
    for value in flat:
        parts.append("x" * (value.offset - position))
        parts.append(value.layout.letter if isinstance(value.layout, Integer) else f"{value.layout.size}s")
        position = value.offset + value.layout.size
    return "".join(parts) + "x" * (size - position)


def _flatten(layout: Layout, value: Any, out: list[Any], name: str) -> None:
    if isinstance(layout, Integer | Bytes):
        out.append(value)
    elif isinstance(layout, Array):
        if not isinstance(value, Sequence) or len(value) != layout.count:
            raise ValueError(f"{name or 'value'}: a list of {layout.count} needed")
        for index, element in enumerate(value):
            _flatten(layout.element, element, out, f"{name}[{index}]")
    else:
        _flatten_record(layout, value, out, name)


def _flatten_record(layout: Record, value: Any, out: list[Any], name: str) -> None:
    prefix = f"{name}." if name else ""
    if not isinstance(value, Mapping):
        raise ValueError(f"{name or 'value'}: a mapping needed")
    for member in layout.members:
        if member.name not in value:
            raise ValueError(f"{prefix}{member.name} is missing")
        inner = value[member.name]
        if isinstance(member.layout, Integer | Bytes):
            out.append(inner)
        else:
            _flatten(member.layout, inner, out, prefix + member.name)
    if len(value) != len(layout.members):
        unknown = sorted(map(str, set(value) - {member.name for member in layout.members}))
        raise ValueError(f"{prefix}{unknown[0]} is not a field")


def _gather(layout: Layout, values: Iterator[Any]) -> Any:
    if isinstance(layout, Record):
        return {member.name: _gather(member.layout, values) for member in layout.members}
    if isinstance(layout, Array):
        return [_gather(layout.element, values) for _ in range(layout.count)]
    return next(values)
