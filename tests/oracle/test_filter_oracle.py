# SPDX-License-Identifier: Apache-2.0
"""The same packets and the same rules of nftables, through the plain kernel and the fast path; see test_oracle.py."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from pliant.lab import PrivateMounts
from tests.oracle.case import FILTER_CASES, Case, keep, kept_cases
from tests.oracle.filter_cases import cases
from tests.oracle.kind import FILTERING
from tests.oracle.pair import Pair
from tests.oracle.smaller import smallest
from tests.oracle.test_oracle import LONG, PACKETS_OF_A_CASE, reasons
from tests.oracle.test_oracle import PACKETS as ALL_PACKETS

pytestmark = pytest.mark.root

PACKETS = ALL_PACKETS if LONG else ALL_PACKETS // 6
EXPECTED = (
    "FORWARDED",
    "REFUSED",
    "DROPPED",
    "UNDECIDED",
    "CHANGING",
    "CONFIRMING",
    "FRAGMENT",
)


@pytest.fixture(scope="module")
def routers(mounts: PrivateMounts) -> Iterator[Pair]:
    del mounts
    allowed = os.sched_getaffinity(0)
    pair = Pair(FILTERING)
    yield pair
    pair.close()
    assert os.sched_getaffinity(0) == allowed


@pytest.mark.parametrize("case", kept_cases(FILTER_CASES), ids=lambda case: case.says)
def test_what_once_differed_is_the_same(routers: Pair, case: Case) -> None:
    assert routers.try_case(case).differences == []


def test_random_cases_are_the_same(routers: Pair) -> None:
    @settings(
        max_examples=-(-PACKETS // PACKETS_OF_A_CASE),
        deadline=None,
        database=None,
        derandomize=not LONG,
        print_blob=False,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(cases())
    def run(case: Case) -> None:
        outcome = routers.try_case(case)
        if outcome.differences:
            _report(routers, case, outcome.differences)

    run()
    counted = dict(zip(reasons(), routers.counts(), strict=True))
    sys.stdout.write(f"{routers.packets} packets, {routers.cases} cases; fast path: {counted}\n")
    assert routers.packets > 0.8 * PACKETS
    assert counted["FORWARDED"] > 0.05 * routers.packets
    assert all(counted[reason] for reason in EXPECTED), counted


def _report(routers: Pair, case: Case, found: list[str]) -> None:
    """Fail with the smallest case, which is kept."""
    small = smallest(case, lambda tried: bool(routers.try_case(tried).differences))
    again = routers.try_case(small).differences
    if again:
        keep(replace(small, says=again[0]), FILTER_CASES)
    what = again or ["this was seen once, and not again:", *found]
    pytest.fail("\n".join([*what, small.to_json()]), pytrace=False)
