# SPDX-License-Identifier: Apache-2.0
"""The same packets and the same rules of nftables, through the plain kernel and the fast path; see search.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pliant.lab import PrivateMounts
from tests.oracle import search
from tests.oracle.case import COUNTING_CASES, FILTER_CASES, Case, kept_cases
from tests.oracle.extent import LONG, PACKETS, parts
from tests.oracle.filter_cases import cases
from tests.oracle.kind import COUNTING, FILTERING
from tests.oracle.pair import Pair

pytestmark = pytest.mark.root

PARTS = parts(PACKETS if LONG else PACKETS // 6)
COUNTING_PARTS = parts(PACKETS if LONG else PACKETS // 10)
EXPECTED = ("FORWARDED", "REFUSED", "DROPPED", "UNDECIDED", "CHANGING", "CONFIRMING", "FRAGMENT")


@pytest.fixture(scope="module")
def routers(mounts: PrivateMounts) -> Iterator[Pair]:
    del mounts
    yield from search.held(lambda: Pair(FILTERING))


@pytest.fixture(scope="module")
def counting_routers(mounts: PrivateMounts) -> Iterator[Pair]:
    del mounts
    yield from search.held(lambda: Pair(COUNTING))


@pytest.mark.parametrize("case", kept_cases(FILTER_CASES), ids=lambda case: case.says)
def test_what_once_differed_is_the_same(routers: Pair, case: Case) -> None:
    assert routers.try_case(case).differences == []


@pytest.mark.parametrize("packets", PARTS)
def test_random_cases_are_the_same(routers: Pair, packets: int) -> None:
    found = search.search(routers, cases(), FILTER_CASES, packets)
    assert found.packets > 0.8 * packets
    assert found.counted["FORWARDED"] > 0.05 * found.packets
    assert all(found.counted[reason] for reason in EXPECTED), found


@pytest.mark.parametrize("case", kept_cases(COUNTING_CASES), ids=lambda case: case.says)
def test_what_once_was_counted_differently_is_counted_the_same(counting_routers: Pair, case: Case) -> None:
    assert counting_routers.try_case(case).differences == []


@pytest.mark.parametrize("packets", COUNTING_PARTS)
def test_what_the_kernel_and_the_fast_path_count_for_rules_adds_up(
    counting_routers: Pair, packets: int
) -> None:
    """Of each rule the sum of both is what the kernel alone counts of the same packets."""
    found = search.search(counting_routers, cases(counts=True), COUNTING_CASES, packets)
    assert found.counted["FORWARDED"] > 0.05 * found.packets
    assert all(found.counted[reason] for reason in EXPECTED), found
