# SPDX-License-Identifier: Apache-2.0
"""Random frames for a router: most of them right, each kind of wrong one often enough."""

from __future__ import annotations

import struct
from ipaddress import ip_address
from typing import Any

from hypothesis import strategies as st

from tests.oracle import wire
from tests.oracle.among import among
from tests.oracle.case import Frame
from tests.oracle.configurations import FOUR, SIX, Family, ports
from tests.oracle.router import PORTS, peer_mac, port_mac

_PORTS = st.sampled_from(((1234, 53), (1234, 80), (4000, 1500), (53, 1234)))
_SIZES = st.sampled_from((0, 4, 30, 500, 540, 1000, 1230, 1400, 1432, 1472))
_WHOLE = ("whole",) * 45
_WRONG4 = (
    *(
        "ttl 0",
        "ttl 1",
        "ttl 2",
        "checksum",
        "version",
        "short header",
        "long header",
        "longer than the frame",
    ),
    *(
        "shorter than the header",
        "padded",
        "padded",
        "cut",
        "first fragment",
        "later fragment",
        "options",
        "router alert",
    ),
    *("source route", "tos", "do not fragment", "reserved bit", "zero length", "shorter than the ports"),
)
_WRONG6 = (
    *(
        "ttl 0",
        "ttl 1",
        "ttl 2",
        "version",
        "longer than the frame",
        "padded",
        "padded",
        "cut",
        "first fragment",
    ),
    *(
        "later fragment",
        "options",
        "router alert",
        "source route",
        "tos",
        "destination options",
        "zero length",
        "label",
    ),
    *("shorter than the ports", "authentication", "no next header", "jumbogram"),
)
_STATIONS = ("ours",) * 50 + ("another", "broadcast", "multicast", "another port's")
_OTHER_PROTOCOLS = (0, 2, 4, 17, 41, 47, 50, 51, 60, 89, 132, 136, 253, 255)


def _addresses(draw: st.DrawFn, family: Family, port: int) -> tuple[str, str]:
    kind = draw(st.integers(0, 19))
    near_hosts = family.others[:1] * 3 + family.others
    other = (port + draw(among((1, 2, 3, 0)))) % PORTS
    near = draw(among(near_hosts)).format(port)
    far = draw(among(family.beyond))
    if kind <= 3:
        return near, draw(among(near_hosts)).format(other)
    if kind <= 12:
        return near, far
    if kind <= 14:
        return far, draw(among((*family.beyond, *family.others))).format(other)
    if kind == 15:
        return near, family.own.format(other)
    if kind == 16:
        return family.own.format(other), far
    if kind == 17:
        return draw(among(family.strange)), far
    if kind == 18:
        return near, draw(among(family.strange))
    return family.others[0].format(other), far


def _segment(draw: st.DrawFn, source: str, to: str, size: int, number: int) -> tuple[int, bytes]:
    """A protocol and its message, which carries the number of the frame where there is room."""
    payload = struct.pack("!I", number) + bytes(size)
    is_six = ":" in source
    kind = draw(st.integers(0, 9))
    if kind <= 3:
        return wire.UDP, wire.udp(source, to, draw(_PORTS), payload)
    if kind <= 6:
        return wire.TCP, wire.tcp(source, to, draw(_PORTS), draw(among((2, 16, 17, 4))), payload)
    if kind == 7:
        if is_six:
            return wire.ICMP6, wire.icmp6(source, to, draw(among((128, 129, 200))), 0, bytes(4), payload)
        return wire.ICMP, wire.icmp4(draw(among((0, 8, 17, 40))), 0, bytes(4), payload)
    if kind == 8:
        return _error(draw, source, to, payload)
    return draw(among(_OTHER_PROTOCOLS)), payload + bytes(20)


def _error(draw: st.DrawFn, source: str, to: str, payload: bytes) -> tuple[int, bytes]:
    """An ICMP error about a packet that went the other way, by way of a router between."""
    about = to
    family = SIX if ":" in source else FOUR
    was_to = draw(among(family.beyond))
    rest = struct.pack("!HH", 0, draw(among((0, 600, 1300))))
    inner = wire.udp(about, was_to, draw(_PORTS), payload[:64])
    if family is SIX:
        kind, code = draw(among(((1, 0), (1, 4), (2, 0), (3, 0), (4, 0))))
        quoted = wire.ipv6(about, was_to, wire.UDP, inner)
        return wire.ICMP6, wire.icmp6(source, to, kind, code, rest, quoted)
    kind, code = draw(among(((3, 0), (3, 3), (3, 4), (11, 0), (12, 0), (4, 0), (5, 1))))
    return wire.ICMP, wire.icmp4(kind, code, rest, wire.ipv4(about, was_to, wire.UDP, inner))


def _four(draw: st.DrawFn, port: int, number: int) -> bytes:
    source, to = _addresses(draw, FOUR, port)
    wrong = draw(among(_WHOLE + _WRONG4))
    protocol, payload = _segment(draw, source, to, draw(_SIZES), number)
    header: dict[str, Any] = {"ttl": 64, "tos": 0, "number": number, "fragment": 0, "options": b""}
    changed: dict[str, dict[str, Any]] = {
        "ttl 0": {"ttl": 0},
        "ttl 1": {"ttl": 1},
        "ttl 2": {"ttl": 2},
        "first fragment": {"fragment": 0x2000},
        "later fragment": {"fragment": 0x2005},
        "options": {"options": b"\1\1\1\0"},
        "router alert": {"options": b"\x94\4\0\0"},
        "source route": {"options": b"\x83\7\4\x0a\x11\1\x09\0"},
        "tos": {"tos": draw(among((0x10, 0x11, 0x03, 0xB8, 0xFF)))},
        "do not fragment": {"fragment": 0x4000},
        "reserved bit": {"fragment": 0x8000},
    }
    header |= changed.get(wrong, {})
    if wrong == "shorter than the ports":
        packet = wire.ipv4(source, to, protocol, payload[:2], **header)
        return packet + payload[2:]
    return _spoiled4(wrong, wire.ipv4(source, to, protocol, payload, **header))


