# SPDX-License-Identifier: Apache-2.0
"""The same packets of the same connections, through the plain kernel and through the fast path; see search.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pliant.lab import PrivateMounts
from tests.oracle import search
from tests.oracle.case import NAT_CASES, Case, kept_cases
from tests.oracle.extent import LONG, PACKETS, parts
from tests.oracle.kind import NATTING
from tests.oracle.nat_cases import cases
from tests.oracle.router import PORTS
from tests.oracle.twins import Twins

PARTS = parts(PACKETS if LONG else PACKETS // 4)
EXPECTED = (
    *("FORWARDED", "UNTRACKED", "SIGNALLING", "BAD_CHECKSUM"),
    *("MALFORMED", "FRAGMENT", "NO_ROUTE", "CONFIRMING"),
)

pytestmark = [pytest.mark.root, pytest.mark.long]


@pytest.fixture(scope="module")
def routers(mounts: PrivateMounts) -> Iterator[Twins]:
    del mounts
    yield from search.held(lambda: Twins("oracle-nat", range(PORTS), NATTING))


@pytest.mark.parametrize("case", kept_cases(NAT_CASES), ids=lambda case: case.says)
def test_what_once_differed_is_the_same(routers: Twins, case: Case) -> None:
    assert routers.try_case(case).differences == []


@pytest.mark.parametrize("packets", PARTS)
def test_random_cases_are_the_same(routers: Twins, packets: int) -> None:
    found = search.search(routers, cases(), NAT_CASES, packets)
    assert found.packets > 0.7 * packets
    assert found.counted["FORWARDED"] > 0.1 * found.packets
    assert all(found.counted[reason] for reason in EXPECTED), found
