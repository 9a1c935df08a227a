# SPDX-License-Identifier: Apache-2.0
"""What all oracles have in common: random cases, the smallest that differs, and what the fast path did with packets."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy

from tests.oracle.case import Case, keep
from tests.oracle.extent import LONG, PACKETS_OF_A_CASE
from tests.oracle.smaller import smallest
from tests.oracle.twins import Outcome

_HEADER = Path(__file__).parents[2] / "bpf/include/pliant/fastpath/port.h"


class Devices(Protocol):
    """Some with the fast path and some without, which the same is done to."""

    def try_case(self, case: Case) -> Outcome:
        """Send a case's packets through all of them."""

    def counts(self) -> list[int]:
        """Packets of the fast paths by reason."""

    def close(self) -> None:
        """Take them away."""


D = TypeVar("D", bound=Devices)


class Found(NamedTuple):
    """What was sent, and what the fast path has counted: packets by ``enum reason``."""

    packets: int
    counted: Mapping[str, int]


def held(make: Callable[[], D]) -> Iterator[D]:
    """For a fixture: closed at its end, when this process may run where it could before."""
    allowed = os.sched_getaffinity(0)
    devices = make()
    yield devices
    devices.close()
    assert os.sched_getaffinity(0) == allowed


def search(devices: Devices, cases: SearchStrategy[Case], kept: Path, packets: int) -> Found:
    """Try random cases of about so many packets; fail with the smallest that differs, which is kept.

    What differed once, and not again, ends the search only when it is over.
    """
    sent = tried = 0
    once: list[str] = []

    @settings(
        max_examples=-(-packets // PACKETS_OF_A_CASE),
        deadline=None,
        database=None,
        derandomize=not LONG,
        print_blob=False,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(cases)
    def run(case: Case) -> None:
        nonlocal sent, tried
        outcome = devices.try_case(case)
        sent, tried = sent + outcome.packets, tried + 1
        if outcome.differences:
            once.extend(_report(devices, case, outcome.differences, kept))

    run()
    counted = dict(zip(reasons(), devices.counts(), strict=True))
    sys.stdout.write(f"{sent} packets, {tried} cases; fast path: {counted}\n")
    if once:
        pytest.fail("\n".join(once), pytrace=False)
    return Found(sent, counted)


def _report(devices: Devices, case: Case, differences: list[str], kept: Path) -> list[str]:
    """Fail with the smallest case, which is kept; or say what was seen, where it is not seen again."""
    small = smallest(case, lambda tried: bool(devices.try_case(tried).differences))
    again = devices.try_case(small).differences
    if not again:
        return ["this was seen once, and not again:", *differences, case.to_json()]
    keep(replace(small, says=again[0]), kept)
    pytest.fail("\n".join([*again, small.to_json()]), pytrace=False)


def reasons() -> list[str]:
    """What ``enum reason`` names."""
    [names] = re.findall(r"^enum reason \{(.*?)^\};", _HEADER.read_text(), re.M | re.S)
    return re.findall(r"^\s+([A-Z_]+),", names, re.M)[:-1]
