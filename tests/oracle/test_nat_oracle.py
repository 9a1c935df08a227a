# SPDX-License-Identifier: Apache-2.0
"""The same packets of the same connections, through the plain kernel and through the fast path; see test_oracle.py."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from pliant.lab import PrivateMounts
from tests.oracle.case import NAT_CASES, Case, keep, kept_cases
from tests.oracle.kind import NATTING
from tests.oracle.nat_cases import cases
from tests.oracle.router import PORTS
from tests.oracle.smaller import smallest
from tests.oracle.test_oracle import LONG, PACKETS_OF_A_CASE, reasons
from tests.oracle.test_oracle import PACKETS as ALL_PACKETS
from tests.oracle.twins import Twins

PACKETS = ALL_PACKETS if LONG else ALL_PACKETS // 4
EXPECTED = (
    "FORWARDED",
    "UNTRACKED",
    "SIGNALLING",
    "BAD_CHECKSUM",
    "MALFORMED",
    "FRAGMENT",
    "NO_ROUTE",
    "CONFIRMING",
)

pytestmark = [pytest.mark.root, pytest.mark.long]


@pytest.fixture(scope="module")
def routers(mounts: PrivateMounts) -> Iterator[Twins]:
    del mounts
    allowed = os.sched_getaffinity(0)
    twins = Twins("oracle-nat", range(PORTS), NATTING)
    yield twins
    twins.close()
    assert os.sched_getaffinity(0) == allowed


@pytest.mark.parametrize("case", kept_cases(NAT_CASES), ids=lambda case: case.says)
def test_what_once_differed_is_the_same(routers: Twins, case: Case) -> None:
    assert routers.try_case(case).differences == []


def test_random_cases_are_the_same(routers: Twins) -> None:
    packets = 0

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
        nonlocal packets
        outcome = routers.try_case(case)
        packets += outcome.packets
        if outcome.differences:
            _report(routers, case, outcome.differences)

    run()
    counted = dict(zip(reasons(), routers.fastpath.counts(), strict=True))
    sys.stdout.write(f"{packets} frames; fast path: {counted}\n")
    assert packets > 0.7 * PACKETS
    assert counted["FORWARDED"] > 0.1 * packets
    assert all(counted[reason] for reason in EXPECTED), counted


def _report(routers: Twins, case: Case, found: list[str]) -> None:
    """Fail with the smallest case, which is kept."""
    small = smallest(case, lambda tried: bool(routers.try_case(tried).differences))
    again = routers.try_case(small).differences
    if again:
        keep(replace(small, says=again[0]), NAT_CASES)
    what = again or ["this was seen once, and not again:", *found]
    pytest.fail("\n".join([*what, small.to_json()]), pytrace=False)
