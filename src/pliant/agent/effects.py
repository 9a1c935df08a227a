# SPDX-License-Identifier: Apache-2.0
"""What each policy in force is worth on this host, so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pliant.agent.host import Host
from pliant.errors import PliantError
from pliant.features.layout import shipped_layout
from pliant.observe.effects import Effect, read_effects
from pliant.observe.lift import Comparison, compare
from pliant.policy.model import Policy


@dataclass(frozen=True, slots=True)
class PolicyEffect:
    """One policy that is measured: what was counted since this version of it came, and how its arms compare."""

    policy: Policy
    effect: Effect
    comparisons: tuple[Comparison, ...]


def policy_effects(host: Host, confidence: float, names: Sequence[str] = ()) -> list[PolicyEffect]:
    """The effect of every measured policy in force, or of those named, by name.

    Raises :class:`PliantError` for a name that is not in force, or whose policy holds nothing out.
    """
    policies = host.policies()
    for name in names:
        if name not in policies:
            raise PliantError(f"there is no policy '{name}'", remedy="'pliant get' lists those there are")
        if not policies[name].holdout_ppm:
            raise PliantError(
                f"the policy '{name}' holds no connections out, so there is nothing to compare with",
                remedy="set its spec.holdout, for example to 5%, and apply it",
            )
    chosen = [policies[name] for name in sorted(names or policies) if policies[name].holdout_ppm]
    stored = host.journal.policies(host.journal.current())
    numbers = {policy.name: stored[policy.name].number for policy in chosen}
    effects = read_effects(host.pins, shipped_layout().scope["effect"], numbers.values())
    found = [(policy, effects.get(numbers[policy.name], Effect())) for policy in chosen]
    return [PolicyEffect(policy, effect, compare(effect, confidence)) for policy, effect in found]
