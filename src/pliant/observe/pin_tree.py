# SPDX-License-Identifier: Apache-2.0
"""Where the things of one layout are pinned.

::

    <pins>/<layout>/scope/program_<build>        the program; its presence says that the object is complete
                         /rules, /services, ...  its maps
    <pins>/<layout>/initial_cwnd/...             the same for each feature
    <pins>/<layout>/links/<cgroup id>            scope's link to each cgroup that it is attached to

A bpffs takes no dots in names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pliant.observe.tables import Table

LAYOUT_NAME = re.compile(r"[0-9a-f]{12}")
LINK_NAME = re.compile(r"[0-9]+")
PROGRAM_PREFIX = "program_"


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

    def link(self, cgroup_id: int) -> Path:
        """The pin of scope's link to a cgroup."""
        return self.links / str(cgroup_id)

    def objects(self) -> list[str]:
        """The objects that have a directory."""
        return sorted(path.name for path in _entries(self.directory) if path.name != "links")

    def builds(self, name: str) -> list[str]:
        """The builds of an object whose program is pinned, oldest pin first: two while one replaces the other."""
        pins = [path for path in _entries(self.object(name)) if path.name.startswith(PROGRAM_PREFIX)]
        pins.sort(key=lambda path: path.stat().st_ctime_ns)
        return [path.name.removeprefix(PROGRAM_PREFIX) for path in pins]

    def attached(self) -> list[int]:
        """The ids of the cgroups whose links are pinned."""
        return sorted(int(path.name) for path in _entries(self.links) if LINK_NAME.fullmatch(path.name))

    def other_layouts(self) -> list[str]:
        """The layouts of other builds that have pins beside this one's."""
        names = (path.name for path in _entries(self.root))
        return sorted(name for name in names if name != self.layout and LAYOUT_NAME.fullmatch(name))


def _entries(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except FileNotFoundError:
        return []
