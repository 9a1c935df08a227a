# SPDX-License-Identifier: Apache-2.0
"""The guards of policies in force: looked at from time to time, and what passes a limit is taken off.

A policy that was taken off is switched off like any other: it stays off until somebody says ``pliant on``, whatever is
applied, rolled back or restarted meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pliant.agent.guard import Breach, Watch
from pliant.agent.host import Host
from pliant.agent.lock import HostBusy
from pliant.agent.reconcile import Cause
from pliant.features.layout import shipped_layout
from pliant.observe.effects import Effect, read_effects
from pliant.policy.model import Policy

if TYPE_CHECKING:
    from pliant.agent.daemon.agent import Agent

ACTOR = "guard"
LOCK_TIMEOUT_S = 2.0  # the loop stands still meanwhile


@dataclass(frozen=True, slots=True)
class _Seen:
    """The guard of one version of a policy, and the last reading it was shown."""

    watch: Watch
    reading: Effect


class Guards:
    """Watches every policy with limits; :meth:`look` is called regularly."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._seen: dict[int, _Seen] = {}
        self._passed: dict[int, Breach] = {}

    def look(self) -> None:
        """Judge what has been measured, and take off what has passed a limit."""
        measured = self._agent.reconciler.measured()
        guarded = {number: policy for number, policy in measured.items() if policy.guard}
        if not guarded:
            self._seen.clear()
            self._passed.clear()
            return
        effects = read_effects(self._agent.host.pins, shipped_layout().scope["effect"], guarded)
        self._seen = {number: seen for number, seen in self._seen.items() if number in effects}
        self._passed = {number: breach for number, breach in self._passed.items() if number in effects}
        for number, reading in effects.items():
            self._judge(number, guarded[number], reading)
        for number, breach in tuple(self._passed.items()):
            if self._take_off(guarded[number], breach):
                del self._passed[number]

    def _judge(self, number: int, policy: Policy, reading: Effect) -> None:
        assert policy.guard
        seen = self._seen.get(number)
        if seen is None:
            watch = Watch.resumed(reading)
        elif reading.treated.connections < seen.reading.treated.connections:
            watch = Watch()  # it was off meanwhile, and counts anew
        else:
            watch = seen.watch
        watch, breach = watch.look(policy.guard, reading)
        self._seen[number] = _Seen(watch, reading)
        if breach:
            self._passed[number] = breach

    def _take_off(self, policy: Policy, breach: Breach) -> bool:
        """Switch a policy off and say so; False when somebody else is changing the host, and it must wait."""
        agent, reason = self._agent, f"guard: {breach}"
        try:
            with Host(agent.places, lock_timeout_s=LOCK_TIMEOUT_S, agent=True) as host, host.exclusively():
                in_force = host.policies().get(policy.name)
                if in_force != policy or host.switches().of_policy(policy.name):
                    return True  # somebody else has changed it, or taken it off
                change = host.change_to_off([policy.name], reason=reason, actor=ACTOR)
                applied = host.carry_out(change, actor=ACTOR)
        except HostBusy:
            return False
        agent.tell(
            "guard-tripped",
            f"{policy.name} is taken off and stays off until 'pliant on --policy {policy.name}': {breach}",
            policy=policy.name, generation=applied.generation, limit=breach.limit, allowed=breach.allowed,
            increase=breach.increase, treated=breach.treated, heldOut=breach.held_out,
            treatedCount=breach.treated_count, heldOutCount=breach.held_out_count,
        )  # fmt: skip
        agent.request(Cause.POLICIES)
        return True
