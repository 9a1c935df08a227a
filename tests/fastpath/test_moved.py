# SPDX-License-Identifier: Apache-2.0
"""An interface that is moved to another network namespace takes its program along, which does nothing there."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from pliant.fastpath.objects import BRIDGING
from pliant.kernel.netlink import NETLINK_ROUTE, Netlink, attribute
from pliant.kernel.nftables_rules import read_rules
from pliant.kernel.programs import Program
from pliant.kernel.rtnetlink import Rtnetlink
from pliant.kernel.rtnetlink_links import INFO
from pliant.lab import Host, Lab
from pliant.lab.packets import interface
from pliant.observe.fastpath import Mode, Port, hooked_program, running_program
from tests.fastpath.filtered_way import ETHERTYPES, Way, numbers_of, tap
from tests.fastpath.rulesets import SOURCES, packet

pytestmark = pytest.mark.root

MOVED, EXIT = "moved", "exit"  # in the other namespace
ENTRY, FAR = "entry", "far"  # their other ends, at the sender
INDEX = 1001
SLOTS = 64
STATION = "02:00:00:00:66:01"
PACKETS = 5
PATIENCE_S = 10


@dataclass(frozen=True)
class Elsewhere:
    """Another namespace with a way out of its own, whose index is that of the router's."""

    host: Host
    way: Way
    entry: socket.socket
    far: socket.socket

    def take(self, index: int) -> None:
        """Move the interface here, under an index."""
        with self.way.router.inside(), Netlink(NETLINK_ROUTE) as netlink:
            namespace = os.open(self.host.netns_path, os.O_RDONLY)
            try:
                into = attribute(28, struct.pack("=I", namespace))  # IFLA_NET_NS_FD
                body = INFO.pack(0, 0, interface(self.way.router, MOVED).number, 0, 0)
                called = attribute(49, struct.pack("=I", index))  # IFLA_NEW_IFINDEX
                netlink.tell(16, body + into + called, "move an interface")  # RTM_NEWLINK
            finally:
                os.close(namespace)
        assert interface(self.host, MOVED).number == index
        self.host.ip(f"link set {MOVED} up")

    def send(self, to: bytes) -> set[int]:
        """Send packets of both families to a station here; their numbers."""
        sent = {}
        for number in range(PACKETS):
            for family in (4, 6):
                one = packet(self.way.around, family, 100 * family + number, SOURCES[family][0], "udp", 80)
                sent[100 * family + number] = self.ethernet(to, family) + one.data
        for frame in sent.values():
            self.entry.send(frame)
        return set(sent)

    def ethernet(self, to: bytes, family: int) -> bytes:
        return to + interface(self.way.fastpath.row.sender, ENTRY).address + ETHERTYPES[family]

    def arrived(self, count: int) -> set[int]:
        """What has come out here, once it is so many."""
        found: set[int] = set()
        deadline = time.monotonic() + PATIENCE_S
        while len(found) < count and time.monotonic() < deadline:
            found.update(numbers_of(self.far))
        return found


@pytest.fixture
def elsewhere(way: Way) -> Iterator[Elsewhere]:
    sender, router, around = way.fastpath.row.sender, way.router, way.around
    with Lab("elsewhere") as lab:
        host = lab.host("elsewhere")
        host.sysctl("net.ipv4.ip_forward", "1")
        host.sysctl("net.ipv6.conf.all.forwarding", "1")
        router.ip(f"link add {MOVED} index {INDEX} type veth peer name {ENTRY} netns {sender.netns_path}")
        host.ip(
            f"link add {EXIT} index {around.outside_index} type veth peer name {FAR} netns {sender.netns_path}",
            f"link set {EXIT} up",
        )
        router.ip(f"link set {MOVED} up")
        sender.ip(f"link set {ENTRY} up", f"link set {FAR} up")
        for at in (router, host):
            at.ip("link add br0 index 2000 type bridge", "link set br0 up")
        try:
            with tap(sender, ENTRY) as entry, tap(sender, FAR) as far:
                yield Elsewhere(host, way, entry, far)
        finally:
            sender.ip(f"link delete {ENTRY}", f"link delete {FAR}")
            router.ip("link delete br0")


