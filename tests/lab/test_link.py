# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable

import pytest

from pliant.errors import PliantError
from pliant.lab import Host, Lab, TcpClient, TcpServer, ping

pytestmark = pytest.mark.root

Eventually = Callable[[Callable[[], bool]], None]

MILLISECOND = 1e-3


def datagrams(host: Host, address: str, count: int, size: int, tos: int = 0) -> None:
    with host.inside(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
        for _ in range(count):
            sock.sendto(bytes(size), (address, 9))


@pytest.mark.parametrize(
    ("setting", "medium"),
    [({}, "veth"), ({"delay": "1ms", "medium": "relay"}, "relay")],
    ids=["veth", "relay"],
)
@pytest.mark.parametrize("offloads", [False, True])
def test_both_families_are_reachable(
    lab: Lab, server: Host, client: Host, setting: dict[str, str], medium: str, offloads: bool
) -> None:
    link = lab.link(server, client, offloads=offloads, **setting)  # type: ignore[arg-type] # only texts in it
    assert link.medium.kind == medium
    assert link.address_of(server) == server.address != client.address
    for address in (server.address, server.address6):
        assert ping(client, address, count=2)
        endpoint = f"[{address}]:0" if ":" in address else f"{address}:0"
        with TcpServer(server, [endpoint]) as echo, TcpClient(client) as tcp:
            tcp.connect(address, echo.port)
            tcp.send(300_000)
            tcp.receive(300_000)
    assert link.statistics().overruns == 0


def test_round_trip_takes_twice_the_delay(lab: Lab, server: Host, client: Host) -> None:
    lab.link(server, client, delay="15ms", medium="relay")
    times = sorted(ping(client, server.address, count=10))
    assert times[0] >= 30 * MILLISECOND
    assert times[len(times) // 2] < 40 * MILLISECOND


def test_jitter_spreads_the_delay(lab: Lab, server: Host, client: Host) -> None:
    lab.link(server, client, delay="10ms", jitter="5ms")
    times = ping(client, server.address, count=20)
    assert min(times) >= 10 * MILLISECOND
    assert max(times) - min(times) > 2 * MILLISECOND


def test_rate_is_kept(lab: Lab, server: Host, client: Host) -> None:
    lab.link(server, client, rate="20Mbit", delay="1ms", medium="relay")
    with TcpServer(server, mode="sink") as sink, TcpClient(client) as source:
        source.connect(server.address, sink.port)
        started = time.monotonic()
        source.send(1_250_000)
        while sink.received_bytes() < 1_250_000:
            pass
        took = time.monotonic() - started
    assert 0.5 < took < 1.0


def test_losses_are_those_of_the_seed(lab: Lab, server: Host, client: Host, eventually: Eventually) -> None:
    link = lab.link(client, server, delay="1ms", loss="10%", seed=7, medium="relay")
    datagrams(client, server.address, 500, 10)

    def all_decided() -> bool:
        counts = link.statistics(toward=server)
        return counts.forwarded + counts.lost == 500

    eventually(all_decided)
    rng = random.Random("7/0")
    assert link.statistics(toward=server).lost == sum(rng.random() < 0.1 for _ in range(500))


def test_full_queue_drops_the_tail(lab: Lab, server: Host, client: Host, eventually: Eventually) -> None:
    link = lab.link(client, server, rate="1Mbit", queue="10 packets", medium="relay")
    datagrams(client, server.address, 60, 1000)  # each takes 8 ms to send
    eventually(lambda: sum((link.statistics(server).forwarded, link.statistics(server).dropped)) == 60)
    assert 10 <= link.statistics(server).forwarded <= 20


def test_capable_packets_are_marked_above_the_threshold_and_arrive(
    lab: Lab, server: Host, client: Host, eventually: Eventually
) -> None:
    link = lab.link(client, server, rate="2Mbit", mark_above="5 packets", medium="relay")
    with server.inside():
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with receiver:
        receiver.settimeout(5)
        receiver.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
        receiver.bind((server.address, 9))
        datagrams(client, server.address, 20, 1000, tos=2)
        fields = [receiver.recvmsg(2000, 64)[1][0][2][0] & 3 for _ in range(20)]
        assert fields[:5] == [2] * 5
        marked = fields.count(3)
        assert marked >= 5
        eventually(lambda: link.statistics(server).marked == marked)
        datagrams(client, server.address, 20, 1000)
        assert [receiver.recvmsg(2000, 64)[1][0][2][0] for _ in range(20)] == [0] * 20
        assert link.statistics(server).marked == marked


def test_change_takes_effect_and_one_way_only_where_asked(lab: Lab, server: Host, client: Host) -> None:
    link = lab.link(server, client, delay="1ms", medium="relay")
    assert min(ping(client, server.address, count=3)) < 15 * MILLISECOND
    link.change(delay="10ms")
    assert min(ping(client, server.address, count=3)) >= 20 * MILLISECOND
    link.change(delay="1ms", toward=server)
    assert 11 * MILLISECOND <= min(ping(client, server.address, count=3)) < 20 * MILLISECOND
    link.change(loss="100%", toward=server)
    with pytest.raises(PliantError, match="answered none"):
        ping(client, server.address, count=1, timeout_s=0.2)


def test_direct_link_refuses_to_change(lab: Lab, server: Host, client: Host) -> None:
    with pytest.raises(PliantError, match="direct link"):
        lab.link(server, client).change(loss="1%")


def test_idle_link_carries_nothing(lab: Lab, server: Host, client: Host) -> None:
    link = lab.link(server, client, delay="1ms", medium="relay")
    assert link.statistics().forwarded == 0


def test_thousands_of_peer_addresses_share_a_link(lab: Lab, server: Host, client: Host) -> None:
    lab.link(server, client)
    client.add_address(*(f"10.2.{i // 250}.{i % 250 + 1}/32" for i in range(2000)), "fd00:2::4/128")
    client.add_prefix("10.9.0.0/16", "fd00:9::/48")
    with TcpServer(server, ["[::]:0"]) as echo, TcpClient(client) as tcp:
        for source in ("10.2.0.1", "10.2.7.250", "10.9.200.3", "fd00:2::4", "fd00:9::77"):
            tcp.connect(server.address6 if ":" in source else server.address, echo.port, source=source)
        tcp.send(10)
        tcp.receive(10)
        peers = [state.remote.removeprefix("::ffff:") for state in echo.connections()]
    assert peers == ["10.2.0.1", "10.2.7.250", "10.9.200.3", "fd00:2::4", "fd00:9::77"]


def test_prefixes_added_before_the_link_are_routed_too(lab: Lab, server: Host, client: Host) -> None:
    client.add_prefix("10.9.0.0/16")
    lab.link(server, client)
    assert ping(server, "10.9.1.2", count=1)


def test_several_links_of_a_host_have_their_own_addresses(lab: Lab, server: Host, client: Host) -> None:
    other = lab.host("other")
    links = [lab.link(server, client), lab.link(server, other), lab.link(server, client)]
    assert len({link.interface_of(server) for link in links}) == 3
    assert ping(other, links[1].address_of(server), count=1)
    assert ping(client, links[2].address_of(server), count=1)
    with pytest.raises(PliantError, match="other is not on the link between server and client"):
        links[0].address_of(other)
