# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from pliant.lab import Host as LabHost
from pliant.lab import Lab, PrivateMounts, TcpClient, TcpServer

if TYPE_CHECKING:
    from tests.conftest import MakePolicy, Pair, Pliant
    from tests.features.conftest import Captures, Ends, Tune

pytestmark = pytest.mark.root

DEFAULT = 10
HALF_ROUND_TRIP_S = 0.1

CONNECT_SLOWLY = """
import select, socket, sys
from pliant.lab.sockets import tcp_info
sock = socket.socket()
sock.setblocking(False)
sock.connect_ex((sys.argv[1], int(sys.argv[2])))
print("connecting", flush=True)
select.select([], [sock], [], 10)
print(tcp_info(sock)["snd_cwnd"], flush=True)
"""

CONNECT_TWICE = """
import socket, sys
from pliant.lab.sockets import tcp_info
sock = socket.socket()
assert sock.connect_ex((sys.argv[1], int(sys.argv[2]))) == 111, "nobody should listen there"
sock.connect((sys.argv[1], int(sys.argv[3])))
print(tcp_info(sock)["snd_cwnd"])
"""


def test_connection_starts_with_the_window(tune: Tune, role: str, family: str) -> None:
    found = tune({"initial_cwnd": 37}, role, family)
    assert found.state.snd_cwnd == 37
    assert (found.peer.snd_cwnd, found.unmatched.snd_cwnd) == (DEFAULT, DEFAULT)


@pytest.mark.parametrize("segments", [1, 1000])
def test_bounds_are_taken_by_the_kernel(tune: Tune, segments: int, role: str) -> None:
    assert tune({"initial_cwnd": segments}, role, "ipv6").state.snd_cwnd == segments


@pytest.fixture(scope="module")
def far(mounts: PrivateMounts) -> Iterator[tuple[LabHost, LabHost]]:
    """A server and a client with a round trip of 200 ms between them, where each packet counts."""
    with Lab("far") as lab:
        server, client = lab.host("server"), lab.host("client")
        lab.link(server, client, delay="100ms")
        yield server, client


def test_first_flight_has_that_many_segments(
    pliant: Pliant,
    pair: Pair,
    far: tuple[LabHost, LabHost],
    make_policy: MakePolicy,
    capture: Captures,
) -> None:
    server, client = far
    service = pair.service(server, "web.service")
    pliant.apply(
        make_policy("a", service, {"initial_cwnd": 40, "congestion_control": "cubic"}, localPorts=[80]),
        make_policy("b", service, {"congestion_control": "cubic"}, localPorts=[81]),
    )
    flights = {}
    listen = ["0.0.0.0:80", "0.0.0.0:81"]
    with TcpServer(server, listen, service="web.service", mode="send", send_bytes=150_000) as sender:
        for port in sender.ports:
            with TcpClient(client) as receiver, capture(client) as arrived:
                receiver.connect(server.address, port)
                receiver.receive(150_000)
                [state] = [s for s in sender.connections() if s.local_port == port]
                data = [packet for packet in arrived.packets() if packet.payload]
            first = [packet.payload for packet in data if packet.at < data[0].at + HALF_ROUND_TRIP_S]
            flights[port] = sum(first) / state.snd_mss
    assert flights == {80: 40, 81: DEFAULT}


def test_connecting_socket_gets_what_was_in_force_when_it_began(
    pliant: Pliant, pair: Pair, far: tuple[LabHost, LabHost], make_policy: MakePolicy
) -> None:
    server, client = far
    service = pair.service(client, "app.service")
    pliant.apply(make_policy("a", service, {"initial_cwnd": 33}))
    with TcpServer(server, ["0.0.0.0:80"]):
        process = client.spawn(
            [sys.executable, "-c", CONNECT_SLOWLY, server.address, "80"],
            service="app.service",
            stdout=subprocess.PIPE,
        )
        stdout = process.popen.stdout
        assert stdout is not None
        assert stdout.readline() == b"connecting\n"
        pliant.apply(make_policy("a", service, {"initial_cwnd": 44}))
        assert process.poll() is None
        assert stdout.readline() == b"33\n"
        process.stop()


def test_socket_that_connects_again_is_judged_again(
    pliant: Pliant, pair: Pair, ends: Ends, make_policy: MakePolicy
) -> None:
    service = pair.service(pair.client, "app.service")
    pliant.apply(
        make_policy("a", service, {"initial_cwnd": 33}, remotePorts=[7]),
        make_policy("b", service, {"initial_cwnd": 44}, remotePorts=[80]),
    )

    def windows(first: int, second: int) -> int:
        argv = [sys.executable, "-c", CONNECT_TWICE, pair.server.address, str(first), str(second)]
        return int(pair.client.run(argv, service="app.service").stdout)

    assert windows(7, 80) == 44
    assert windows(7, 82) == DEFAULT
    assert windows(9, 80) == 44
