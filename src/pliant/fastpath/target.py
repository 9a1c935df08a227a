# SPDX-License-Identifier: Apache-2.0
"""What the fast path of a host should be: nothing but data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pliant.fastpath.ruleset_rows import Rows
from pliant.observe.fastpath import Port


@dataclass(frozen=True, slots=True)
class Acceleration:
    """What an interface should run: an object, and the constants that make it this interface's.

    ``build`` is a digest of both.
    """

    port: Port
    interface: str
    object: str
    constants: Mapping[str, int | bytes]
    build: str


@dataclass(frozen=True, slots=True)
class FastpathTarget:
    """What the fast path of a host should be.

    ``exits`` are the interfaces that packets may leave by, by index. ``standby`` are those that are asked for, whether
    they run something now or not: programs that they ran before are kept for a while. ``ruleset`` is what nftables
    says, and ``rule_names`` are those of the interfaces that it may ask for.
    """

    accelerations: Mapping[Port, Acceleration] = field(default_factory=dict)
    exits: frozenset[int] = frozenset()
    ruleset: Rows | None = None
    rule_names: Mapping[int, str] = field(default_factory=dict)
    standby: frozenset[int] = frozenset()
