# SPDX-License-Identifier: Apache-2.0
"""Two minutes of everything at random, under load."""

from __future__ import annotations

import os

import pytest

from pliant.lab import PrivateMounts
from pliant.soak.campaign import soak

pytestmark = pytest.mark.root

SECONDS = 120.0


def test_what_must_hold_holds_for_two_minutes(mounts: PrivateMounts) -> None:
    seed = int(os.environ.get("PLIANT_SEED", "1"))
    record = soak(mounts, seed, SECONDS, lambda line: None)
    happened = "\n".join(record.happened)
    assert not record.broken, f"seed {seed}: {record.broken}\n{happened}"
    assert record.counts, "nothing has happened"
