# SPDX-License-Identifier: Apache-2.0
"""One look at a host: its policies, services, open connections and arms at one moment. Nothing is changed."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from pliant.agent.connections import AT_MOST, Judge, OptionState, Seen, connections
from pliant.agent.host import Host
from pliant.agent.places import Places
from pliant.agent.status import PolicyStatus, ServiceStatus, policy_statuses, service_statuses
from pliant.errors import PliantError
from pliant.features.layout import shipped_layout
from pliant.observe.connections import Survey
from pliant.observe.counters import Arms
from pliant.observe.effects import Effect, Metric, read_effects
from pliant.observe.lift import Comparison, compare

DRIFT_EVERY_S = 10.0
"""How often the kernel is held against the journal: that compiles all policies."""


class Rates(NamedTuple):
    """Connections a second in each arm since the look before; None at the first one."""

    treated: float | None
    held_out: float | None


@dataclass(frozen=True, slots=True)
class PolicyLine:
    """A policy in force; ``winning`` counts the open connections, of those read, on which it has won an option."""

    status: PolicyStatus
    rates: Rates
    winning: int


@dataclass(frozen=True, slots=True)
class ServiceLine:
    """A service with a policy or a program; ``connections`` counts the open ones of those read."""

    status: ServiceStatus
    connections: int


@dataclass(frozen=True, slots=True)
class ArmLine:
    """One comparison of a policy's arms."""

    policy: str
    comparison: Comparison


@dataclass(frozen=True, slots=True)
class Frame:
    """One look at a host.

    ``at`` is in seconds since the epoch; ``drift`` says by how many steps the kernel differs from the journal, None
    where that cannot be told; ``problems`` are sentences on what could not be read.
    """

    at: float
    took_s: float
    hostname: str
    generation: int
    policies: tuple[PolicyLine, ...]
    services: tuple[ServiceLine, ...]
    connections: tuple[Seen, ...]
    survey: Survey
    arms: tuple[ArmLine, ...]
    drift: int | None
    problems: tuple[str, ...] = ()


class Watch:
    """Looks at a host again and again, and remembers what rates are worked out from."""

    def __init__(self, places: Places, *, at_most: int = AT_MOST) -> None:
        self.places = places
        self.at_most = at_most
        self._judge: Judge | None = None
        self._before: tuple[float, Mapping[int, Arms]] | None = None
        self._drift: tuple[float, int, int | None] = (-DRIFT_EVERY_S, -1, None)
        self._arms: dict[int, tuple[tuple[int, int], tuple[ArmLine, ...]]] = {}

    def look(self) -> Frame:
        """Look once. Raises :class:`PliantError` where nothing at all can be read."""
        started = time.monotonic()
        with Host(self.places) as host:  # opened anew: a journal belongs to the thread that opened it
            generation = host.journal.current()
            if self._judge is None or (self._judge.generation, self._judge.off) != (
                generation,
                host.switches(),
            ):
                self._judge = Judge(host)
            problems: list[str] = []
            statuses = policy_statuses(host)
            seen, survey = connections(host, self._judge, at_most=self.at_most)
            services = self._services(host, seen)
            arms = self._compared(host, statuses)
            drift = self._drifted(host, generation, problems)
        now = time.monotonic()
        winning = Counter(name for one in seen for name in one.winners)
        return Frame(
            at=time.time(),
            took_s=now - started,
            hostname=socket.gethostname(),
            generation=generation,
            policies=self._lines(now, statuses, winning),
            services=services,
            connections=tuple(seen),
            survey=survey,
            arms=arms,
            drift=drift,
            problems=tuple(problems),
        )

    def judged_whole(self, seen: Seen) -> Seen:
        """A connection that was seen, with why the policies that do not match it do not."""
        return self._judge(seen.connection, whole=True) if self._judge else seen

    def options(self, seen: Seen) -> list[OptionState]:
        """What the kernel shows of each option won on a connection that was seen."""
        return self._judge.options(seen) if self._judge else []

    def _lines(
        self, now: float, statuses: list[PolicyStatus], winning: Mapping[str, int]
    ) -> tuple[PolicyLine, ...]:
        before, self._before = self._before, (now, {s.number: s.arms for s in statuses})
        return tuple(
            PolicyLine(status, _rates(status, now, before), winning.get(status.policy.name, 0))
            for status in statuses
        )

    def _services(self, host: Host, seen: list[Seen]) -> tuple[ServiceLine, ...]:
        held = Counter(one.connection.cgroup for one in seen)
        return tuple(
            ServiceLine(status, held[status.cgroup])
            for status in service_statuses(host)
            if status.policies or status.programs
        )

    def _drifted(self, host: Host, generation: int, problems: list[str]) -> int | None:
        at, of, drift = self._drift
        if of == generation and time.monotonic() - at < DRIFT_EVERY_S:
            return drift
        try:
            drift = len(host.drift())
        except PliantError as error:
            problems.append(error.message)
            drift = None
        self._drift = (time.monotonic(), generation, drift)
        return drift

    def _compared(self, host: Host, statuses: list[PolicyStatus]) -> tuple[ArmLine, ...]:
        """The arms' comparisons, worked out anew for policies of which more has been measured."""
        effects = _effects(host)
        known, self._arms = self._arms, {}
        for status in statuses:
            effect = effects.get(status.number)
            if effect is None:
                continue
            counts = effect.treated.connections, effect.held_out.connections
            held = known.get(status.number)
            lines = held[1] if held and held[0] == counts else _arm_lines(status.policy.name, effect)
            self._arms[status.number] = counts, lines
        return tuple(line for _, lines in self._arms.values() for line in lines)


def _arm_lines(policy: str, effect: Effect) -> tuple[ArmLine, ...]:
    return tuple(
        ArmLine(policy, comparison)
        for comparison in compare(effect)
        if comparison.question.statistic in ("p50", "share")
        or comparison.question.metric == Metric.RETRANSMISSION_RATIO.label
    )


def _rates(status: PolicyStatus, now: float, before: tuple[float, Mapping[int, Arms]] | None) -> Rates:
    if before is None or status.number not in before[1]:
        return Rates(None, None)
    past, elapsed = before[1][status.number], max(now - before[0], 1e-3)
    return Rates(
        max(status.arms.treated - past.treated, 0) / elapsed,
        max(status.arms.held_out - past.held_out, 0) / elapsed,
    )


def _effects(host: Host) -> dict[int, Effect]:
    return read_effects(host.pins, shipped_layout().scope["effect"])
