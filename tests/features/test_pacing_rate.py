# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.features.conftest import Ends, Tune

pytestmark = pytest.mark.root

NO_LIMIT = 2**64 - 1


def test_socket_has_the_limit(tune: Tune, role: str, family: str) -> None:
    found = tune({"pacing_rate": "80Mbit"}, role, family)
    assert found.state.max_pacing_rate == 10_000_000
    assert found.state.pacing_rate <= 10_000_000
    assert (found.peer.max_pacing_rate, found.unmatched.max_pacing_rate) == (NO_LIMIT, NO_LIMIT)


@pytest.mark.parametrize(("written", "bytes_per_second"), [("8kbit", 1000), ("34Gbit", 4_250_000_000)])
def test_bounds_are_taken_by_the_kernel(tune: Tune, written: str, bytes_per_second: int, role: str) -> None:
    assert tune({"pacing_rate": written}, role, "ipv6").state.max_pacing_rate == bytes_per_second


def test_transfer_is_no_faster_than_the_limit_and_not_much_slower(tune: Tune, ends: Ends) -> None:
    tune({"pacing_rate": "80Mbit"}, "client", "ipv4")

    def seconds(size: int) -> float:
        before, start = ends.server.received_bytes(), time.monotonic()
        ends.client.send(size)
        ends.eventually(lambda: ends.server.received_bytes() - before >= size)
        return time.monotonic() - start

    paced = seconds(4_000_000)
    assert 0.36 <= paced <= 0.8  # 0.4 s at 10 MB/s
    ends.connect("ipv4", 82)
    assert seconds(4_000_000) < 0.3
