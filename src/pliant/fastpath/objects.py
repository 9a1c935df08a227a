# SPDX-License-Identifier: Apache-2.0
"""The fast path's objects as they are shipped, and the tables that all interfaces share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from hashlib import blake2b
from importlib import resources
from pathlib import Path

from pliant.fastpath.modules import Bridge, Module
from pliant.kernel.btf import Btf
from pliant.observe.fastpath import Mode

ROUTING = "route_xdp"
BRIDGING = "bridge_xdp"
PODS = "overlay_tc"

OWN_TABLE = "counts"
"""The table in which each interface has a slot for itself."""


def object_for(mode: Mode, modules: Iterable[Module]) -> str:
    """The name of the object that runs some modules in a mode."""
    if mode is Mode.TC:
        return PODS
    return BRIDGING if any(isinstance(module, Bridge) for module in modules) else ROUTING


def shipped_object(name: str) -> Path:
    """The file of an object, whose program has the same name."""
    return _directory() / f"{name}.bpf.o"


ENTRIES = {Mode.NATIVE: "xdp_entry", Mode.GENERIC: "xdp_entry", Mode.TC: "tc_entry"}
"""What is attached in each mode, and goes on to the program in force."""


def shipped_entry(name: str) -> Path:
    """The file of an object whose program leads to others."""
    return _objects() / "entry" / f"{name}.bpf.o"


def _directory() -> Path:
    return _objects() / "fastpath"


def _objects() -> Path:
    return Path(str(resources.files("pliant"))) / "objects"


@cache
def shared_tables() -> frozenset[str]:
    """The tables that all interfaces share, of all objects."""
    return frozenset(name for path in _directory().glob("*.bpf.o") for name in _layouts(path)) - {OWN_TABLE}


@cache
def tables_of(name: str) -> frozenset[str]:
    """The tables of one object that all interfaces share."""
    return frozenset(_layouts(shipped_object(name))) - {OWN_TABLE}


@cache
def tables_layout() -> str:
    """A digest of the layouts of all tables: builds that disagree never meet in one."""
    found = {
        name: str(layout)
        for path in sorted(_directory().glob("*.bpf.o"))
        for name, layout in _layouts(path).items()
    }
    return blake2b(repr(sorted(found.items())).encode(), digest_size=6).hexdigest()


def _layouts(path: Path) -> Mapping[str, object]:
    return {
        name: layout for name, layout in Btf.from_elf(path).map_layouts().items() if not name.startswith(".")
    }


@cache
def counted_reasons() -> Mapping[int, str]:
    """What becomes of packets (``enum reason`` of fastpath/port.h), by number, in words; 0 is: accelerated."""
    listed = Btf.from_elf(shipped_object("route_xdp")).enum("reason")
    return {number: name.lower().replace("_", " ") for name, number in listed.items() if name != "REASONS"}


@cache
def _digest(name: str) -> bytes:
    return blake2b(shipped_object(name).read_bytes(), digest_size=6).digest()


def build_of(name: str, constants: Mapping[str, int | bytes]) -> str:
    """What tells one program from another: a digest of the object, its constants and the tables that it shares."""
    said = repr((tables_layout(), sorted(constants.items()))).encode()
    return blake2b(_digest(name) + said, digest_size=6).hexdigest()
