# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.features.conftest import Ends, Tune

pytestmark = pytest.mark.root

CUBIC = {"congestion_control": "cubic"}  # BBR takes no notice of ssthresh, and writes its own
INFINITE_SSTHRESH = 0x7FFFFFFF
BULK = 4_000_000


def test_socket_has_the_clamp(tune: Tune, role: str, family: str) -> None:
    found = tune(CUBIC | {"cwnd_clamp": 4}, role, family)
    # The kernel forgets the ssthresh of a connecting socket as its handshake ends, and begins at the clamp.
    if role == "client":
        assert found.state.snd_cwnd == 4
    else:
        assert found.state.snd_ssthresh == 4
    for untouched in (found.peer, found.unmatched):
        assert (untouched.snd_cwnd, untouched.snd_ssthresh) == (10, INFINITE_SSTHRESH)


@pytest.mark.parametrize("segments", [2, 1_000_000])
def test_bounds_are_taken_by_the_kernel(tune: Tune, segments: int) -> None:
    assert tune(CUBIC | {"cwnd_clamp": segments}, "server", "ipv6").state.snd_ssthresh == segments


def test_window_never_passes_the_clamp(tune: Tune, ends: Ends) -> None:
    tune({"cwnd_clamp": 12}, "client", "ipv4")
    ends.client.send(BULK)
    ends.client.receive(BULK)
    now = ends.now("ipv4")
    assert now["client"].snd_cwnd == 12
    assert now["server"].snd_cwnd > 12


def test_connecting_socket_begins_at_the_clamp_and_an_accepted_one_falls_to_it(
    tune: Tune, ends: Ends, role: str
) -> None:
    found = tune({"cwnd_clamp": 4}, role, "ipv4")
    assert found.state.snd_cwnd == (4 if role == "client" else 10)
    ends.client.send(BULK)
    ends.client.receive(BULK)
    assert ends.now("ipv4")[role].snd_cwnd == 4
