# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import pytest

from pliant.demo.inventory import Comparison, Inventory, ProgramIdentity

HOOK = ("/nginx.service", "sock_ops")
THEIRS, OURS = ProgramIdentity("theirs", "aa", ()), ProgramIdentity("scope", "bb", (7,))
BEFORE = Inventory({1: THEIRS}, frozenset({3}), {HOOK: (1,)}, {10: 1}, ())
DURING = Inventory({1: THEIRS, 2: OURS}, frozenset({3, 7}), {HOOK: (1, 2)}, {10: 1, 11: 2}, ("scope",))


def test_host_is_as_it_was() -> None:
    comparison = Comparison(BEFORE, DURING, BEFORE)
    assert comparison.differences() == []
    assert comparison.rows() == [
        (1, "theirs", HOOK, (True, True, True)),
        (2, "scope", HOOK, (False, True, False)),
    ]


def test_called_programs_are_listed_behind_their_caller_and_must_go_with_it() -> None:
    feature = ProgramIdentity("initial_cwnd", "cc", (8,))
    during = replace(
        DURING,
        programs={**DURING.programs, 4: feature},
        maps=DURING.maps | {8},
        calls={1: (), 2: (4,)},
    )
    called = ("/nginx.service", "called by scope")
    assert Comparison(BEFORE, during, BEFORE).rows()[1:] == [
        (2, "scope", HOOK, (False, True, False)),
        (4, "initial_cwnd", called, (False, True, False)),
    ]
    after = replace(BEFORE, programs={1: THEIRS, 4: feature}, maps=frozenset({3, 8}))
    assert Comparison(BEFORE, during, after).differences() == [
        "programs are still loaded: 4",
        "maps are still there: 8",
    ]


def test_programs_and_maps_of_others_elsewhere_may_come_meanwhile() -> None:
    after = replace(BEFORE, programs={1: THEIRS, 9: OURS}, maps=frozenset({3, 99}))
    assert Comparison(BEFORE, DURING, after).differences() == []


@pytest.mark.parametrize(
    ("after", "says"),
    [
        (replace(BEFORE, programs={1: THEIRS, 2: OURS}), "programs are still loaded: 2"),
        (replace(BEFORE, maps=frozenset({3, 7})), "maps are still there: 7"),
        (replace(BEFORE, attachments={}), "the programs at the cgroups' hooks"),
        (replace(BEFORE, links={12: 1}), "the links are not as they were"),
        (replace(BEFORE, pins=("scope",)), "the pins are not as they were: scope"),
        (replace(BEFORE, programs={1: OURS}), "program 1 is not the one it was"),
    ],
)
def test_whatever_is_left_or_lost_is_named(after: Inventory, says: str) -> None:
    (difference,) = Comparison(BEFORE, DURING, after).differences()
    assert difference.startswith(says)
