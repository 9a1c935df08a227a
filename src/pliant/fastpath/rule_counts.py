# SPDX-License-Identifier: Apache-2.0
"""What rules of nftables have counted: the kernel the packets that it has seen, the fast path those that it has not."""

from __future__ import annotations

from typing import NamedTuple

from pliant.kernel.nftables_counts import RuleCounter, read_counters
from pliant.kernel.packet_counts import Counted
from pliant.observe.fastpath import FastpathPins
from pliant.observe.rule_counters import read_counted


class RuleCount(NamedTuple):
    """One counter; ``fastpath`` is None where the fast path does not count for it: what comes there is the kernel's."""

    counter: RuleCounter
    kernel: Counted
    fastpath: Counted | None

    @property
    def sum(self) -> Counted:
        """Every packet once."""
        return self.kernel.plus(self.fastpath or Counted())


def read_rule_counts(pins: FastpathPins) -> list[RuleCount]:
    """Every counter in the rules of the calling thread's network namespace, in the order in which the kernel has them.

    Those of the kernel are read after ours: a packet may be in neither yet, and is in none twice.
    """
    ours = read_counted(pins.tables, pins.other_tables())
    return [RuleCount(counter, counted, ours.get(counter)) for counter, counted in read_counters().items()]
