# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pliant.features.feature import HostFacts
from pliant.features.max_rto import check

if TYPE_CHECKING:
    from tests.features.conftest import Tune

pytestmark = pytest.mark.root

DEFAULT_MS = 120_000


def test_socket_has_the_upper_bound(tune: Tune, role: str, family: str) -> None:
    found = tune({"max_rto": "5s"}, role, family)
    assert found.state.rto_max_ms == 5000
    assert (found.peer.rto_max_ms, found.unmatched.rto_max_ms) == (DEFAULT_MS, DEFAULT_MS)


@pytest.mark.parametrize(("written", "milliseconds"), [("1s", 1000), ("120s", 120_000)])
def test_bounds_are_taken_by_the_kernel(tune: Tune, written: str, milliseconds: int) -> None:
    assert tune({"max_rto": written}, "server", "ipv6").state.rto_max_ms == milliseconds


def test_kernel_without_the_option_is_told_of_before_anything_changes() -> None:
    assert check(5_000_000, HostFacts(has_max_rto=True)) is None
    assert "Linux 6.15" in str(check(5_000_000, HostFacts(has_max_rto=False)))
