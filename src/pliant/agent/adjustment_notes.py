# SPDX-License-Identifier: Apache-2.0
"""What the agent did by itself, summed up for the audit log: a record a minute at most, however much comes and goes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

from pliant.agent.audit_trail import AuditTrail
from pliant.agent.origin import Origin

AT_MOST_EVERY_S = 60.0
MOST_NAMES = 50
REASON = "keeping the kernel as the policies in force ask for"


class AdjustmentNotes:
    """Adjustments since the last record. The first is recorded at once."""

    def __init__(self) -> None:
        self._recorded_at: float | None = None
        self._causes: Counter[str] = Counter()
        self._attached: Counter[str] = Counter()
        self._detached: Counter[str] = Counter()
        self._steps = 0

    def add(self, cause: str, steps: int, attached: Iterable[str], detached: Iterable[str]) -> None:
        """Take one adjustment in; the last two are paths of cgroups."""
        self._causes[cause] += 1
        self._steps += steps
        self._attached.update(attached)
        self._detached.update(detached)

    @property
    def is_due(self) -> bool:
        """Whether there is something to record, and the last record is long enough ago."""
        at = self._recorded_at
        return bool(self._causes) and (at is None or time.monotonic() - at >= AT_MOST_EVERY_S)

    @property
    def is_empty(self) -> bool:
        """Whether everything was recorded."""
        return not self._causes

    def record(self, trail: AuditTrail, generation: int) -> None:
        """Record it, with the host's lock in hand. Raises :class:`PliantError` and then keeps it for the next time."""
        details: dict[str, Any] = {
            "generation": generation,
            "adjustments": self._causes.total(),
            "causes": dict(self._causes),
            "steps": self._steps,
            "attached": dict(self._attached.most_common(MOST_NAMES)),
            "detached": dict(self._detached.most_common(MOST_NAMES)),
        }
        trail.note("adjust", REASON, Origin.of_this_process(), details)
        for counted in (self._causes, self._attached, self._detached):
            counted.clear()
        self._steps = 0
        self._recorded_at = time.monotonic()
