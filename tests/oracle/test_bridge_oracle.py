# SPDX-License-Identifier: Apache-2.0
"""The same frames and the same bridges, through the plain kernel and through the fast path; see search.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pliant.lab import PrivateMounts
from tests.oracle.bridge_cases import cases
from tests.oracle.case import BRIDGE_CASES, Case, kept_cases
from tests.oracle.extent import parts
from tests.oracle.kind import BRIDGING
from tests.oracle.router import PORTS
from tests.oracle.search import held, search
from tests.oracle.twins import Twins

EXPECTED = ("NOT_UNICAST", "NOT_CARRIED", "NOT_BRIDGED", "NO_STATION", "PORT_CLOSED", "TOO_BIG", "FORWARDED")

pytestmark = [pytest.mark.root, pytest.mark.long]


@pytest.fixture(scope="module")
def switches(mounts: PrivateMounts) -> Iterator[Twins]:
    del mounts
    yield from held(lambda: Twins("oracle-bridge", range(PORTS), BRIDGING))


@pytest.mark.parametrize("case", kept_cases(BRIDGE_CASES), ids=lambda case: case.says)
def test_what_once_differed_is_the_same(switches: Twins, case: Case) -> None:
    assert switches.try_case(case).differences == []


@pytest.mark.parametrize("packets", parts())
def test_random_cases_are_the_same(switches: Twins, packets: int) -> None:
    found = search(switches, cases(), BRIDGE_CASES, packets)
    assert found.packets > 0.9 * packets
    assert found.counted["FORWARDED"] > 0.1 * found.packets
    assert all(found.counted[reason] for reason in EXPECTED), found
