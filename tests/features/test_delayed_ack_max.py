# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pliant.features.delayed_ack_max import check
from pliant.features.feature import HostFacts
from pliant.kernel.jiffies import jiffy_us

if TYPE_CHECKING:
    from tests.features.conftest import Tune

pytestmark = pytest.mark.root

DEFAULT_US = 200_000


def test_socket_has_the_longest_delay(tune: Tune, role: str, family: str) -> None:
    found = tune({"delayed_ack_max": "20ms"}, role, family)
    assert found.state.delack_max_us == 20_000
    assert (found.peer.delack_max_us, found.unmatched.delack_max_us) == (DEFAULT_US, DEFAULT_US)


@pytest.mark.parametrize("microseconds", [5_000, 200_000])
def test_bounds_are_taken_by_the_kernel(tune: Tune, microseconds: int) -> None:
    found = tune({"delayed_ack_max": f"{microseconds}us"}, "server", "ipv6").state.delack_max_us
    assert found is not None
    assert microseconds <= found < microseconds + jiffy_us()


def test_delay_that_is_shorter_than_two_ticks_is_refused() -> None:
    assert check(5_000, HostFacts(jiffy_us=4_000)) is None
    assert check(5_000, HostFacts(jiffy_us=10_000)) is not None
    assert check(10_001, HostFacts(jiffy_us=10_000)) is None
