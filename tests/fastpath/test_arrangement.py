# SPDX-License-Identifier: Apache-2.0
"""What a policy asks for is run with all that makes it right, or not at all."""

from __future__ import annotations

from itertools import combinations

import pytest

from pliant.fastpath.arrangement import asked_for
from pliant.fastpath.modules import Bridge, Filter, Module, Nat, Route, Track
from pliant.policy.fastpath import MODULES, Wish

MAC = "02:00:00:00:00:01"
PLAIN: tuple[Module, ...] = (Route(4, MAC), Route(6, MAC))
FILTERED: tuple[Module, ...] = (Route(4, MAC), Filter(4, rows=3), Route(6, MAC))
TRACKED: tuple[Module, ...] = (Route(4, MAC), Filter(4, rows=3, tracks=True), Track(4), Nat(4))


def names(there: tuple[Module, ...], *wanted: str) -> list[str]:
    wish = Wish("p", 100, 1, ("*",), frozenset(wanted) if wanted else None, "auto")
    return [module.name for module in asked_for(there, wish)]


@pytest.mark.parametrize(
    ("there", "wanted", "run"),
    [
        (PLAIN, (), ["route4", "route6"]),
        (PLAIN, ("route",), ["route4", "route6"]),
        (PLAIN, ("bridge",), []),
        (FILTERED, (), ["route4", "filter4", "route6"]),
        (FILTERED, ("route",), ["route6"]),
        (FILTERED, ("route", "filter"), ["route4", "filter4", "route6"]),
        (FILTERED, ("filter",), []),
        (TRACKED, (), ["route4", "filter4", "track4", "nat4"]),
        (TRACKED, ("route",), []),
        (TRACKED, ("route", "filter"), ["route4", "filter4", "track4"]),
        (TRACKED, ("route", "filter", "nat"), ["route4", "filter4", "track4", "nat4"]),
        (TRACKED, ("nat",), []),
        ((Route(4, MAC), Track(4), Nat(4)), ("nat",), []),
        ((Route(4, MAC), Track(4), Nat(4)), ("route",), ["route4", "track4"]),
        ((Bridge(3, MAC, 30_000),), ("bridge",), ["bridge"]),
    ],
)
def test_only_what_is_right_without_the_rest(
    there: tuple[Module, ...], wanted: tuple[str, ...], run: list[str]
) -> None:
    assert names(there, *wanted) == run


def test_routing_never_comes_without_the_rules_and_connections_that_decide_there() -> None:
    chosen = [c for size in range(1, len(MODULES) + 1) for c in combinations(MODULES, size)]
    for there in (FILTERED, TRACKED):
        for wanted in chosen:
            run = set(names(there, *wanted))
            if "route4" in run:
                assert {"filter4"} <= run
                assert ("track4" in run) == (there is TRACKED)