def _spoiled4(wrong: str, packet: bytes) -> bytes:
    def with_header(header: bytes) -> bytes:
        header = header[:10] + b"\0\0" + header[12:20]
        return header[:10] + struct.pack("!H", wire.checksum(header)) + header[12:] + packet[20:]

    match wrong:
        case "checksum":
            return packet[:10] + bytes((packet[10] ^ 1,)) + packet[11:]
        case "version":
            return with_header(b"\x65" + packet[1:20])
        case "short header":
            return with_header(b"\x44" + packet[1:20])
        case "long header":
            return with_header(b"\x4f" + packet[1:20])
        case "longer than the frame":
            return with_header(packet[:2] + struct.pack("!H", len(packet) + 1) + packet[4:20])
        case "shorter than the header":
            return with_header(packet[:2] + struct.pack("!H", 19) + packet[4:20])
        case "zero length":
            return with_header(packet[:2] + bytes(2) + packet[4:20])
    return _ending(wrong, packet)


def _ending(wrong: str, packet: bytes) -> bytes:
    if wrong == "padded":
        return packet + bytes(range(1, 30))
    return packet[: max(len(packet) // 2, 7)] if wrong == "cut" else packet


def _six(draw: st.DrawFn, port: int, number: int) -> bytes:
    source, to = _addresses(draw, SIX, port)
    wrong = draw(among(_WHOLE + _WRONG6))
    following, payload = _segment(draw, source, to, draw(_SIZES), number)
    header = {"hops": 64, "tos": 0, "label": 0}
    header |= {
        "ttl 0": {"hops": 0},
        "ttl 1": {"hops": 1},
        "ttl 2": {"hops": 2},
        "tos": {"tos": draw(among((0x10, 0x11, 0x03, 0xB8)))},
        "label": {"label": draw(among((1, 0xFFFFF)))},
    }.get(wrong, {})
    head = bytes((following,))
    extended = {
        "first fragment": (44, head + struct.pack("!BHI", 0, 1, number)),
        "later fragment": (44, head + struct.pack("!BHI", 0, 8 << 3 | 1, number)),
        "options": (0, head + b"\0\1\4\0\0\0\0"),
        "router alert": (0, head + b"\0\5\2\0\0\1\0"),
        "jumbogram": (0, head + b"\0\xc2\4" + struct.pack("!I", 8 + len(payload))),
        "source route": (43, head + b"\2\0\1" + bytes(20)),
        "destination options": (60, head + b"\0\1\4\0\0\0\0"),
        "authentication": (51, head + b"\1" + bytes(10)),
        "no next header": (59, b""),
    }.get(wrong)
    if extended:
        following, payload = extended[0], extended[1] + payload
    if wrong == "shorter than the ports":
        return wire.ipv6(source, to, following, payload[:2], **header) + payload[2:]
    packet = wire.ipv6(source, to, following, payload, **header)
    match wrong:
        case "version":
            return b"\x50" + packet[1:]
        case "longer than the frame":
            return packet[:4] + struct.pack("!H", len(payload) + 1) + packet[6:]
        case "zero length" | "jumbogram":
            return packet[:4] + bytes(2) + packet[6:]
    return _ending(wrong, packet)


@st.composite
def frames(draw: st.DrawFn, number: int) -> Frame:
    """A frame; its number is in it, so that no two are alike."""
    port = draw(ports)
    kind = draw(st.integers(0, 40))
    if kind == 39:
        packet, ether_type = (
            draw(st.binary(max_size=80)),
            draw(among((0x0800, 0x86DD, 0x0806, 0x8100, 46))),
        )
    elif kind == 38:  # an answer to a question that may have been asked
        packet, ether_type = _arp_answer(draw, port), wire.ARP
    elif kind <= 21:
        packet, ether_type = _four(draw, port, number), wire.IPV4
    else:
        packet, ether_type = _six(draw, port, number), wire.IPV6
    if kind == 40:
        ether_type = wire.IPV4  # which it is not
    station = {
        "another": bytes((2, 0, 0, 0, 9, 9)),
        "broadcast": b"\xff" * 6,
        "multicast": bytes((1, 0, 0x5E, 0, 0, 1)),
        "another port's": port_mac((port + 1) % PORTS),
    }.get(draw(among(_STATIONS)), port_mac(port))
    return Frame(port, wire.ethernet(station, peer_mac(port), ether_type, packet))


def _arp_answer(draw: st.DrawFn, port: int) -> bytes:
    sender = draw(among(FOUR.others)).format(port)
    addresses = (bytes((2, 0, 0, 0, 16 + port, 7)), ip_address(sender).packed)
    to = (port_mac(port), ip_address(FOUR.own.format(port)).packed)
    return struct.pack("!HHBBH6s4s6s4s", 1, wire.IPV4, 6, 4, 2, *addresses, *to)
