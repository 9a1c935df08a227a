# SPDX-License-Identifier: Apache-2.0
"""The congestion controls the package ships: BPF objects that the kernel calls by name, for connections that chose it.

They are not features: a policy names one as the value of ``congestion_control``, and as long as one does, it is
registered with the kernel, for the whole machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from importlib import resources
from pathlib import Path
from types import MappingProxyType

from pliant.kernel.btf import Btf
from pliant.kernel.elf import Elf
from pliant.policy.desired import DesiredState

OPTION = "congestion_control"
"""The option whose value may be the name of one."""

NAME = re.compile(r"pliant_[a-z0-9]{1,8}")  # 15 characters are what the kernel has room for
KERNELS_WITH_ECN = frozenset({"dctcp"})
TCP_CONG_NEEDS_ECN = 0x2  # include/net/tcp.h


@dataclass(frozen=True, slots=True)
class Control:
    """One congestion control: its object's file, and a digest of that. ``needs_ecn`` is a flag its source sets."""

    name: str
    path: Path
    build: str
    needs_ecn: bool


@cache
def shipped_controls() -> Mapping[str, Control]:
    """The congestion controls in this installation by name: those whose objects were built."""
    directory = Path(str(resources.files("pliant"))) / "objects" / "congestion"
    found = {}
    for path in sorted(directory.glob("*.bpf.o")):
        name = path.name.removesuffix(".bpf.o")
        if NAME.fullmatch(name):
            build = blake2b(path.read_bytes(), digest_size=6).hexdigest()
            found[name] = Control(name, path, build, bool(_flags(name, path) & TCP_CONG_NEEDS_ECN))
    return MappingProxyType(found)


def _flags(name: str, path: Path) -> int:
    """The field of that name in the structure that the object registers."""
    elf = Elf(path)
    place = elf.variables()[name]
    content = elf.section(place.section) or b""
    ops = Btf.from_elf(path).struct("tcp_congestion_ops")
    return int(ops.unpack(content[place.offset : place.offset + place.size])["flags"])


def wanted_controls(desired: DesiredState) -> dict[str, str]:
    """The controls of ours that policies choose, each with the build of this installation."""
    return {name: c.build for name, c in shipped_controls().items() if (OPTION, name) in desired.names}


def needs_ecn(name: str) -> bool:
    """Whether a congestion control wants ECN on its connections: of ours it is known, and of the kernel's DCTCP."""
    control = shipped_controls().get(name)
    return control.needs_ecn if control else name in KERNELS_WITH_ECN