def same_ruleset_generation(elsewhere: Elsewhere) -> None:
    """Without it programs would leave all to the kernel already for that."""
    here, there = elsewhere.way.router.netns_path, elsewhere.host
    while (behind := read_rules(here).generation - read_rules(there.netns_path).generation) > 0:
        there.run(["nft", "-f", "-"], given="add table ip t\ndelete table ip t\n")
    while behind < 0:
        elsewhere.way.nft("add table ip t\ndelete table ip t\n")
        behind += 1


@pytest.mark.parametrize("place", ["its own", "another's", "another's slot"])
def test_what_comes_to_a_router_elsewhere_is_routed_there(elsewhere: Elsewhere, place: str) -> None:
    way, around = elsewhere.way, elsewhere.way.around
    same_ruleset_generation(elsewhere)
    way.follow()
    assert running_program(way.fastpath.pins, Port(INDEX, Mode.NATIVE))
    others = {"another's": around.inside_index, "another's slot": around.inside_index + SLOTS}
    elsewhere.take(others.get(place, INDEX))
    for family, target in around.targets.items():
        elsewhere.host.ip(
            f"route add {target} dev {EXIT}",
            f"neighbour add {target} lladdr {STATION} dev {EXIT} nud permanent",
            f"route add {SOURCES[family][0]} dev {MOVED}",
        )
    sent = elsewhere.send(interface(elsewhere.host, MOVED).address)
    assert way.through({}) == []
    assert elsewhere.arrived(len(sent)) == sent
    told = way.counts(index=around.inside_index if place in others else INDEX)
    assert told["moved away"] >= len(sent)


def test_another_interface_of_the_same_index_gets_a_fast_path_of_its_own(elsewhere: Elsewhere) -> None:
    """The link says nothing but the index, which the interface has kept where it is now."""
    way, port = elsewhere.way, Port(INDEX, Mode.NATIVE)
    way.follow()
    elsewhere.take(INDEX)
    way.router.ip(f"link add {MOVED} index {INDEX} type veth peer name other", f"link set {MOVED} up")
    way.router.ip("link set other up")
    try:
        assert port in way.fastpath.found().lost
        way.follow()
        assert port in way.fastpath.found().running
        assert attached(way.router) == {hooked_program(way.fastpath.pins, port)}
        assert not attached(elsewhere.host)
    finally:
        way.router.ip(f"link delete {MOVED}")


def attached(host: Host) -> set[int]:
    """The XDP programs of the interface at a host."""
    with host.inside(), Rtnetlink() as netlink:
        at = netlink.interface(INDEX)
    assert at is not None
    return {found.program_id for found in at.xdp}


def test_what_comes_to_a_bridge_elsewhere_is_bridged_there(elsewhere: Elsewhere) -> None:
    way = elsewhere.way
    way.router.ip(f"link set {MOVED} master br0")
    way.follow()
    with Program.by_id(running_program(way.fastpath.pins, Port(INDEX, Mode.NATIVE))) as program:
        assert program.name == BRIDGING
    elsewhere.take(INDEX)
    elsewhere.host.ip(*(f"link set {name} master br0" for name in (MOVED, EXIT)))
    source = interface(way.fastpath.row.sender, ENTRY).address.hex(":")
    for at, station in ((MOVED, source), (EXIT, STATION)):
        elsewhere.host.run(["bridge", "fdb", "replace", station, "dev", at, "master", "static"])
    sent = elsewhere.send(bytes.fromhex(STATION.replace(":", "")))
    assert way.through({}) == []
    assert elsewhere.arrived(len(sent)) == sent
    assert way.counts(index=INDEX)["moved away"] >= len(sent)
