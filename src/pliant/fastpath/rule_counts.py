# SPDX-License-Identifier: Apache-2.0
"""What rules of nftables have counted: the kernel the packets that it has seen, the fast path those that it has not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pliant.kernel.nftables_counts import RuleCounter, read_counters
from pliant.observe.fastpath import Counted, FastpathPins
from pliant.observe.rule_counters import read_counted

_NOTHING = Counted(0, 0)


class RuleCount(NamedTuple):
    """One counter; ``fastpath`` is None where the fast path does not count for it: what comes there is the kernel's."""

    counter: RuleCounter
    kernel: Counted
    fastpath: Counted | None

    @property
    def sum(self) -> Counted:
        """Every packet once."""
        return self.kernel.plus(self.fastpath or _NOTHING)


def read_rule_counts(pins: FastpathPins) -> list[RuleCount]:
    """Every counter in the rules of the calling thread's network namespace, in the order in which the kernel has them.

    Those of the kernel are read after ours: a packet may be in neither yet, and is in none twice.
    """
    ours = read_own_counts(pins)
    kernels = {counter: Counted(*counted) for counter, counted in read_counters().items()}
    return [RuleCount(counter, counted, ours.get(counter)) for counter, counted in kernels.items()]


def read_own_counts(pins: FastpathPins) -> Mapping[RuleCounter, Counted]:
    """What the fast path has counted, of the counters that it counts for."""
    return {counter: Counted(*counted) for counter, counted in read_counted(pins.tables).items()}
