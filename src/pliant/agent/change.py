# SPDX-License-Identifier: Apache-2.0
"""A change of a host, worked out and not yet made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from pliant.plan.steps import Step
from pliant.policy.compile import Compiled
from pliant.policy.model import Policy
from pliant.policy.switches import ALL_ON, Switched, Switches
from pliant.store.generations import StoredPolicy


class Fate(Enum):
    """What a change does to one policy."""

    CREATED = "created"
    CONFIGURED = "configured"
    UNCHANGED = "unchanged"
    DELETED = "deleted"
    OFF = "off"
    ON = "on"


@dataclass(frozen=True, slots=True)
class Change:
    """What would be done and why: the policies before and after, what they compile to, and the plan.

    ``waiting`` names policies without a service on this host at present; ``off_before`` and ``off_after`` say what is
    switched off.
    """

    verb: str
    reason: str
    before: Mapping[str, StoredPolicy]
    after: Mapping[str, StoredPolicy]
    compiled: Compiled
    plan: tuple[Step, ...]
    off_before: Switches = ALL_ON
    off_after: Switches = ALL_ON

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
        if self.before[name] != self.after[name]:
            return Fate.CONFIGURED
        was_off, is_off = self.off_before.of_policy(name), self.off_after.of_policy(name)
        if bool(was_off) == bool(is_off):
            return Fate.UNCHANGED
        return Fate.OFF if is_off else Fate.ON

    @property
    def switched(self) -> tuple[tuple[Switched, Fate], ...]:
        """What is switched, and which way."""
        before = {switch.what for switch in self.off_before.off}
        after = {switch.what for switch in self.off_after.off}
        both = sorted(before ^ after, key=lambda what: (what.kind.value, what.name))
        return tuple((what, Fate.OFF if what in after else Fate.ON) for what in both)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do, neither to the policies and switches nor to the host."""
        same = self.before == self.after and self.off_before == self.off_after
        return same and not self.plan


@dataclass(frozen=True, slots=True)
class Applied:
    """A change that was made, and the generation it made: that in force before when there was nothing to do."""

    change: Change
    generation: int


Policies = Mapping[str, Policy]
