# SPDX-License-Identifier: Apache-2.0
"""Where the things of one layout are pinned.

::

    <pins>/<layout>/scope/program_<build>        the program; its presence says that the object is complete
                         /open_<build>, ...      its other programs: see PARTS
                         /rules, /services, ...  its maps
    <pins>/<layout>/initial_cwnd/...             the same for each feature
    <pins>/<layout>/links/<program>-<cgroup id>  the link of scope, or of a feature's own hook, to each cgroup

A bpffs takes no dots in names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pliant.observe.tables import Table

LAYOUT_NAME = re.compile(r"[0-9a-f]{12}")
LINK_NAME = re.compile(r"([a-z0-9_]+)-([0-9]+)")
PROGRAM_PREFIX = "program_"
PARTS = {"open": "_open", "sample": "_sample", "packet": "_packet", "carry": "_carry"}
"""An object's programs beside the main one: the name their pins begin with, and the end of the program's name.

``open`` and ``sample`` are iterators over TCP sockets, ``packet`` is for a hook of the feature's own, ``carry`` adds to
what was counted.
"""


PROGRAM_PIN = re.compile(r"(program|open|sample|packet|carry)_[0-9a-z]+")
"""The pins of programs, as against those of maps."""


class Hook(NamedTuple):
    """A place a program is attached to: an object's program, and the id of a cgroup."""

    program: str
    cgroup_id: int


@dataclass(frozen=True, slots=True)
class PinTree:
    """The pins of one layout below the directory ``root`` of a bpffs."""

    root: Path
    layout: str

    @property
    def directory(self) -> Path:
        """Everything of this layout."""
        return self.root / self.layout

    @property
    def links(self) -> Path:
        """The directory of links."""
        return self.directory / "links"

    def object(self, name: str) -> Path:
        """The directory of an object's program and maps."""
        return self.directory / name

    def program(self, name: str, build: str) -> Path:
        """The pin of an object's program."""
        return self.object(name) / f"{PROGRAM_PREFIX}{build}"

    def map(self, table: Table) -> Path:
        """The pin of a map."""
        return self.object(table.object) / table.map

    def part(self, name: str, part: str, build: str) -> Path:
        """The pin of one of an object's other programs; see :data:`PARTS`."""
        return self.object(name) / f"{part}_{build}"

    def link(self, hook: Hook) -> Path:
        """The pin of a link."""
        return self.links / f"{hook.program}-{hook.cgroup_id}"

    def objects(self) -> list[str]:
        """The objects that have a directory."""
        return sorted(path.name for path in _entries(self.directory) if path.name != "links")

    def builds(self, name: str) -> list[str]:
        """The builds of an object whose program is pinned, oldest pin first: two while one replaces the other."""
        pins = [path for path in _entries(self.object(name)) if path.name.startswith(PROGRAM_PREFIX)]
        pins.sort(key=lambda path: path.stat().st_ctime_ns)
        return [path.name.removeprefix(PROGRAM_PREFIX) for path in pins]

    def attached(self) -> list[Hook]:
        """Where links are pinned for."""
        found = (LINK_NAME.fullmatch(path.name) for path in _entries(self.links))
        return sorted(Hook(match[1], int(match[2])) for match in found if match)

    def link_pins(self) -> list[Path]:
        """The pins of all links, whatever a build has named them."""
        return _entries(self.links)

    def other_layouts(self) -> list[str]:
        """The layouts of other builds that have pins beside this one's."""
        names = (path.name for path in _entries(self.root))
        return sorted(name for name in names if name != self.layout and LAYOUT_NAME.fullmatch(name))


def _entries(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except FileNotFoundError:
        return []
