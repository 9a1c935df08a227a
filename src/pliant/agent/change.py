# SPDX-License-Identifier: Apache-2.0
"""A change of a host, worked out and not yet made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from pliant.plan.steps import Step
from pliant.policy.compile import Compiled
from pliant.policy.model import Policy
from pliant.store.generations import StoredPolicy


class Fate(Enum):
    """What a change does to one policy."""

    CREATED = "created"
    CONFIGURED = "configured"
    UNCHANGED = "unchanged"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class Change:
    """What would be done and why: the policies before and after, what they compile to, and the plan.

    ``waiting`` names policies without a service on this host at present.
    """

    verb: str
    reason: str
    before: Mapping[str, StoredPolicy]
    after: Mapping[str, StoredPolicy]
    compiled: Compiled
    plan: tuple[Step, ...]

    @property
    def waiting(self) -> tuple[str, ...]:
        """Policies that are kept, but have no service on this host at present."""
        return self.compiled.unmatched

    @property
    def fates(self) -> dict[str, Fate]:
        """What happens to each policy, by name."""
        return {name: self._fate(name) for name in sorted(self.before.keys() | self.after.keys())}

    def _fate(self, name: str) -> Fate:
        if name not in self.before:
            return Fate.CREATED
        if name not in self.after:
            return Fate.DELETED
        return Fate.UNCHANGED if self.before[name] == self.after[name] else Fate.CONFIGURED

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do, neither to the policies nor to the host."""
        return not self.plan and self.before == self.after


@dataclass(frozen=True, slots=True)
class Applied:
    """A change that was made, and the generation it made: that in force before when there was nothing to do."""

    change: Change
    generation: int


Policies = Mapping[str, Policy]
