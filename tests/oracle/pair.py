# SPDX-License-Identifier: Apache-2.0
"""Twins for cases with policy rules and twins for those without.

The kernel never forgets that a namespace has had a rule or a local route of its own, and looks sources up more
thoroughly from then on: what a case without them finds must not depend on the cases before it.
"""

from __future__ import annotations

from tests.oracle.case import Case
from tests.oracle.filter_router import NFT
from tests.oracle.kind import ROUTING, Kind
from tests.oracle.router import PORTS
from tests.oracle.twins import Outcome, Twins


class Pair:
    """Both, made when they are first needed."""

    def __init__(self, kind: Kind = ROUTING) -> None:
        self._kind = kind
        self._twins: dict[bool, Twins] = {}

    def try_case(self, case: Case) -> Outcome:
        """Send a case's packets through the twins it needs."""
        commands = [*case.commands, *(change.command for change in case.changes)]
        is_custom = any((" rule " in c or " local " in c) and not c.startswith(NFT) for c in commands)
        if is_custom not in self._twins:
            exits = range(PORTS - 1 if is_custom else PORTS)  # one that takes no accelerated packets
            self._twins[is_custom] = Twins("oracle-rules" if is_custom else "oracle", exits, self._kind)
        return self._twins[is_custom].try_case(case)

    def counts(self) -> list[int]:
        """Packets of the fast paths by reason."""
        return [sum(counts) for counts in zip(*(t.counts() for t in self._twins.values()), strict=True)]

    def close(self) -> None:
        """Take them away, the last first: each puts back the processors it found."""
        for twins in reversed(self._twins.values()):
            twins.close()
