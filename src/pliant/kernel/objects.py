# SPDX-License-Identifier: Apache-2.0
"""Loading a compiled BPF object: constants set, maps shared or sized, programs chosen.

libbpf's object lives only during :func:`load`; what comes back are descriptors of our own.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from pliant.closing import Closable
from pliant.kernel.elf import Elf
from pliant.kernel.errors import KernelError, NotSupported, kernel_error
from pliant.kernel.libbpf import collected_messages, libbpf
from pliant.kernel.maps import Map, added_flags
from pliant.kernel.probes import SUPPORTED, probe
from pliant.kernel.programs import Program
from pliant.kernel.refusal import load_error
from pliant.kernel.uapi import STRUCT_OPS_LINK, AttachType, MapType, ProgramType

_NOTHING: Mapping[str, int | bytes] = MappingProxyType({})
_NO_MAPS: Mapping[str, Map] = MappingProxyType({})
_NO_SIZES: Mapping[str, int] = MappingProxyType({})
_RODATA = ".rodata"
_READY = 3  # BPF_STRUCT_OPS_STATE_READY
# Sections that libbpf 1.1 does not know yet.
_NEWER_SECTIONS = (
    ("tcx/ingress", ProgramType.SCHED_CLS, AttachType.TCX_INGRESS),
    ("tcx/egress", ProgramType.SCHED_CLS, AttachType.TCX_EGRESS),
    ("netfilter", ProgramType.NETFILTER, AttachType.NETFILTER),
)


@dataclass(frozen=True, slots=True)
class LoadedObject(Closable):
    """Programs by the name of their function, maps by theirs (``.rodata``, ``.bss`` among them)."""

    programs: Mapping[str, Program]
    maps: Mapping[str, Map]

    def close(self) -> None:
        """Close all descriptors; what is pinned or attached stays."""
        for held in (*self.programs.values(), *self.maps.values()):
            held.close()


def load(
    path: Path,
    *,
    feature: str,
    rodata: Mapping[str, int | bytes] = _NOTHING,
    reuse: Mapping[str, Map] = _NO_MAPS,
    max_entries: Mapping[str, int] = _NO_SIZES,
    autoload: Collection[str] | None = None,
    target: Program | None = None,
) -> LoadedObject:
    """Load an object into the kernel.

    ``feature`` is what messages call it; ``rodata`` sets ``const volatile`` variables by name; ``reuse`` puts
    existing maps in the place of declared ones; ``max_entries`` sizes maps; ``autoload`` names the programs
    to load (None: all but those whose section begins with a question mark). ``target`` is the program whose end
    those look at that are for that (``SEC("fexit")``). Maps of struct_ops come back filled, ready for
    :func:`~pliant.kernel.links.attach_struct_ops`.

    Raises :class:`Refused` when the verifier says no, :class:`NotSupported` when the kernel lacks a function
    the object needs, :class:`NoPermission`, and :class:`KernelError` for a name the object has not or a size
    that differs.
    """
    with collected_messages() as messages, _opened(path, feature, messages) as draft:
        draft.set_types()
        draft.choose_programs(autoload)
        draft.set_target(target)
        draft.set_rodata(rodata)
        draft.size_maps(max_entries)
        draft.reuse_maps(reuse)
        draft.load(messages)
        return draft.take()


@dataclass(frozen=True, slots=True)
class Prepared:
    """What libbpf has made of an object: enough to load its programs again without it.

    ``programs`` has each program's instructions, type, hook and flags; in the instructions maps are numbers, whose
    names are ``names``. ``maps`` are those maps; ``types`` is the descriptor of the object's types.
    """

    programs: Mapping[str, tuple[bytes, ProgramType, int, int]]
    names: Mapping[int, str]
    maps: Mapping[str, Map]
    types: int


def prepare(path: Path, *, feature: str, reuse: Mapping[str, Map] = _NO_MAPS) -> Prepared:
    """Have libbpf make an object ready, and load it once with the constants it has. Arguments as for :func:`load`.

    Whoever calls closes the maps and the descriptor of the types.
    """
    with collected_messages() as messages, _opened(path, feature, messages) as draft:
        draft.set_types()
        draft.reuse_maps(reuse)
        draft.load(messages)
        return draft.prepared()


def put_constants(content: bytearray, values: Mapping[str, int | bytes], elf: Elf, feature: str) -> None:
    """Write constants (``const volatile`` variables) into the content of an object's section of constants.

    Raises :class:`KernelError` for a name that the object has not or a size that differs.
    """
    known = {v.name: v for v in elf.variables().values() if v.section == _RODATA}
    for name, value in values.items():
        if name not in known:
            listed = ", ".join(sorted(known)) or "none"
            raise KernelError(f"{feature} ({elf.path.name}) has no constant {name}; it has: {listed}")
        place = known[name]
        where = f"the constant {name} of {feature} ({elf.path.name})"
        content[place.offset : place.offset + place.size] = _constant(where, value, place.size)


def _constant(where: str, value: int | bytes, size: int) -> bytes:
    if isinstance(value, bytes):
        if len(value) != size:
            raise KernelError(f"{where} has {size} bytes, {len(value)} given")
        return value
    letters = {1: "b", 2: "h", 4: "i", 8: "q"}
    if size not in letters:
        raise KernelError(f"{where} has {size} bytes: give bytes, not an integer")
    letter = letters[size] if value < 0 else letters[size].upper()
    try:
        return struct.pack("=" + letter, value)
    except struct.error as error:
        raise KernelError(f"{where} has {size} bytes, too small for {value}") from error


@contextlib.contextmanager
def _opened(path: Path, feature: str, messages: list[str]) -> Iterator[_Draft]:
    Elf(path)  # says what is wrong with the file better than libbpf does
    handle = libbpf().bpf_object__open_file(os.fsencode(path), None)
    if not handle:
        raise load_error(feature, path, ctypes.get_errno(), messages)
    try:
        yield _Draft(handle, path, feature)
    finally:
        libbpf().bpf_object__close(handle)


class _Draft:
    """An object between opening and loading."""

    def __init__(self, handle: int, path: Path, feature: str) -> None:
        self._lib = libbpf()
        self._handle, self._path, self._feature = handle, path, feature
        self._programs = {
            self._lib.bpf_program__name(item).decode(): item
            for item in self._each("bpf_object__next_program")
        }
        self._maps = {self._map_name(item): item for item in self._each("bpf_object__next_map")}

    def _each(self, function: str) -> Iterator[int]:
        item = getattr(self._lib, function)(self._handle, None)
        while item:
            yield item
            item = getattr(self._lib, function)(self._handle, item)

    def _map_name(self, item: int) -> str:
        name: str = self._lib.bpf_map__name(item).decode()
        if not self._lib.bpf_map__is_internal(item):
            return name
        return "." + name.partition(".")[2]  # libbpf puts the object's name before the section's

    def _find(self, what: str, known: Mapping[str, int], name: str) -> int:
        if name not in known:
            listed = ", ".join(sorted(known)) or "none"
            raise KernelError(f"{self._feature} ({self._path.name}) has no {what} {name}; it has: {listed}")
        return known[name]

    def _check(self, result: int, action: str) -> None:
        if result < 0:
            raise kernel_error(-result, f"{action} of {self._feature} ({self._path.name})")

    def set_types(self) -> None:
        for item in self._programs.values():
            section = self._lib.bpf_program__section_name(item).decode()
            for prefix, kind, hook in _NEWER_SECTIONS:
                if section.startswith(prefix):
                    self._lib.bpf_program__set_type(item, kind)
                    self._lib.bpf_program__set_expected_attach_type(item, hook)
        for item in self._struct_ops():
            flags = self._lib.bpf_map__map_flags(item) | STRUCT_OPS_LINK
            self._check(self._lib.bpf_map__set_map_flags(item, flags), "prepare the struct_ops map")

    def _struct_ops(self) -> list[int]:
        return [item for item in self._maps.values() if self._lib.bpf_map__type(item) == MapType.STRUCT_OPS]

    def choose_programs(self, names: Collection[str] | None) -> None:
        if names is None:
            return
        for name in names:
            self._find("program", self._programs, name)
        for name, item in self._programs.items():
            self._check(
                self._lib.bpf_program__set_autoload(item, name in names), f"choose the program {name}"
            )

    def set_target(self, target: Program | None) -> None:
        for name, item in self._programs.items() if target else ():
            if target and self._lib.bpf_program__expected_attach_type(item) == AttachType.TRACE_FEXIT:
                self._check(
                    self._lib.bpf_program__set_attach_target(item, target.fileno(), target.name.encode()),
                    f"aim {name} at the program {target.name}",
                )

    def set_rodata(self, values: Mapping[str, int | bytes]) -> None:
        if not values:
            return
        area = self._maps.get(_RODATA, 0)
        size = ctypes.c_size_t()
        start = self._lib.bpf_map__initial_value(area, ctypes.byref(size)) if area else 0
        content = bytearray(ctypes.string_at(start, size.value)) if start else bytearray()
        put_constants(content, values, Elf(self._path), self._feature)
        self._check(
            self._lib.bpf_map__set_initial_value(area, bytes(content), len(content)), "set the constants"
        )

    def size_maps(self, sizes: Mapping[str, int]) -> None:
        for name, entries in sizes.items():
            item = self._find("map", self._maps, name)
            self._check(self._lib.bpf_map__set_max_entries(item, entries), f"size the map {name}")

    def reuse_maps(self, maps: Mapping[str, Map]) -> None:
        for name, given in maps.items():
            item = self._find("map", self._maps, name)
            declared = (
                MapType(self._lib.bpf_map__type(item)).name,
                self._lib.bpf_map__key_size(item),
                self._lib.bpf_map__value_size(item),
                self._lib.bpf_map__map_flags(item),
            )
            found = (
                given.type.name,
                given.key_size,
                given.value_size,
                given.flags & ~added_flags(given.type),
            )
            if declared != found:
                raise KernelError(
                    f"the map {name} of {self._feature} cannot be shared: its type, key bytes, value bytes "
                    f"and flags are {declared}, those of the existing one {found}"
                )
            self._check(self._lib.bpf_map__reuse_fd(item, given.fileno()), f"share the map {name}")

    def load(self, messages: list[str]) -> None:
        result = self._lib.bpf_object__load(self._handle)
        if result < 0:
            raise self._unlinked(-result) or load_error(self._feature, self._path, -result, messages)
        for item in self._struct_ops():
            self._fill(item)

    def _unlinked(self, number: int) -> KernelError | None:
        """The error where the kernel has no links for the struct_ops of this object: it says no more than EINVAL."""
        support = probe("struct_ops_link").support if self._struct_ops() else SUPPORTED
        if support:
            return None
        where = f"{self._feature} ({self._path.name})"
        return NotSupported(
            f"{where}: this kernel cannot replace it in place: it {support.reason}", errno=number
        )

    def _fill(self, item: int) -> None:
        # The only call that writes a struct_ops map also attaches it: libbpf 1.1 does nothing more (the map
        # wants a link), newer ones register it, which fails with EEXIST when that name is in use. The link is
        # not wanted yet.
        link = self._lib.bpf_map__attach_struct_ops(item)
        if not link:
            return
        if self._lib.libbpf_major_version() == 1 and self._lib.libbpf_minor_version() < 2:
            self._lib.bpf_link__disconnect(link)
        self._lib.bpf_link__destroy(link)

    def prepared(self) -> Prepared:
        programs = {}
        for name, item in self._programs.items():
            count = 8 * self._lib.bpf_program__insn_cnt(item)
            programs[name] = (
                ctypes.string_at(self._lib.bpf_program__insns(item), count),
                ProgramType(self._lib.bpf_program__type(item)),
                int(self._lib.bpf_program__expected_attach_type(item)),
                int(self._lib.bpf_program__flags(item)),
            )
        names = {int(self._lib.bpf_map__fd(item)): name for name, item in self._maps.items()}
        with contextlib.ExitStack() as undo:
            maps = {name: undo.enter_context(Map(os.dup(number))) for number, name in names.items()}
            types = os.dup(self._lib.bpf_object__btf_fd(self._handle))
            undo.pop_all()
        return Prepared(programs, names, maps, types)

    def take(self) -> LoadedObject:
        with contextlib.ExitStack() as undo:
            programs = {
                name: undo.enter_context(Program(os.dup(self._lib.bpf_program__fd(item))))
                for name, item in self._programs.items()
                if self._lib.bpf_program__autoload(item)
            }
            maps = {
                name: undo.enter_context(Map(os.dup(self._lib.bpf_map__fd(item))))
                for name, item in self._maps.items()
                if self._lib.bpf_map__autocreate(item)
            }
            for name, item in self._maps.items():
                if item in self._struct_ops() and not _filled(maps[name]):
                    raise KernelError(f"libbpf did not fill the struct_ops map {name} of {self._feature}")
            undo.pop_all()
        return LoadedObject(programs, maps)


def _filled(struct_ops: Map) -> bool:
    # The value starts with struct bpf_struct_ops_common: a reference count and enum bpf_struct_ops_state.
    value = struct_ops.get(bytes(struct_ops.key_size)) or b""
    return value[4:8] == _READY.to_bytes(4, sys.byteorder)
