# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.features.conftest import MATCHED, OTHER

if TYPE_CHECKING:
    from tests.conftest import MakePolicy, Pair, Pliant
    from tests.features.conftest import Captures, Ends, Tune

pytestmark = pytest.mark.root

TIMESTAMPS = 12  # bytes of options in every segment, which the MSS includes


def test_client_offers_it_and_neither_end_sends_more(
    tune: Tune, pair: Pair, ends: Ends, capture: Captures, family: str
) -> None:
    with capture(pair.server) as at_server, capture(pair.client) as at_client:
        found = tune({"mss": 700}, "client", family)
        ends.client.send(50_000)
        ends.client.receive(50_000)
        sent = [p for p in at_server.packets() if p.source_port == found.state.local_port]
        received = [p for p in at_client.packets() if p.port == found.state.local_port]
    assert sent[0].mss == 700
    for packets in (sent, received):
        assert max(packet.payload for packet in packets) == 700 - TIMESTAMPS
    assert found.unmatched.snd_mss > 700


@pytest.mark.parametrize(("size", "offered"), [(88, 88), (32767, 1440)])
def test_bounds_are_taken_by_the_kernel(
    tune: Tune, pair: Pair, capture: Captures, size: int, offered: int
) -> None:
    with capture(pair.server) as arrived:
        port = tune({"mss": size}, "client", "ipv6").state.local_port
        [syn] = [p for p in arrived.packets() if p.is_syn and p.source_port == port]
    assert syn.mss == offered


def test_accepted_connection_keeps_its_own_and_is_counted_so(
    pliant: Pliant, ends: Ends, make_policy: MakePolicy
) -> None:
    other = ends.connect("ipv4", OTHER["ipv4"])["server"]
    pliant.apply(make_policy("a", tune={"mss": 700}, **ends.match("server")))
    assert ends.connect("ipv4", MATCHED["ipv4"])["server"].snd_mss == other.snd_mss
    outcomes = pliant.outcomes("mss")
    assert (outcomes.applied, outcomes.refused, outcomes.unchanged) == (0, 0, 1)
