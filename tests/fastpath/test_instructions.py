# SPDX-License-Identifier: Apache-2.0
"""A program that has become longer is seen, whatever the machine is busy with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pliant.bench import Result, machine, run_bench

RECORD = Path(__file__).parents[2] / "docs/results/instructions.json"
TOLERANCES = {"size": 0.10, "verified": 0.25}
"""What a change may add without its record being renewed; the verifier's way depends on much."""


@pytest.mark.root
def test_no_program_has_become_longer_than_what_was_recorded() -> None:
    recorded = Result.from_document(json.loads(RECORD.read_text()))
    if _release(machine.kernel()) != _release(recorded.kernel):
        pytest.skip(f"unsupported: recorded on Linux {recorded.kernel}, whose verifier counts otherwise")
    before = {measure.metric: measure.median for measure in recorded.results}
    found = {measure.metric: measure.median for measure in run_bench("instructions", 1).results}
    renew = "if that is as it should be: pliant bench instructions --save"
    assert found.keys() == before.keys(), renew
    longer = {
        name: (before[name], n) for name, n in found.items() if n > before[name] * (1 + _tolerance(name))
    }
    assert not longer, f"more instructions than recorded (before, now): {longer}; {renew}"


def _tolerance(metric: str) -> float:
    return TOLERANCES[metric.rpartition("_")[2]]


def _release(kernel: str) -> list[str]:
    return kernel.split(".")[:2]
