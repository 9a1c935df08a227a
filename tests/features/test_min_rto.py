# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.features.conftest import Ends, Tune

pytestmark = pytest.mark.root

DEFAULT_US = 200_000
LONGEST_JIFFY_US = 10_000


def test_socket_has_the_lower_bound(tune: Tune, role: str, family: str) -> None:
    found = tune({"min_rto": "20ms"}, role, family)
    assert found.state.rto_min_us == 20_000
    assert (found.peer.rto_min_us, found.unmatched.rto_min_us) == (DEFAULT_US, DEFAULT_US)


@pytest.mark.parametrize("microseconds", [5_000, 200_000])
def test_bounds_are_taken_by_the_kernel(tune: Tune, microseconds: int, family: str) -> None:
    found = tune({"min_rto": f"{microseconds}us"}, "server", family).state.rto_min_us
    assert found is not None
    assert microseconds <= found < microseconds + LONGEST_JIFFY_US


def test_timeout_of_a_short_path_follows_the_bound(tune: Tune, ends: Ends) -> None:
    found = tune({"min_rto": "20ms"}, "client", "ipv4")
    for _ in range(10):
        ends.client.send(1000)
        ends.client.receive(1000)
    now = ends.now("ipv4")
    assert found.unmatched.rto_us >= DEFAULT_US
    assert 20_000 <= now["client"].rto_us < 100_000
    assert now["server"].rto_us >= DEFAULT_US
