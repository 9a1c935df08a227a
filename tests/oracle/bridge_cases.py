# SPDX-License-Identifier: Apache-2.0
"""Random bridges, frames that cross them, and changes, as strategies of Hypothesis."""

from __future__ import annotations

import struct
from dataclasses import replace

from hypothesis import strategies as st

from tests.oracle import wire
from tests.oracle.among import among
from tests.oracle.case import Case, Change, Frame
from tests.oracle.extent import frame_counts
from tests.oracle.router import PORTS, port_mac, port_name
from tests.oracle.switch import ADDRESS, BRIDGES, PINGING, bridge_mac, station

STATIONS = 3
"""Hosts beyond each port."""

ports = st.integers(0, PORTS - 1)
bridges = st.sampled_from(BRIDGES)
numbers = st.integers(0, STATIONS - 1)
_bit = st.sampled_from(("on", "off"))
_mostly_off = st.sampled_from(("on", "off", "off"))
_AGED = 100
"""Milliseconds for which the size of frames that a port takes is believed."""

_FLAGS = {
    "hairpin": _mostly_off,
    "isolated": _mostly_off,
    "learning": _bit,
    "flood": _bit,
    "mcast_flood": _bit,
    "bcast_flood": _bit,
    "locked": _mostly_off,
    "neigh_suppress": _bit,
    "root_block": _bit,
    "vlan_tunnel": _mostly_off,
}
_OPTIONS = {
    "vlan_filtering": st.sampled_from("100"),
    "nf_call_iptables": st.sampled_from("01"),
    "nf_call_ip6tables": st.sampled_from("01"),
    "stp_state": st.sampled_from("001"),
    "group_fwd_mask": st.sampled_from(("0", "16384")),
}


@st.composite
def _flag(draw: st.DrawFn) -> str:
    kind = draw(st.integers(0, 9))
    port = port_name(draw(ports))
    if kind == 9:
        return f"bridge link set dev {port} state {draw(among((0, 1, 2, 3, 3, 4)))}"
    name = draw(among(tuple(sorted(_FLAGS))))
    return f"bridge link set dev {port} {name} {draw(_FLAGS[name])}"


@st.composite
def _entry(draw: st.DrawFn) -> str:
    port, at = draw(ports), draw(ports)
    address = wire.mac(station(port if draw(st.booleans()) else at, draw(numbers)))
    kind = draw(among(("static", "static", "dynamic", "sticky", "local", "static extern_learn")))
    verb = draw(among(("add", "replace", "replace")))
    if draw(st.integers(0, 3)) == 0:
        return f"bridge fdb del {address} dev {port_name(at)} master"
    kind = "sticky static" if kind == "sticky" else kind
    return f"bridge fdb {verb} {address} dev {port_name(at)} master {kind}"


@st.composite
def _option(draw: st.DrawFn) -> str:
    name = draw(among(tuple(sorted(_OPTIONS))))
    return f"ip link set {draw(bridges)} type bridge {name} {draw(_OPTIONS[name])}"


_mtus = st.sampled_from((1500, 1400, 1000, 600, 2000))


@st.composite
def _link(draw: st.DrawFn) -> str:
    """Ports come and go, and bridges are switched."""
    port, kind = port_name(draw(ports)), draw(st.integers(0, 6))
    if kind == 0:
        return f"ip link set {port} nomaster"
    if kind <= 3:
        return f"ip link set {port} master {draw(bridges)}"
    if kind == 4:
        return f"ip link set {draw(bridges)} promisc {draw(_mostly_off)}"
    if kind == 5:
        return f"ip link set {draw(bridges)} {draw(among(('down', 'up')))}"
    return f"ip link set {port} address {wire.mac(station(draw(ports), draw(numbers)))}"


@st.composite
def _commands(draw: st.DrawFn) -> list[str]:
    split = draw(st.integers(1, 8))
    commands = [
        f"ip link set {port_name(port)} master {BRIDGES[split % 4 == 0 and port >= 2]}"
        for port in range(PORTS)
        if split != 7 or port != 3
    ]
    commands += draw(st.lists(_option(), max_size=2))
    commands += draw(st.lists(_flag(), max_size=3))
    commands += draw(st.lists(_entry(), max_size=4))
    if draw(st.integers(0, 3)) == 0:
        commands.append(f"ip link set {port_name(draw(ports))} mtu {draw(_mtus)}")
    if draw(st.integers(0, 7)) == 0:
        commands.insert(0, f"ip link set {draw(bridges)} type bridge ageing_time 0")
    return commands


@st.composite
def _changes(draw: st.DrawFn) -> tuple[Change, ...]:
    """All are followed at once, but for the size of frames."""
    at_once = draw(st.lists(st.one_of(_entry(), _flag(), _link(), _option()), max_size=4))
    changes = [Change(command, 0) for command in at_once]
    if draw(st.integers(0, 3)) == 0:
        changes.append(Change(f"ip link set {port_name(draw(ports))} mtu {draw(_mtus)}", _AGED))
    return tuple(changes)


_GROUPS = (
    b"\xff" * 6,
    bytes((1, 0, 0x5E, 0, 0, 9)),
    bytes((0x33, 0x33, 0, 0, 0, 9)),
    *(bytes((1, 0x80, 0xC2, 0, 0, last)) for last in (0, 1, 3, 14)),
)


