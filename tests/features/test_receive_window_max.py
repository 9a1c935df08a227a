# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from pliant.errors import PliantError
from pliant.features.feature import HostFacts
from pliant.features.receive_window_max import check
from pliant.kernel import sysctls
from pliant.lab import Host as LabHost
from pliant.lab import Lab, PrivateMounts, TcpClient, TcpServer

if TYPE_CHECKING:
    from tests.conftest import Eventually, MakePolicy, Pair, Pliant
    from tests.features.conftest import Captures, Ends, Tune

pytestmark = pytest.mark.root

KIB, MIB = 1 << 10, 1 << 20
BULK = 20_000_000
SMALLEST_SHARE = 0.3  # of a receive buffer, that the kernel offers as window

SET_OWN_BUFFER = """
import socket, sys
sock = socket.socket()
sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, int(sys.argv[3]))
sock.connect((sys.argv[1], int(sys.argv[2])))
print(sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF))
"""


def test_window_is_below_the_limit(tune: Tune, role: str, family: str) -> None:
    found = tune({"receive_window_max": "48KiB"}, role, family)
    assert found.state.rcvbuf == 48 * KIB
    assert found.state.window_clamp <= 48 * KIB
    for untouched in (found.peer, found.unmatched):
        assert untouched.rcvbuf > 48 * KIB
        assert untouched.window_clamp > 48 * KIB


@dataclass(frozen=True)
class Path:
    """Two hosts with a round trip of 4 ms between them."""

    server: LabHost
    client: LabHost

    def transfer(self, role: str, family: str, capture: Captures, eventually: Eventually) -> list[int]:
        """Send ``BULK`` bytes towards a role, in a new connection; the windows it offered, in bytes."""
        address = self.server.address if family == "ipv4" else self.server.address6
        is_upload = role == "server"
        with (
            TcpServer(
                self.server,
                ["[::]:80"],
                service="web.service",
                mode="sink" if is_upload else "send",
                send_bytes=0 if is_upload else BULK,
            ) as server,
            TcpClient(self.client, service="app.service") as client,
            capture(self.client if is_upload else self.server) as arrived,
        ):
            client.connect(address, 80)
            if is_upload:
                client.send(BULK)
                eventually(lambda: server.received_bytes() == BULK)
            else:
                client.receive(BULK)
            packets = arrived.packets()
        scale = next(packet.scale for packet in packets if packet.is_syn) or 0
        return [packet.window << (0 if packet.is_syn else scale) for packet in packets]


@pytest.fixture(scope="module")
def path(mounts: PrivateMounts) -> Iterator[Path]:
    with Lab("delayed") as lab:
        made = Path(lab.host("server"), lab.host("client"))
        lab.link(made.server, made.client, delay="2ms", offloads=True)
        yield made


def test_window_stays_below_the_limit_throughout_a_bulk_transfer(
    pliant: Pliant,
    pair: Pair,
    path: Path,
    make_policy: MakePolicy,
    capture: Captures,
    eventually: Eventually,
    role: str,
) -> None:
    host, name = (path.server, "web.service") if role == "server" else (path.client, "app.service")
    pliant.apply(make_policy("a", pair.service(host, name), {"receive_window_max": "256KiB"}, role=role))
    windows = path.transfer(role, "ipv4", capture, eventually)
    assert len(windows) > 100
    assert max(windows) <= 256 * KIB
    assert max(windows) >= SMALLEST_SHARE * 256 * KIB


def test_window_grows_far_beyond_that_without_a_policy(
    path: Path, capture: Captures, eventually: Eventually, role: str
) -> None:
    assert max(path.transfer(role, "ipv6", capture, eventually)) > MIB


@pytest.mark.parametrize("bound", ["lowest", "highest"])
def test_bounds_are_taken_by_the_kernel_and_carry_data(tune: Tune, ends: Ends, bound: str, role: str) -> None:
    limit = 4 * KIB if bound == "lowest" else min(1024 * MIB, 2 * int(sysctls.read("net.core.rmem_max")))
    found = tune({"receive_window_max": limit}, role, "ipv4")
    ends.client.send(50_000)
    ends.client.receive(50_000)
    assert found.state.rcvbuf == limit


def test_syn_of_a_client_offers_no_more_than_the_limit(
    tune: Tune, pair: Pair, ends: Ends, capture: Captures, family: str
) -> None:
    with capture(pair.server) as arrived:
        port = tune({"receive_window_max": "16KiB"}, "client", family).state.local_port
        [syn] = [packet for packet in arrived.packets() if packet.is_syn and packet.source_port == port]
    assert 0 < syn.window <= 16 * KIB


def test_smaller_buffer_of_the_application_is_left_alone(
    pliant: Pliant, pair: Pair, ends: Ends, make_policy: MakePolicy
) -> None:
    pliant.apply(make_policy("a", tune={"receive_window_max": "256KiB"}, **ends.match("client")))

    def buffer(asked: int) -> int:
        argv = [sys.executable, "-c", SET_OWN_BUFFER, pair.server.address, "80", str(asked)]
        return int(pair.client.run(argv, service="app.service").stdout)

    assert buffer(32 * KIB) == 64 * KIB
    assert pliant.outcomes("receive_window_max").unchanged == 1
    assert buffer(1 * MIB) == 256 * KIB
    assert pliant.outcomes("receive_window_max").applied == 1


def test_limit_beyond_what_the_host_gives_is_refused_with_the_sysctl_to_raise(
    pliant: Pliant, pair: Pair, ends: Ends, make_policy: MakePolicy
) -> None:
    with pytest.raises(PliantError, match=r"at most .* of receive buffer, 1GiB needs net\.core\.rmem_max"):
        pliant.apply(make_policy("a", tune={"receive_window_max": "1GiB"}, **ends.match("client")))
    assert pliant.listing() == {}


def test_limit_that_needs_all_the_host_gives_is_accepted() -> None:
    facts = HostFacts(rmem_max=1000)
    assert check(2000, facts) is None
    assert check(2001, facts) is not None
    assert check(1 << 40, HostFacts()) is None
