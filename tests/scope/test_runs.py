# SPDX-License-Identifier: Apache-2.0
"""How often programs run while a connection carries data: not for packets, and at most once for a round trip."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from pliant.features import features, hooked
from pliant.features.feature import Callback
from pliant.kernel.programs import Program
from pliant.kernel.run_time import run_time_statistics
from pliant.lab import Lab, TcpClient, TcpServer
from pliant.observe.pin_tree import PROGRAM_PIN
from tests.conftest import Pair

if TYPE_CHECKING:
    from pathlib import Path

    from pliant.lab import PrivateMounts, SocketState
    from tests.conftest import MakePolicy, Pliant

pytestmark = pytest.mark.root

SEGMENTS = 10_000  # in each direction, at least
SEGMENT_BYTES = 1448  # of data, at most
ROUND_TRIP_S = 0.01
EACH_ROUND_TRIP = frozenset(n for n, f in features().items() if Callback.RTT in f.callbacks) - hooked()


@pytest.fixture(scope="module")
def far(mounts: PrivateMounts) -> Iterator[Pair]:
    """Two hosts, 10 ms apart."""
    with Lab("runs") as lab:
        server, client = lab.host("server"), lab.host("client")
        lab.link(server, client, delay="5ms", offloads=True)
        yield Pair(lab, server, client)


def runs(pins: Path) -> dict[str, int]:
    """How often each program has run; those that scope calls count as scope."""
    found = {}
    for pin in pins.rglob("*"):
        if PROGRAM_PIN.fullmatch(pin.name):
            with Program.pinned(pin) as program:
                found[f"{pin.parent.name}/{pin.name.partition('_')[0]}"] = program.run_time().runs
    return found


def state_of(end: TcpServer | TcpClient) -> SocketState:
    [state] = end.connections()
    return state


def test_programs_run_for_the_connection_and_its_round_trips_and_never_for_its_packets(
    pliant: Pliant, far: Pair, make_policy: MakePolicy
) -> None:
    """All features but those about packets are won: for new connections at one end, for open ones at the other."""
    tune = {name: f.option.example for name, f in features().items() if name not in hooked()}
    tune["min_rto"] = "200ms"  # a machine that is slow for a moment is no reason to retransmit
    served, opened = far.service(far.server, "web.service"), far.service(far.client, "app.service")
    pliant.apply(
        make_policy("server", served, tune, role="server"),
        make_policy("client", opened, tune, role="client", apply_to="live"),
    )
    with (
        run_time_statistics(),
        TcpServer(far.server, service="web.service") as server,
        TcpClient(far.client, service="app.service") as client,
    ):
        client.connect(far.server.address, server.port)
        client.exchange(1)
        assert pliant.arms("server") == pliant.arms("client") == (1, 0)
        before, sent = runs(pliant.places.pins), [state_of(end).info for end in (server, client)]
        assert before["scope/program"] >= 2
        client.exchange(SEGMENTS * SEGMENT_BYTES)
        after, now = runs(pliant.places.pins), [state_of(end).info for end in (server, client)]
    for one, other in zip(sent, now, strict=True):
        assert other["data_segs_out"] - one["data_segs_out"] >= SEGMENTS
    more = {name: count - before[name] for name, count in after.items() if count != before[name]}
    round_trips = sum(info["busy_time"] for info in now) / 1e6 / ROUND_TRIP_S  # while data was on its way
    retransmissions = sum(
        info["total_retrans"] for info in now
    )  # flow_rehash runs for them, and for timeouts
    assert more.keys() <= {"scope/program"}
    assert more.get("scope/program", 0) <= (round_trips if EACH_ROUND_TRIP else 0) + 2 * retransmissions
    assert more or not EACH_ROUND_TRIP
