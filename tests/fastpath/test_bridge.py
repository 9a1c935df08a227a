# SPDX-License-Identifier: Apache-2.0
"""What becomes of frames at a bridge port, check by check: as without the fast path, and for which reason."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import pytest

from pliant.lab import PrivateMounts
from tests.oracle import wire
from tests.oracle.case import Case, Change, Frame
from tests.oracle.kind import BRIDGING, Kind
from tests.oracle.router import port_mac
from tests.oracle.search import reasons
from tests.oracle.switch import bridge_mac, station
from tests.oracle.twins import Twins

pytestmark = pytest.mark.root

EXITS = range(3)  # the fourth port takes no accelerated frames
JOINED = tuple(f"ip link set p{port} master br0" for port in range(4))
HERE, THERE = station(0, 0), station(1, 0)
ALL = b"\xff" * 6
PACKET = wire.ipv4("10.1.0.1", "10.1.0.2", wire.UDP, wire.udp("10.1.0.1", "10.1.0.2", (1, 2), bytes(30)))
CALLS = (("net.bridge.bridge-nf-call-iptables", "1"),)


def frame(
    to: bytes = THERE, source: bytes = HERE, kind: int = wire.IPV4, packet: bytes = PACKET, port: int = 0
) -> Frame:
    return Frame(port, wire.ethernet(to, source, kind, packet))


def known(port: int, address: bytes) -> Frame:
    """By this the bridge learns a station."""
    return frame(ALL, address, 0x88B5, bytes(46), port)


def static(address: bytes, port: int, kind: str = "static") -> str:
    return f"bridge fdb replace {wire.mac(address)} dev p{port} master {kind}"


def sized(length: int) -> bytes:
    """A packet of a length."""
    return wire.ipv4("10.1.0.1", "10.1.0.2", wire.UDP, bytes(length - wire.IPV4_BYTES))


def six(following: int, payload: bytes) -> bytes:
    return wire.ipv6("2001:db8::1", "2001:db8::2", following, payload, hops=255)


class Row(NamedTuple):
    """Every frame is sent twice, and twice again after each change.

    ``becomes`` is what becomes of the frames behind those by which both stations are learnt, by reason.
    """

    says: str
    frame: Frame
    becomes: dict[str, int]
    commands: Sequence[str] = ()
    changes: Sequence[str] = ()
    sysctls: tuple[tuple[str, str], ...] = ()
    learnt: Sequence[Frame] = (known(0, HERE), known(1, THERE))


FORWARDED, CLOSED = {"FORWARDED": 2}, {"PORT_CLOSED": 2}
NO_STATION, NOT_BRIDGED, NOT_CARRIED = {"NO_STATION": 2}, {"NOT_BRIDGED": 2}, {"NOT_CARRIED": 2}
THEN_CLOSED = {"FORWARDED": 2, "PORT_CLOSED": 2}

ROWS = (
    Row("both are known", frame(), FORWARDED),
    # Stations
    Row("a destination that nobody knows", frame(station(1, 2)), NO_STATION),
    Row("a source that is learnt", frame(source=station(0, 2)), {"NO_STATION": 1, "FORWARDED": 1}),
    Row("a source that was at another port", frame(source=THERE), NO_STATION),
    Row(
        "a source fixed at another port",
        frame(source=station(0, 2)),
        NO_STATION,
        [static(station(0, 2), 2, "sticky static")],
    ),
    Row("the bridge itself", frame(bridge_mac(0)), NOT_BRIDGED),
    Row("a port's own address", frame(port_mac(2)), NOT_BRIDGED),
    Row("a local entry", frame(station(1, 2)), NOT_BRIDGED, [static(station(1, 2), 1, "local")]),
    Row("a static entry", frame(station(2, 2)), FORWARDED, [static(station(2, 2), 2)]),
    Row(
        "an entry of a controller",
        frame(station(2, 2)),
        FORWARDED,
        [static(station(2, 2), 2, "static extern_learn")],
    ),
    Row(
        "an entry that goes",
        frame(station(2, 2)),
        {"FORWARDED": 2, "NO_STATION": 2},
        [static(station(2, 2), 2)],
        [static(station(2, 2), 2).replace("replace", "del")],
    ),
    Row(
        "a station that moves",
        frame(station(2, 2)),
        {"FORWARDED": 4},
        [static(station(2, 2), 2)],
        [static(station(2, 2), 1)],
    ),
    Row(
        "a station that moves to a port that takes nothing",
        frame(station(2, 2)),
        {"FORWARDED": 2, "NO_PORT": 2},
        [static(station(2, 2), 2)],
        [static(station(2, 2), 3)],
    ),
    Row(
        "a source that moves away",
        frame(),
        {"FORWARDED": 2, "NO_STATION": 2},
        (),
        [static(HERE, 2, "sticky static")],
        learnt=[known(1, THERE), known(0, HERE)],
    ),
    # Ports
    Row("isolated both", frame(), CLOSED, [f"bridge link set dev p{port} isolated on" for port in (0, 1)]),
    Row("isolated one", frame(), FORWARDED, ["bridge link set dev p1 isolated on"]),
    Row(
        "isolated later",
        frame(),
        THEN_CLOSED,
        ["bridge link set dev p1 isolated on"],
        ["bridge link set dev p0 isolated on"],
    ),
    Row(
        "back where it came from",
        frame(station(0, 1)),
        CLOSED,
        learnt=[known(0, HERE), known(0, station(0, 1))],
    ),
    Row(
        "hairpin",
        frame(station(0, 1)),
        FORWARDED,
        ["bridge link set dev p0 hairpin on"],
        learnt=[known(0, HERE), known(0, station(0, 1))],
    ),
    Row(
        "no learning, a source that nobody knows",
        frame(source=station(0, 2)),
        FORWARDED,
        ["bridge link set dev p0 learning off"],
    ),
    Row(
        "no learning, a source known elsewhere",
        frame(source=station(2, 2)),
        FORWARDED,
        ["bridge link set dev p0 learning off", static(station(2, 2), 2)],
    ),
    Row("locked", frame(), CLOSED, ["bridge link set dev p0 learning off locked on", static(HERE, 0)]),
    Row("the way out is locked", frame(), FORWARDED, ["bridge link set dev p1 locked on", static(THERE, 1)]),
    Row("a backup for the way out", frame(), CLOSED, ["bridge link set dev p1 backup_port p2"]),
    Row("tunnels of VLANs", frame(), CLOSED, ["bridge link set dev p1 vlan_tunnel on"]),
    *(
        Row(
            f"the {name} changes to {state}",
            frame(),
            THEN_CLOSED,
            (),
            [f"bridge link set dev p{port} state {number}"],
        )
        for port, name in enumerate(("way in", "way out"))
        for number, state in ((0, "disabled"), (1, "listening"), (2, "learning"))
    ),
    Row(
        "a port that has come to a spanning tree",
        frame(),
        {"FORWARDED": 4, "NOT_BRIDGED": 2, "PORT_CLOSED": 2},
        [static(HERE, 0), static(THERE, 1)],
        ["ip link set br0 type bridge stp_state 1", "ip link set p0 nomaster", "ip link set p0 master br0"],
    ),
    Row("a port that leaves", frame(), {"FORWARDED": 2, "NOT_BRIDGED": 2}, (), ["ip link set p0 nomaster"]),
    Row(
        "a port that has left for another bridge",
        frame(),
        {"FORWARDED": 2, "NO_STATION": 2},
        (),
        ["ip link set p1 master br1"],
        learnt=[known(0, HERE), known(1, THERE)],
    ),
    Row("no flooding", frame(), FORWARDED, ["bridge link set dev p1 flood off"]),
    Row(
        "out by a port that takes nothing",
        frame(station(3, 0)),
        {"NO_PORT": 2},
        learnt=[known(0, HERE), known(3, station(3, 0))],
    ),
    # Bridges
    Row(
        "somebody listens at the bridge",
        frame(),
        {"FORWARDED": 2, "NOT_BRIDGED": 2},
        (),
        ["ip link set br0 promisc on"],
    ),
    Row(
        "the bridge goes down",
        frame(),
        THEN_CLOSED,
        [static(HERE, 0), static(THERE, 1)],
        ["ip link set br0 down"],
    ),
    Row(
        "two bridges that know the same station",
        frame(),
        FORWARDED,
        ["ip link set p2 master br1", "ip link set p3 master br1", static(THERE, 2)],
    ),
    Row(
        "a bridge that never learns",
        frame(),
        FORWARDED,
        ["ip link set br0 type bridge ageing_time 0", static(HERE, 0), static(THERE, 1)],
    ),
    # Frames
    Row("to a group", frame(bytes((1, 0, 0x5E, 0, 0, 1))), {}),
    *(
        Row(f"to 01:80:c2:00:00:{last:02x}", frame(bytes((1, 0x80, 0xC2, 0, 0, last))), {})
        for last in (0, 1, 2, 14)
    ),
    Row("from nobody", frame(source=bytes(6)), {}),
    Row("from a group", frame(source=ALL), {}),
    *(
        Row(says, frame(kind=kind), NOT_CARRIED)
        for says, kind in (
            ("ARP", wire.ARP),
            ("reverse ARP", 0x8035),
            ("a VLAN", 0x8100),
            ("a VLAN of a provider", 0x88A8),
            ("MRP", 0x88E3),
            ("CFM", 0x8902),
            ("802.2", 46),
        )
    ),
    *(Row(f"type {kind:#06x}", frame(kind=kind), FORWARDED) for kind in (0x8847, 0x8864, 0x1234, 0x0600)),
    *(
        Row(
            says,
            frame(kind=wire.IPV6, packet=six(wire.ICMP6, bytes((kind, 0)) + bytes(22))),
            becomes,
            ["bridge link set dev p1 neigh_suppress on"],
        )
        for says, kind, becomes in (
            ("a solicitation", 135, NOT_CARRIED),
            ("an advertisement", 136, NOT_CARRIED),
            ("an echo", 128, FORWARDED),
        )
    ),
    Row("IPv6 with nothing in it", frame(kind=wire.IPV6, packet=bytes(20)), NOT_CARRIED),
    Row("as long as can be", frame(packet=sized(1504)), FORWARDED),
    Row("too long", frame(packet=sized(1505)), {"TOO_BIG": 2}, ["ip link set p0 mtu 2000"]),
    Row("padded", frame(packet=PACKET + bytes(9)), FORWARDED),
    Row("padded, and iptables called", frame(packet=PACKET + bytes(9)), NOT_CARRIED, sysctls=CALLS),
    Row("right, and iptables called", frame(), FORWARDED, sysctls=CALLS),
    Row(
        "a wrong checksum, and iptables called",
        frame(packet=PACKET[:10] + b"\1\2" + PACKET[12:]),
        NOT_CARRIED,
        sysctls=CALLS,
    ),
    Row("cut, and iptables called", frame(packet=PACKET[:30]), NOT_CARRIED, sysctls=CALLS),
    Row(
        "options, and iptables called",
        frame(packet=wire.ipv4("10.1.0.1", "10.1.0.2", wire.UDP, bytes(30), options=b"\1\1\1\0")),
        NOT_CARRIED,
        sysctls=CALLS,
    ),
    Row("longer than the MTU, and iptables called", frame(packet=sized(1501)), {"TOO_BIG": 2}, sysctls=CALLS),
    Row(
        "IPv6 with options, and iptables called",
        frame(kind=wire.IPV6, packet=six(0, bytes((17, 0, 1, 4, 0, 0, 0, 0)))),
        NOT_CARRIED,
        sysctls=(("net.bridge.bridge-nf-call-ip6tables", "1"),),
    ),
)


@contextmanager
def made(name: str, kind: Kind) -> Iterator[Twins]:
    allowed = os.sched_getaffinity(0)
    twins = Twins(name, EXITS, kind)
    yield twins
    twins.close()
    assert os.sched_getaffinity(0) == allowed


@pytest.fixture(scope="module")
def switches(mounts: PrivateMounts) -> Iterator[Twins]:
    del mounts
    with made("bridges", BRIDGING) as twins:
        yield twins


def counted(switches: Twins) -> dict[str, int]:
    """By reason; what the kernel sees once a second is forwarded, too, and by group addresses stations are learnt."""
    found = dict(zip(reasons(), switches.fastpath.counts(), strict=True))
    found["FORWARDED"] += found.pop("CONFIRMING")
    del found["NOT_UNICAST"]
    return found


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.says)
def test_frame_becomes_what_it_would_have_and_for_this_reason(switches: Twins, row: Row) -> None:
    before = counted(switches)
    changes = tuple(Change(command, 0) for command in row.changes)
    case = Case((*JOINED, *row.commands), row.sysctls, (*row.learnt, row.frame), changes)
    assert switches.try_case(case).differences == []
    now = counted(switches)
    assert {reason: more for reason in now if (more := now[reason] - before[reason])} == row.becomes


def test_nothing_is_accelerated_where_hardware_takes_tags_off(mounts: PrivateMounts) -> None:
    del mounts
    taken_off = BRIDGING._replace(constants={"comes_with_skb": 0, "runs_in_driver": 1})
    with made("tags", taken_off) as switches:
        case = Case(JOINED, (), (known(0, HERE), known(1, THERE), frame()))
        assert switches.try_case(case).differences == []
        assert counted(switches)["UNFINISHED"] == 2  # as veth devices do, which hand over the tag as well
