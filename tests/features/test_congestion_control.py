# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pliant.errors import PliantError
from pliant.kernel.congestion_controls import congestion_controls

if TYPE_CHECKING:
    from tests.conftest import MakePolicy, Pair, Pliant
    from tests.features.conftest import Ends, Tune

pytestmark = pytest.mark.root


def other_than(default: str) -> str:
    return min(congestion_controls() - {default})


def test_connection_runs_the_algorithm(tune: Tune, pair: Pair, role: str, family: str) -> None:
    default = pair.server.sysctl("net.ipv4.tcp_congestion_control")
    chosen = other_than(default)
    found = tune({"congestion_control": chosen}, role, family)
    assert found.state.congestion_control == chosen
    assert (found.peer.congestion_control, found.unmatched.congestion_control) == (default, default)


@pytest.mark.parametrize("chosen", sorted(congestion_controls()))
def test_every_algorithm_the_kernel_offers_can_be_chosen_and_carries_data(
    tune: Tune, ends: Ends, chosen: str
) -> None:
    found = tune({"congestion_control": chosen}, "client", "ipv4")
    ends.client.send(100_000)
    ends.client.receive(100_000)
    assert found.state.congestion_control == chosen


def test_algorithm_the_kernel_lacks_is_refused_before_anything_changes(
    pliant: Pliant, pair: Pair, make_policy: MakePolicy
) -> None:
    service = pair.service(pair.server, "web.service")
    with pytest.raises(PliantError, match=r"has no congestion control 'warp'; it has .*cubic"):
        pliant.apply(make_policy("a", service, {"congestion_control": "warp"}))
    assert pliant.listing() == {}
