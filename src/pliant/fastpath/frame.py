# SPDX-License-Identifier: Apache-2.0
"""Ethernet frames with IP in them: what a frame says, in fields and in a line, and a frame made of fields."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Literal

ETHERNET_BYTES, IPV4_BYTES, IPV6_BYTES = 14, 20, 40
IPV4, IPV6, ARP = 0x0800, 0x86DD, 0x0806
ICMP, TCP, UDP, ICMP6, SCTP = 1, 6, 17, 58, 132
PROTOCOLS = {
    "icmp": ICMP,
    "tcp": TCP,
    "udp": UDP,
    "icmp6": ICMP6,
    "sctp": SCTP,
    "gre": 47,
    "esp": 50,
    "ah": 51,
}
"""Protocols that have a name here."""
_EXTENSIONS = {0, 43, 60}  # hop-by-hop, routing, destination options
_FRAGMENT6 = 44
_FLAGS = {0x01: "F", 0x02: "S", 0x04: "R", 0x08: "P", 0x10: ".", 0x20: "U", 0x40: "E", 0x80: "W"}
_OTHERS = {ARP: "ARP", 0x8100: "802.1Q", 0x88A8: "802.1ad", 0x88CC: "LLDP"}
_LEAST_TYPE = 0x600  # below it is the length of an 802.2 frame

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame as far as it can be read; ``family`` is None where it is not IP.

    ``transport`` is the offset of the transport header in the frame, None where there is none to be read (a later
    fragment, or a frame cut short). ``length`` is that of the IP packet, as its header has it.
    """

    data: bytes
    to: bytes
    source: bytes
    kind: int
    family: Literal[4, 6] | None = None
    saddr: Address | None = None
    daddr: Address | None = None
    protocol: int = 0
    ttl: int = 0
    tos: int = 0
    length: int = 0
    is_fragment: bool = False
    has_options: bool = False
    is_well_formed: bool = True
    transport: int | None = None
    ports: tuple[int, int] | None = None
    flags: int | None = None
    icmp_type: int | None = None


def read_frame(data: bytes) -> Frame:
    """Read an Ethernet frame, however short or wrong it is."""
    kind = int.from_bytes(data[12:14], "big")
    frame = Frame(data, data[:6], data[6:12], kind, is_well_formed=len(data) >= ETHERNET_BYTES)
    packet = memoryview(data)[ETHERNET_BYTES:]
    if kind == IPV4 and len(packet) >= IPV4_BYTES and packet[0] >> 4 == 4:
        return _read4(frame, packet)
    if kind == IPV6 and len(packet) >= IPV6_BYTES and packet[0] >> 4 == 6:
        return _read6(frame, packet)
    return frame if kind not in (IPV4, IPV6) else _changed(frame, is_well_formed=False)


def _changed(frame: Frame, **changes: object) -> Frame:
    from dataclasses import replace

    return replace(frame, **changes)  # type: ignore[arg-type]


def _read4(frame: Frame, packet: memoryview) -> Frame:
    header = 4 * (packet[0] & 15)
    total, _, part, ttl, protocol = struct.unpack_from("!HHHBB", packet, 2)
    right = header >= IPV4_BYTES and header <= total <= len(packet) and checksum(bytes(packet[:header])) == 0
    found = _changed(
        frame,
        family=4,
        saddr=IPv4Address(bytes(packet[12:16])),
        daddr=IPv4Address(bytes(packet[16:20])),
        protocol=protocol,
        ttl=ttl,
        tos=packet[1],
        length=total,
        is_fragment=bool(part & 0x3FFF),
        has_options=header > IPV4_BYTES,
        is_well_formed=right,
    )
    return found if part & 0x1FFF or header < IPV4_BYTES else _with_transport(found, ETHERNET_BYTES + header)


def _read6(frame: Frame, packet: memoryview) -> Frame:
    first, payload, following, hops = struct.unpack_from("!IHBB", packet)
    at, is_fragment, is_later = IPV6_BYTES, False, False
    first_header = following
    while (following in _EXTENSIONS or following == _FRAGMENT6) and at + 8 <= len(packet):
        if following == _FRAGMENT6:
            is_fragment = True
            is_later = bool(int.from_bytes(packet[at + 2 : at + 4], "big") >> 3)
        length = 8 if following == _FRAGMENT6 else 8 * (packet[at + 1] + 1)
        following, at = packet[at], at + length
    found = _changed(
        frame,
        family=6,
        saddr=IPv6Address(bytes(packet[8:24])),
        daddr=IPv6Address(bytes(packet[24:40])),
        protocol=following,
        ttl=hops,
        tos=first >> 20 & 0xFF,
        length=IPV6_BYTES + payload,
        is_fragment=is_fragment,
        has_options=first_header == 0,
        is_well_formed=IPV6_BYTES + payload <= len(packet),
    )
    return found if is_later else _with_transport(found, ETHERNET_BYTES + at)


