# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Eventually, Pair
    from tests.features.conftest import Captures, Packet, Tune

pytestmark = pytest.mark.root

DEFAULT_S = 7200


def test_socket_probes_after_that_time(tune: Tune, role: str, family: str) -> None:
    found = tune({"keepalive": "30s"}, role, family)
    assert (found.state.keepalive, found.state.keepidle_s) == (True, 30)
    for untouched in (found.peer, found.unmatched):
        assert (untouched.keepalive, untouched.keepidle_s) == (False, DEFAULT_S)


@pytest.mark.parametrize(("written", "seconds"), [("1s", 1), ("1500ms", 2), ("32767s", 32767)])
def test_bounds_are_taken_by_the_kernel_and_part_of_a_second_counts(
    tune: Tune, written: str, seconds: int
) -> None:
    assert tune({"keepalive": written}, "server", "ipv6").state.keepidle_s == seconds


def test_probe_comes_after_the_time(
    tune: Tune, pair: Pair, capture: Captures, eventually: Eventually
) -> None:
    with capture(pair.server) as arrived:
        port = tune({"keepalive": "1s"}, "client", "ipv4").state.local_port
        packets: list[Packet] = []

        def has_probed() -> bool:
            packets.extend(p for p in arrived.packets() if p.source_port == port)
            return packets[-1].at - packets[0].at > 0.5

        eventually(has_probed)
    assert not packets[-1].payload
    assert packets[-1].at - packets[-2].at >= 0.99
