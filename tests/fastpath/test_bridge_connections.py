# SPDX-License-Identifier: Apache-2.0
"""Connections over a bridge whose ports have the fast path: all the way from facts to programs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from pliant.bench.acceleration import Acceleration
from pliant.fastpath.objects import counted_reasons
from pliant.lab import Host, Lab, PrivateMounts, TcpClient, TcpServer
from pliant.lab.interface import switch_aggregation
from pliant.lab.packets import interface
from pliant.observe.fastpath import Mode, Port, read_counts

pytestmark = pytest.mark.root

SIZE = 200_000
ADDRESSES = ("10.77.0.1", "10.77.0.2")


@dataclass(frozen=True)
class Bridged:
    """Two stations, and a host between them that bridges the interfaces ``ports``."""

    left: Host
    right: Host
    switch: Host
    ports: tuple[str, str]
    mode: Mode
    accelerated: Acceleration

    def counted(self, name: str) -> dict[str, int]:
        """Bytes by what became of them."""
        port = Port(interface(self.switch, name).number, self.mode)
        counts = read_counts(self.accelerated.pins, port)
        return {counted_reasons()[number]: count.bytes for number, count in enumerate(counts)}

    def known(self) -> set[str]:
        """Stations that have been learnt."""
        shown = json.loads(self.switch.run(["bridge", "-j", "fdb", "show", "br", "br0"]).stdout)
        return {entry["mac"] for entry in shown if entry.get("state") != "permanent"}


def bridged(lab: Lab, *, offloads: bool, mode: Mode = Mode.NATIVE) -> Bridged:
    left, switch, right = lab.host("left"), lab.host("switch"), lab.host("right")
    links = [lab.link(station, switch, offloads=offloads) for station in (left, right)]
    switch.ip("link add br0 type bridge", "link set br0 up")
    for station, link, address in zip((left, right), links, ADDRESSES, strict=True):
        switch.ip(f"link set {link.interface_of(switch)} master br0")
        station.ip(f"address add {address}/24 dev {link.interface_of(station)}")
        with station.inside():
            switch_aggregation(link.interface_of(station), on=True)
    one, other = (link.interface_of(switch) for link in links)
    return Bridged(left, right, switch, (one, other), mode, Acceleration(switch, [one, other], mode=mode))


@pytest.fixture
def plain(mounts: PrivateMounts) -> Iterator[Bridged]:
    del mounts
    with Lab("bridged") as lab:
        yield bridged(lab, offloads=False)


def exchange(client: TcpClient, size: int) -> None:
    client.send(size)
    client.receive(size)


WAYS = (
    # checksums left to hardware, mode, what becomes of most of it
    (False, Mode.NATIVE, "forwarded"),
    (True, Mode.NATIVE, "unfinished"),
    (False, Mode.GENERIC, "forwarded"),
    (True, Mode.GENERIC, "too big"),
)


@pytest.mark.parametrize(("offloads", "mode", "becomes"), WAYS)
def test_a_connection_goes_over_the_bridge(
    mounts: PrivateMounts, offloads: bool, mode: Mode, becomes: str
) -> None:
    del mounts
    with Lab("bridged") as lab:
        network = bridged(lab, offloads=offloads, mode=mode)
        with TcpServer(network.right, ["[::]:80"]) as server, TcpClient(network.left) as client:
            client.connect(ADDRESSES[1], server.port)
            with network.accelerated.on():
                exchange(client, SIZE)
                found = [network.counted(name) for name in network.ports]
    assert all(counted[becomes] > SIZE * 0.9 for counted in found)


def test_stations_do_not_age_while_their_frames_are_accelerated(plain: Bridged) -> None:
    plain.switch.ip("link set br0 type bridge ageing_time 100")  # hundredths of a second
    stations = {
        interface(host, host.links[0].interface_of(host)).address.hex(":")
        for host in (plain.left, plain.right)
    }
    with TcpServer(plain.right, ["[::]:80"]) as server, TcpClient(plain.left) as client:
        client.connect(ADDRESSES[1], server.port)
        with plain.accelerated.on():
            rounds, end = 0, time.monotonic() + 3
            while time.monotonic() < end:
                exchange(client, 20_000)
                assert stations <= plain.known()
                rounds += 1
            assert plain.counted(plain.ports[0])["forwarded"] > rounds * 20_000 * 0.7
