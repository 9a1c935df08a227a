# SPDX-License-Identifier: Apache-2.0
"""The same packets and the same configuration, through the plain kernel and through the fast path; see search.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import strategies as st

from pliant.lab import PrivateMounts
from tests.oracle.case import CASES, Case, kept_cases
from tests.oracle.configurations import changes, configurations
from tests.oracle.extent import frame_counts, parts
from tests.oracle.packets import frames
from tests.oracle.pair import Pair
from tests.oracle.search import held, search

FEWEST_FRAMES, MOST_FRAMES = 26, 32
EXPECTED = frozenset(
    {"FORWARDED", "NOT_OURS", "NOT_IP", "MALFORMED", "OPTIONS", "EXPIRING", "MARTIAN", "FRAGMENT", "QUOTING"}
    | {"NO_ROUTE", "NO_NEIGHBOUR", "TOO_BIG", "SAME_WAY_BACK", "REVERSE_PATH", "NO_PORT", "CONFIRMING"}
)
"""What a router without connections, bridges and rules meets: all of it has to come up."""

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def routers(mounts: PrivateMounts) -> Iterator[Pair]:
    del mounts
    yield from held(Pair)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    made = draw(configurations())
    count = draw(frame_counts(FEWEST_FRAMES, MOST_FRAMES))
    sent = tuple(draw(frames(number)) for number in range(1, count + 1))
    return Case(made.commands, made.sysctls, sent, draw(changes(made)))


@pytest.mark.parametrize("case", kept_cases(CASES), ids=lambda case: case.says)
def test_what_once_differed_is_the_same(routers: Pair, case: Case) -> None:
    assert routers.try_case(case).differences == []


@pytest.mark.parametrize("packets", parts())
def test_random_cases_are_the_same(routers: Pair, packets: int) -> None:
    found = search(routers, cases(), CASES, packets)
    assert found.packets > 0.9 * packets
    assert found.counted["FORWARDED"] > 0.1 * found.packets, (
        "too little takes the fast path to say anything of it"
    )
    assert all(found.counted[reason] for reason in EXPECTED), f"some reasons have not come up: {found}"
