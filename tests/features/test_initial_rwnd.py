# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Pair
    from tests.features.conftest import Captures, Ends, Tune

pytestmark = pytest.mark.root

TIMESTAMPS = 12  # bytes of options in every segment, which the MSS includes
MOST_UNSCALED = 65535


def test_syn_of_a_client_offers_that_many_segments(
    tune: Tune, pair: Pair, capture: Captures, family: str
) -> None:
    with capture(pair.server) as arrived:
        found = tune({"initial_rwnd": 7}, "client", family)
        packets = arrived.packets()
    [syn] = [p for p in packets if p.is_syn and p.source_port == found.state.local_port]
    assert syn.mss is not None
    assert syn.window == 7 * syn.mss
    [other] = [p for p in packets if p.is_syn and p.source_port == found.unmatched.local_port]
    assert other.window > 60_000


def test_syn_ack_of_a_server_offers_that_many_segments(
    tune: Tune, pair: Pair, capture: Captures, family: str
) -> None:
    with capture(pair.client) as arrived:
        found = tune({"initial_rwnd": 7}, "server", family)
        packets = arrived.packets()
    [syn] = [p for p in packets if p.is_syn and p.port == found.state.remote_port]
    assert syn.mss is not None
    assert syn.window == 7 * (syn.mss - TIMESTAMPS)
    [other] = [p for p in packets if p.is_syn and p.port == found.unmatched.remote_port]
    assert other.window > 60_000


@pytest.mark.parametrize("segments", [1, 1000])
def test_bounds_are_taken_by_the_kernel(
    tune: Tune, pair: Pair, ends: Ends, capture: Captures, segments: int
) -> None:
    with capture(pair.client) as arrived:
        found = tune({"initial_rwnd": segments}, "server", "ipv6")
        ends.client.send(1)
        ends.client.receive(1)
        syn_ack, answer, *_ = (p for p in arrived.packets() if p.port == found.state.remote_port)
    assert syn_ack.mss is not None
    assert syn_ack.scale is not None
    wanted = segments * (syn_ack.mss - TIMESTAMPS)
    assert syn_ack.window == min(wanted, MOST_UNSCALED)
    step = 1 << syn_ack.scale
    # A window is rounded up to its scale, and shrinks by what has come in.
    assert wanted - 1 <= answer.window * step <= wanted + step
