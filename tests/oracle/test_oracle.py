# SPDX-License-Identifier: Apache-2.0
"""The same packets and the same configuration, through the plain kernel and through the fast path.

``PLIANT_ORACLE_PACKETS`` makes it a long run, of other cases each time; without it the cases are always the same.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pliant.lab import PrivateMounts
from tests.oracle.case import Case, keep, kept_cases
from tests.oracle.configurations import changes, configurations
from tests.oracle.packets import frames
from tests.oracle.pair import Pair
from tests.oracle.smaller import smallest

LONG = os.environ.get("PLIANT_ORACLE_PACKETS")
PACKETS = int(LONG or "20000")
PACKETS_OF_A_CASE = 100
FEWEST_FRAMES, MOST_FRAMES = 26, 32
EXPECTED = frozenset(
    {"FORWARDED", "NOT_OURS", "NOT_IP", "MALFORMED", "OPTIONS", "EXPIRING", "MARTIAN", "FRAGMENT", "QUOTING"}
    | {"NO_ROUTE", "NO_NEIGHBOUR", "TOO_BIG", "SAME_WAY_BACK", "REVERSE_PATH", "NO_PORT", "CONFIRMING"}
)
"""What a router without connections, bridges and rules meets: all of it has to come up."""
HEADER = Path(__file__).parents[2] / "bpf/include/pliant/fastpath/port.h"


pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def routers(mounts: PrivateMounts) -> Iterator[Pair]:
    del mounts
    allowed = os.sched_getaffinity(0)
    pair = Pair()
    yield pair
    pair.close()
    assert os.sched_getaffinity(0) == allowed


@st.composite
def cases(draw: st.DrawFn) -> Case:
    made = draw(configurations())
    count = draw(st.integers(FEWEST_FRAMES, MOST_FRAMES))
    sent = tuple(draw(frames(number)) for number in range(1, count + 1))
    return Case(made.commands, made.sysctls, sent, draw(changes(made)))


@pytest.mark.parametrize("case", kept_cases(), ids=lambda case: case.says)
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
    assert routers.packets > 0.9 * PACKETS
    assert counted["FORWARDED"] > 0.1 * routers.packets, (
        "too little takes the fast path to say anything of it"
    )
    assert all(counted[reason] for reason in EXPECTED), f"some reasons have not come up: {counted}"


def _report(routers: Pair, case: Case, found: list[str]) -> None:
    """Fail with the smallest case, which is kept."""
    small = smallest(case, lambda tried: bool(routers.try_case(tried).differences))
    again = routers.try_case(small).differences
    if again:
        keep(replace(small, says=again[0]))
    what = again or ["this was seen once, and not again:", *found]
    pytest.fail("\n".join([*what, small.to_json()]), pytrace=False)


def reasons() -> list[str]:
    """What ``enum reason`` names."""
    [names] = re.findall(r"^enum reason \{(.*?)^\};", HEADER.read_text(), re.M | re.S)
    return re.findall(r"^\s+([A-Z_]+),", names, re.M)[:-1]
