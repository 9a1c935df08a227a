# SPDX-License-Identifier: Apache-2.0
"""The objects the package ships: the layouts of their tables, and what tells two builds apart."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from importlib import resources
from pathlib import Path
from types import MappingProxyType

from pliant.errors import PliantError
from pliant.features import features
from pliant.kernel.btf import Btf
from pliant.kernel.codec import Codec
from pliant.kernel.codec import Layout as MemberLayout
from pliant.policy.desired import SCOPE

MAX_OPTIONS = 32  # MAX_OPTIONS in scope.h
SCOPE_STRUCTS = ("rule_key", "rule", "service", "policy", "verdict", "effect_key", "effect", "measured")
CALLBACKS = 16  # CALLBACKS in scope.h


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things are in the tables of one build.

    ``digest`` names the pin directory: builds that agree on every layout and on every option's slot share it, and
    only they. ``objects`` maps each object to its file, ``builds`` to a digest of the file: the same layout with
    another build means that the programs can be replaced in place.
    """

    digest: str
    slots: Mapping[str, int]
    objects: Mapping[str, Path]
    builds: Mapping[str, str]
    scope: Mapping[str, Codec]
    settings: Mapping[str, Codec]

    def map_layouts(self, name: str) -> Mapping[str, tuple[MemberLayout | None, MemberLayout | None]]:
        """The layouts of key and value of every map that an object declares."""
        return Btf.from_elf(self.objects[name]).map_layouts()

    def mask(self, options: Iterable[str]) -> int:
        """A bit for the slot of each option."""
        return sum(1 << self.slots[name] for name in options)

    @property
    def callback_options(self) -> bytes:
        """The constant of the same name in scope.h: by callback, the options whose features want it."""
        masks = [0] * CALLBACKS
        for name, feature in features().items():
            for callback in feature.callbacks:
                masks[callback] |= self.mask([name])
        return struct.pack(f"={CALLBACKS}I", *masks)

    @property
    def kept_options(self) -> int:
        """The constant of the same name in scope.bpf.c: the options for which a verdict is kept."""
        return self.mask(name for name, feature in features().items() if feature.needs_verdict)


@cache
def shipped_layout() -> Layout:
    """The layout of the objects in this installation. Raises :class:`PliantError` when they were not built."""
    names = tuple(features())
    if len(names) > MAX_OPTIONS:
        raise PliantError(f"{len(names)} features, but a verdict has room for {MAX_OPTIONS}")
    objects = {name: _object_path(name) for name in (SCOPE, *names)}
    types = {name: Btf.from_elf(path) for name, path in objects.items()}
    scope = {name: types[SCOPE].struct(name) for name in SCOPE_STRUCTS}
    settings = {name: types[name].struct("setting") for name in names}
    slots = {name: slot for slot, name in enumerate(names)}
    described = {
        "slots": slots,
        "callbacks": {name: sorted(feature.callbacks) for name, feature in features().items()},
        "maps": {name: _maps(btf) for name, btf in types.items()},
    }
    return Layout(
        digest=_digest(json.dumps(described, sort_keys=True).encode()),
        slots=MappingProxyType(slots),
        objects=MappingProxyType(objects),
        builds=MappingProxyType({name: _digest(path.read_bytes()) for name, path in objects.items()}),
        scope=MappingProxyType(scope),
        settings=MappingProxyType(settings),
    )


def _maps(btf: Btf) -> dict[str, str]:
    types = btf.map_types()  # a map of another type cannot be gone on with, whatever it holds
    return {name: repr((types[name].name, layouts)) for name, layouts in btf.map_layouts().items()}


def _object_path(name: str) -> Path:
    path = Path(str(resources.files("pliant"))) / "objects" / f"{name}.bpf.o"
    if not path.exists():
        raise PliantError(
            f"the BPF object {path.name} is missing from this installation of Pliant",
            remedy="reinstall the package, or run 'make bpf' in a checkout",
        )
    return path


def _digest(content: bytes) -> str:
    return blake2b(content, digest_size=6).hexdigest()
