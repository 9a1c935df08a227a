# SPDX-License-Identifier: Apache-2.0
"""Decides whether a policy has passed one of the limits its guard sets. Pure: readings in, a decision out.

The connections that the policy treats are held against those it holds out. A limit has been passed when what is known
for certain of the difference lies beyond it: the bounds of both arms (:mod:`pliant.observe.bounds`) leave no other
explanation, but for a stated probability of error.

Looking often must not make a false alarm likely. A look is taken when the smaller arm has grown by a quarter since the
one before, and from 50 connections on. The k-th look of the e-th epoch may err with a probability of
``ERROR / (k (k + 1) e (e + 1))``, shared by the limits. These add up to ``ERROR``: of a hundred policies that keep to
their limits, at most one is ever taken off by mistake, however long they are watched.

Evidence is begun anew after 10,000 connections (an epoch): a policy that was harmless for a month is then judged by
what it does now.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, field, replace

from pliant.observe.bounds import mean_at_least, mean_at_most, quantile_at_least, quantile_at_most
from pliant.observe.effects import ArmEffect, Effect, Metric
from pliant.policy.guard import Guard

ERROR = 0.01
FIRST_LOOK = 50
GROWTH = 1.25
EPOCH_CONNECTIONS = 10_000
MEDIAN = 0.5
PPM = 1_000_000


@dataclass(frozen=True, slots=True)
class Breach:
    """A limit that was passed.

    ``limit`` is the field of the guard; ``allowed`` what it allows, ``increase`` what is certain, ``treated`` and
    ``held_out`` what was measured of how many connections; all shares, but for the times in µs and their increase,
    which is a share of the held-out time.
    """

    limit: str
    allowed: float
    increase: float
    treated: float
    held_out: float
    treated_count: int
    held_out_count: int

    def __str__(self) -> str:
        if self.limit == "completionTime":
            values = (
                f"a median of {self.treated / 1000:.4g} ms against {self.held_out / 1000:.4g} ms held out"
            )
            certain, allowed = f"{100 * self.increase:.3g}% longer", f"{100 * self.allowed:.3g}%"
        else:
            values = f"{self.treated:.2%} against {self.held_out:.2%} held out"
            certain, allowed = f"{100 * self.increase:.2g}pp more", f"{100 * self.allowed:.3g}pp"
        counts = f"{self.treated_count:,} treated and {self.held_out_count:,} held-out connections"
        return f"{self.limit}: {values}, over {counts}: at least {certain}, where {allowed} is the limit"


@dataclass(frozen=True, slots=True)
class Watch:
    """What the guard of one version of one policy has seen: where its epoch began and how often it has looked."""

    since: Effect = field(default_factory=Effect)
    epoch: int = 1
    looks: int = 0

    @classmethod
    def resumed(cls, reading: Effect) -> Watch:
        """A watch for a policy that was watched before, by a process that is gone: as if every look had been taken."""
        size = _size(reading)
        return cls(epoch=1 + size // EPOCH_CONNECTIONS, looks=_looks_due(size))

    def look(self, guard: Guard, reading: Effect) -> tuple[Watch, Breach | None]:
        """Judge a reading, when a look is due; the watch for the next one, and the limit that was passed, if any."""
        window = reading.since(self.since)
        size = _size(window)
        if _looks_due(size) <= self.looks:
            return self, None
        looks = self.looks + 1
        error = ERROR / (looks * (looks + 1) * self.epoch * (self.epoch + 1))
        breach = judge(guard, window, error)
        if size >= EPOCH_CONNECTIONS:
            return Watch(reading, self.epoch + 1), breach
        return replace(self, looks=_looks_due(size)), breach


def judge(guard: Guard, effect: Effect, error: float) -> Breach | None:
    """The first limit that was passed for certain, but for a probability of ``error`` over all limits."""
    limits = guard.limits
    for name, allowed_ppm in limits.items():
        with contextlib.suppress(ArithmeticError, ValueError):  # what cannot have been counted proves nothing
            breach = _CHECKS[name](effect, allowed_ppm / PPM, error / len(limits) / 2)
            if breach:
                return breach
    return None


def _completion_time(effect: Effect, allowed: float, error: float) -> Breach | None:
    treated, held_out = (arm[Metric.COMPLETION_TIME] for arm in effect)
    least, most = quantile_at_least(treated, MEDIAN, error), quantile_at_most(held_out, MEDIAN, error)
    if not math.isfinite(most) or least <= most * (1 + allowed):
        return None
    return Breach(
        "completionTime",
        allowed,
        least / most - 1 if most else math.inf,
        treated.quantile(MEDIAN),
        held_out.quantile(MEDIAN),
        treated.count,
        held_out.count,
    )


def _retransmission_ratio(effect: Effect, allowed: float, error: float) -> Breach | None:
    treated, held_out = (arm[Metric.RETRANSMISSION_RATIO] for arm in effect)
    first, second = (min(sample.mean / PPM, 1.0) if sample.count else 0.0 for sample in (treated, held_out))
    return _shares("retransmissionRatio", allowed, error, first, second, treated.count, held_out.count)


def _connection_failures(effect: Effect, allowed: float, error: float) -> Breach | None:
    treated, held_out = effect
    return _shares(
        "connectionFailures",
        allowed,
        error,
        _failing(treated),
        _failing(held_out),
        treated.connections,
        held_out.connections,
    )


def _failing(arm: ArmEffect) -> float:
    return min(arm.failures / arm.connections, 1.0) if arm.connections else 0.0


def _shares(
    limit: str, allowed: float, error: float, treated: float, held_out: float, count: int, held_out_count: int
) -> Breach | None:
    least, most = mean_at_least(treated, count, error), mean_at_most(held_out, held_out_count, error)
    if least - most <= allowed:
        return None
    return Breach(limit, allowed, least - most, treated, held_out, count, held_out_count)


_CHECKS = {
    "completionTime": _completion_time,
    "retransmissionRatio": _retransmission_ratio,
    "connectionFailures": _connection_failures,
}


def _size(effect: Effect) -> int:
    """The connections of the smaller arm that something is known of."""
    return min(arm[Metric.BYTES].count + arm.failures for arm in effect)


def _looks_due(size: int) -> int:
    """How many looks a sample of this size has had if none was missed."""
    if size < FIRST_LOOK:
        return 0
    return 1 + math.floor(math.log(size / FIRST_LOOK) / math.log(GROWTH) + 1e-9)