def _with_transport(frame: Frame, at: int) -> Frame:
    data = frame.data
    if frame.protocol in (TCP, UDP, SCTP) and at + 4 <= len(data):
        ports = struct.unpack_from("!HH", data, at)
        flags = data[at + 13] if frame.protocol == TCP and at + 14 <= len(data) else None
        return _changed(frame, transport=at, ports=ports, flags=flags)
    if frame.protocol in (ICMP, ICMP6) and at + 2 <= len(data):
        return _changed(frame, transport=at, icmp_type=data[at])
    return _changed(frame, transport=at) if at <= len(data) else frame


def line_of(frame: Frame) -> str:
    """A line about a frame in the manner of tcpdump(8)."""
    if frame.family is None:
        name = _OTHERS.get(frame.kind) or (
            "802.2" if frame.kind < _LEAST_TYPE else f"ethertype {frame.kind:#06x}"
        )
        wrong = "" if frame.is_well_formed else " (malformed)"
        return f"{name} {_mac(frame.source)} > {_mac(frame.to)}{wrong}, length {len(frame.data)}"
    start = "IP" if frame.family == 4 else "IP6"
    source, to = str(frame.saddr), str(frame.daddr)
    if frame.ports:
        source, to = f"{source}.{frame.ports[0]}", f"{to}.{frame.ports[1]}"
    said = [_said_of_transport(frame)]
    said += ["fragment"] if frame.is_fragment else []
    said += ["malformed"] if not frame.is_well_formed else []
    return f"{start} {source} > {to}: {', '.join(said)}, ttl {frame.ttl}, length {frame.length}"


def _said_of_transport(frame: Frame) -> str:
    name = protocol_name(frame.protocol)
    if frame.flags is not None:
        return f"{name} [{''.join(letter for bit, letter in _FLAGS.items() if frame.flags & bit) or 'none'}]"
    return f"{name} type {frame.icmp_type}" if frame.icmp_type is not None else name


def protocol_name(protocol: int) -> str:
    """What a protocol is called here, or its number."""
    return next((name for name, number in PROTOCOLS.items() if number == protocol), f"proto {protocol}")


def _mac(address: bytes) -> str:
    return address.hex(":")


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    padded = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


@dataclass(frozen=True, slots=True)
class Fields:
    """What a frame is to be made of; ``length`` is that of the IP packet, the least that fits where it is 0."""

    source: Address
    to: Address
    protocol: int
    from_mac: bytes
    to_mac: bytes
    ports: tuple[int, int] = (0, 0)
    ttl: int = 64
    tos: int = 0
    length: int = 0
    flags: int = 0x10
    payload: bytes = field(default=b"", repr=False)


def make_frame(fields: Fields) -> bytes:
    """A frame with right lengths and checksums."""
    header = IPV4_BYTES if fields.source.version == 4 else IPV6_BYTES
    segment = _transport(fields, fields.length - header)
    if fields.source.version == 4:
        start = struct.pack(
            "!BBHHHBBH", 0x45, fields.tos, 20 + len(segment), 1, 0x4000, fields.ttl, fields.protocol, 0
        )
        start += fields.source.packed + fields.to.packed
        packet = start[:10] + struct.pack("!H", checksum(start)) + start[12:] + segment
    else:
        first = 6 << 28 | fields.tos << 20
        packet = struct.pack("!IHBB", first, len(segment), fields.protocol, fields.ttl)
        packet += fields.source.packed + fields.to.packed + segment
    kind = IPV4 if fields.source.version == 4 else IPV6
    return fields.to_mac + fields.from_mac + struct.pack("!H", kind) + packet


def _transport(fields: Fields, room: int) -> bytes:
    source, to = fields.ports
    match fields.protocol:
        case 6:
            segment, at = struct.pack("!HHIIBBHHH", source, to, 1, 1, 0x50, fields.flags, 65535, 0, 0), 16
        case 17:
            segment, at = struct.pack("!HHHH", source, to, max(8, room), 0), 6
        case 1:
            segment, at = struct.pack("!BBHI", 8, 0, 0, 1), 2
        case 58:
            segment, at = struct.pack("!BBHI", 128, 0, 0, 1), 2
        case _:
            return (fields.payload or bytes(8)).ljust(max(room, 0), b"\0")
    segment = segment.ljust(max(room, 0), b"\0")
    pseudo = b""
    if fields.protocol != ICMP:
        pseudo = fields.source.packed + fields.to.packed + struct.pack("!II", len(segment), fields.protocol)
    return segment[:at] + struct.pack("!H", checksum(pseudo + segment) or 0xFFFF) + segment[at + 2 :]


def parse_address(text: str) -> Address:
    """An address; raises ValueError."""
    return ip_address(text)


def port_of(text: str, protocol: str) -> int:
    """A port by its number or its service's name; raises ValueError."""
    if text.isdigit() and int(text) <= 0xFFFF:
        return int(text)
    try:
        return socket.getservbyname(text, protocol)
    except OSError:
        raise ValueError(text) from None
