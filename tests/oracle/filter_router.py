# SPDX-License-Identifier: Apache-2.0
"""One of two routers with rules of nftables, which are part of a case: commands that begin with ``nft``."""

from __future__ import annotations

from collections.abc import Iterable

from tests.oracle.router import Router

NFT = "nft "


class FilteringRouter(Router):
    """Its rules and what they have counted are part of what it holds."""

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
        """With what the rules have counted."""
        lines = self.host.run(["nft", "list", "ruleset"]).stdout.splitlines()
        return {*super().held(), *((str(number), line) for number, line in enumerate(lines))}
