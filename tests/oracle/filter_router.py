# SPDX-License-Identifier: Apache-2.0
"""One of two routers with rules of nftables, which are part of a case: commands that begin with ``nft``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from pliant.kernel.nftables_counts import RuleCounter, read_counters
from pliant.kernel.packet_counts import Counted
from tests.oracle.router import Router

NFT = "nft "


class FilteringRouter(Router):
    """Its rules and what they have counted are part of what it holds.

    ``counted_elsewhere`` is what the fast path has counted in their place.
    """

    counted_elsewhere: Callable[[], Mapping[RuleCounter, Counted]] = dict

    def _clear(self) -> str:
        self.host.run(["nft", "flush", "ruleset"])
        return super()._clear()

    def apply(self, commands: Iterable[str]) -> str:
        """As of any router; and all of nftables' commands at once."""
        commands = list(commands)
        mine = [command.removeprefix(NFT) for command in commands if command.startswith(NFT)]
        refused = super().apply(c for c in commands if not c.startswith(NFT))
        if mine:
            refused += self.host.run(["nft", "-f", "-"], given="\n".join(mine) + "\n", check=False).stderr
        return refused

    def held(self) -> set[tuple[str, ...]]:
        """With what the rules have counted, and the fast path in their place."""
        lines = self.host.run(["nft", "-s", "list", "ruleset"]).stdout.splitlines()
        elsewhere = self.counted_elsewhere()
        with self.host.inside():
            kernels = read_counters()
        sums = {counter: one.plus(elsewhere.get(counter, Counted())) for counter, one in kernels.items()}
        return {
            *super().held(),
            *((str(number), line) for number, line in enumerate(lines)),
            *(
                (c.family, c.table, c.chain, f"{c.handle}.{c.place}", str(tuple(one)))
                for c, one in sums.items()
            ),
        }