@st.composite
def _destination(draw: st.DrawFn, port: int) -> bytes:
    kind = draw(st.integers(0, 29))
    if kind == 29:
        return draw(among(_GROUPS))
    if kind == 28:
        return draw(among((bytes(6), bridge_mac(0), bridge_mac(1), port_mac(port), port_mac(0))))
    if kind == 27:
        return bytes((2, 0, 0, 0, 99, draw(numbers)))  # which nobody has
    return station(draw(ports), draw(numbers))


@st.composite
def _source(draw: st.DrawFn, port: int) -> bytes:
    kind = draw(st.integers(0, 39))
    if kind == 39:
        return draw(
            st.sampled_from(
                (bytes(6), b"\xff" * 6, bytes((1, 0, 0x5E, 0, 0, 7)), bridge_mac(0), port_mac(port))
            )
        )
    if kind >= 36:
        return station(draw(ports), draw(numbers))  # it may have moved here
    return station(port, draw(numbers))


_SIZES = st.sampled_from((0, 1, 26, 200, 900, 1472, 1473, 1476, 1477, 1480, 1700))


def _four(draw: st.DrawFn, number: int) -> bytes:
    payload = struct.pack("!I", number) + bytes(draw(_SIZES))
    source, to = "10.1.0.1", "10.1.0.2"
    packet = wire.ipv4(source, to, wire.UDP, wire.udp(source, to, (1000, 2000), payload), number=number)
    match draw(st.integers(0, 19)):
        case 0:
            return packet[:10] + b"\1\2" + packet[12:]  # a wrong checksum
        case 1:
            return packet + bytes(20)  # padding
        case 2:
            return packet[: draw(st.integers(0, len(packet)))]
        case 3:
            return wire.ipv4(source, to, wire.UDP, bytes(40), number=number, options=b"\1\1\1\0")
        case 4:
            return wire.ipv4(source, to, wire.UDP, bytes(64), number=number, fragment=0x2000)
        case 5:
            return b"\x46" + packet[1:]
    return packet


def _six(draw: st.DrawFn, number: int) -> bytes:
    source, to = "2001:db8::1", "2001:db8::2"
    payload = struct.pack("!I", number) + bytes(draw(_SIZES))
    packet = wire.ipv6(source, to, wire.UDP, wire.udp(source, to, (1000, 2000), payload))
    match draw(st.integers(0, 19)):
        case 0:
            return packet + bytes(20)
        case 1:
            return packet[: draw(st.integers(0, len(packet)))]
        case 2:
            return wire.ipv6(source, to, 0, bytes((17, 0, 1, 4, 0, 0, 0, 0)) + payload)
        case 3 | 4:
            kind = draw(among((135, 136, 128)))
            return wire.ipv6(
                source, to, wire.ICMP6, wire.icmp6(source, to, kind, 0, bytes(4), bytes(16)), hops=255
            )
        case 5:
            return b"\x50" + packet[1:]
    return packet


_TYPES = (
    0x8035,
    0x8100,
    0x88A8,
    0x8864,
    0x8863,
    0x88CC,
    0x8847,
    0x88E3,
    0x8902,
    0x0100,
    0x05DC,
    0x0600,
    0x1234,
)


def _other(draw: st.DrawFn, number: int) -> tuple[int, bytes]:
    kind = draw(among((*_TYPES, wire.ARP)))
    body = draw(among((_four(draw, number), _six(draw, number))))
    if kind in (0x8100, 0x88A8):
        return kind, struct.pack("!HH", draw(among((0, 1, 100, 0x6000))), wire.IPV4) + body
    if kind == wire.ARP:
        body = struct.pack("!HHBBHI", 1, wire.IPV4, 6, 4, draw(st.integers(1, 2)), number) + bytes(30)
    return kind, body


@st.composite
def frames(draw: st.DrawFn, number: int) -> Frame:
    """A frame; its number is in it, so that no two are alike."""
    port, kind = draw(ports), draw(st.integers(0, 15))
    to, source = draw(_destination(port)), draw(_source(port))
    if kind == 15:
        echo = wire.icmp4(8, 0, struct.pack("!HH", 7, number), bytes(20))
        packet = wire.ipv4(PINGING, ADDRESS, wire.ICMP, echo, number=number)
        return Frame(port, wire.ethernet(bridge_mac(0), source, wire.IPV4, packet))
    ether_type, packet = (
        (wire.IPV4, _four(draw, number))
        if kind < 9
        else (wire.IPV6, _six(draw, number))
        if kind < 12
        else _other(draw, number)
    )
    return Frame(port, wire.ethernet(to, source, ether_type, packet))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Bridges of four ports."""
    commands = tuple(draw(_commands()))
    sysctls = draw(
        st.sampled_from(
            (
                (),
                (),
                (),
                (("net.bridge.bridge-nf-call-iptables", "1"),),
                (("net.bridge.bridge-nf-call-ip6tables", "1"),),
            )
        )
    )
    count = draw(frame_counts(32, 40))
    sent = tuple(draw(frames(number)) for number in range(1, count + 1))
    return _steady(Case(commands, sysctls, sent, draw(_changes())))


def _steady(case: Case) -> Case:
    """Where nothing is to be remembered, the kernel forgets dynamic entries at a time of its own: make them static."""
    if not any("ageing_time 0" in command for command in case.commands):
        return case
    commands = tuple(command.replace(" dynamic", " static") for command in case.commands)
    changes = tuple(Change(c.command.replace(" dynamic", " static"), c.bound_ms) for c in case.changes)
    return replace(case, commands=commands, changes=changes)
