# SPDX-License-Identifier: Apache-2.0
"""A case that has come to need more instructions is told, and rounding is not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from executed_instructions import NAME, grown
from pliant.bench.bench import Sample
from pliant.bench.result import Result


def counted(kernel: str = "7.3", **cases: int) -> Result:
    samples = [Sample(name, "instructions per packet", value) for name, value in cases.items()]
    return Result.of(NAME, 1, samples, kernel=kernel, cpu="QEMU")


@pytest.mark.parametrize(
    ("before", "after", "complains"),
    [
        (200, 200, False),
        (200, 206, False),
        (200, 207, True),
        (200, 100, False),
        (30, 33, False),
        (30, 34, True),
    ],
)
def test_three_percent_more_and_more_than_is_rounded(before: int, after: int, complains: bool) -> None:
    said = list(grown(counted(route4=after), counted(route4=before)))
    assert len(said) == complains
    assert all(f"route4 needs {after} instructions a packet, {before} are recorded" in line for line in said)


def test_another_kernel_is_named_and_a_case_that_is_gone_too() -> None:
    recorded = counted(route4=100, left=40)
    said = list(grown(counted("7.4", route4=200), recorded))
    assert "(recorded on 7.3, counted on 7.4)" in said[0]
    assert said[1] == "left is recorded, and was not counted"
    assert not list(grown(counted(route4=100, left=40, bridge=1000), replace(recorded, kernel="7.2")))


def test_what_is_measured_elsewhere_says_where() -> None:
    found = counted(route4=1)
    assert (found.kernel, found.cpu, found.bench) == ("7.3", "QEMU", NAME)
