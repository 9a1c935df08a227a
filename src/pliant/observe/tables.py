# SPDX-License-Identifier: Apache-2.0
"""The contents of our BPF maps, as plain data that can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Table(NamedTuple):
    """A map that user space fills: the object it belongs to and its name there."""

    object: str
    map: str

    def __str__(self) -> str:
        return f"{self.object}.{self.map}"


Tables = Mapping[Table, Mapping[bytes, bytes]]
"""The entries of each table, keys and values as the kernel has them."""
