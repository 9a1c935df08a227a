# SPDX-License-Identifier: Apache-2.0
"""What of ours is in the kernel: loaded objects, the contents of their tables, and where programs are attached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pliant.observe.controls import ControlState
from pliant.observe.fastpath import FastpathState
from pliant.observe.pin_tree import Hook
from pliant.observe.sysctls import SysctlState
from pliant.observe.tables import Tables
from pliant.policy.sysctls import SysctlKey


@dataclass(frozen=True, slots=True)
class HostState:
    """What was found under one layout's pins.

    ``builds`` maps each loaded object to the digest of the file it was loaded from, the one to be replaced where that
    was interrupted; ``partial`` names objects that cannot be used: their pins are incomplete (their loading was
    interrupted), or scope does not call them. ``attachments`` says what is attached where; ``stale`` are
    those whose cgroup is gone or whose link runs another program; ``tuned`` is what open connections were last brought
    in line with (0: nothing; ``UNDER_WAY`` where that was interrupted); ``controls`` are the congestion controls of
    ours; ``other_layouts`` are pin directories of other builds of Pliant, and ``elsewhere`` has the layout under which
    a link of scope that can be taken over is pinned; ``sysctls`` are those that are ours or are to be; ``fastpath`` is
    what interfaces run of ours.
    """

    builds: Mapping[str, str] = field(default_factory=dict)
    partial: frozenset[str] = frozenset()
    tables: Tables = field(default_factory=dict)
    attachments: frozenset[Hook] = frozenset()
    stale: frozenset[Hook] = frozenset()
    tuned: int = 0
    controls: ControlState = field(default_factory=ControlState)
    other_layouts: tuple[str, ...] = ()
    elsewhere: Mapping[Hook, str] = field(default_factory=dict)
    sysctls: Mapping[SysctlKey, SysctlState] = field(default_factory=dict)
    fastpath: FastpathState = field(default_factory=FastpathState)

    @property
    def is_empty(self) -> bool:
        """Whether nothing of ours is on the host."""
        programs = self.builds or self.partial or self.attachments or self.stale
        return self.controls.is_empty and self.fastpath.is_empty and not (programs or self.other_layouts)
