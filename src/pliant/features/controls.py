# SPDX-License-Identifier: Apache-2.0
"""The congestion controls the package ships: BPF objects that the kernel calls by name, for connections that chose it.

They are not features: a policy names one as the value of ``congestion_control``, and as long as one does, it is
registered with the kernel, for the whole machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from importlib import resources
from pathlib import Path
from types import MappingProxyType

from pliant.policy.desired import PolicyVersion

OPTION = "congestion_control"
"""The option whose value may be the name of one."""

NAME = re.compile(r"pliant_[a-z0-9]{1,8}")  # 15 characters are what the kernel has room for
FORMAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Control:
    """One congestion control: its object's file, and a digest of that."""

    name: str
    path: Path
    build: str


@cache
def shipped_controls() -> Mapping[str, Control]:
    """The congestion controls in this installation by name: those whose objects were built."""
    directory = Path(str(resources.files("pliant"))) / "objects" / "congestion"
    found = {}
    for path in sorted(directory.glob("*.bpf.o")):
        name = path.name.removesuffix(".bpf.o")
        if NAME.fullmatch(name):
            found[name] = Control(name, path, blake2b(path.read_bytes(), digest_size=6).hexdigest())
    return MappingProxyType(found)


def wanted_controls(versions: Iterable[PolicyVersion]) -> dict[str, str]:
    """The controls of ours that policies choose, each with the build of this installation."""
    chosen = {version.settings.get(OPTION) for version in versions}
    return {name: control.build for name, control in shipped_controls().items() if name in chosen}
