# SPDX-License-Identifier: Apache-2.0
"""Frames byte by byte, right ones and wrong ones, and how to tell what one is."""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

ICMP, TCP, UDP, ICMP6 = 1, 6, 17, 58
IPV4, IPV6, ARP = 0x0800, 0x86DD, 0x0806
MAC_BYTES, ETHERNET_BYTES, IPV4_BYTES, IPV6_BYTES = 6, 14, 20, 40

Address = IPv4Address | IPv6Address


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    padded = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def mac(address: bytes) -> str:
    """As ip(8) writes it."""
    return address.hex(":")


def ethernet(to: bytes, source: bytes, kind: int, packet: bytes) -> bytes:
    return to + source + struct.pack("!H", kind) + packet


def ipv4(
    source: str,
    to: str,
    protocol: int,
    payload: bytes,
    *,
    ttl: int = 64,
    tos: int = 0,
    number: int = 0,
    fragment: int = 0,
    options: bytes = b"",
) -> bytes:
    """``fragment`` is flags and offset as they are in the header."""
    words = 5 + len(options) // 4
    addresses = socket.inet_aton(source) + socket.inet_aton(to)
    total = 4 * words + len(payload)
    fields = (0x40 | words, tos, total, number, fragment, ttl, protocol)
    header = struct.pack("!BBHHHBBH", *fields, 0) + addresses + options
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + payload


def ipv6(
    source: str, to: str, following: int, payload: bytes, *, hops: int = 64, tos: int = 0, label: int = 0
) -> bytes:
    first = 6 << 28 | tos << 20 | label
    header = struct.pack("!IHBB", first, len(payload), following, hops)
    return header + IPv6Address(source).packed + IPv6Address(to).packed + payload


def _summed(source: str, to: str, protocol: int, segment: bytes, at: int) -> bytes:
    """A segment with its checksum, which covers the addresses, filled in."""
    pseudo = ip_address(source).packed + ip_address(to).packed + struct.pack("!II", len(segment), protocol)
    filled = checksum(pseudo + segment) or 0xFFFF
    return segment[:at] + struct.pack("!H", filled) + segment[at + 2 :]


def udp(source: str, to: str, ports: tuple[int, int], payload: bytes) -> bytes:
    segment = struct.pack("!HHHH", *ports, 8 + len(payload), 0) + payload
    return _summed(source, to, UDP, segment, 6)


def tcp(source: str, to: str, ports: tuple[int, int], flags: int, payload: bytes) -> bytes:
    segment = struct.pack("!HHIIBBHHH", *ports, 1000, 2000, 0x50, flags, 4096, 0, 0) + payload
    return _summed(source, to, TCP, segment, 16)


def icmp4(kind: int, code: int, rest: bytes, payload: bytes) -> bytes:
    message = struct.pack("!BBH4s", kind, code, 0, rest) + payload
    return message[:2] + struct.pack("!H", checksum(message)) + message[4:]


def icmp6(source: str, to: str, kind: int, code: int, rest: bytes, payload: bytes) -> bytes:
    message = struct.pack("!BBH4s", kind, code, 0, rest) + payload
    return _summed(source, to, ICMP6, message, 2)


def described(frame: bytes) -> str:
    """A line for people: what a frame is, as far as it can be read."""
    if len(frame) < ETHERNET_BYTES:
        return f"{len(frame)} bytes: {frame.hex()}"
    [kind] = struct.unpack_from("!H", frame, 12)
    stations = f"{frame[6:12].hex()} > {frame[:6].hex()}"
    packet = frame[ETHERNET_BYTES:]
    if kind == IPV4 and len(packet) >= IPV4_BYTES:
        source, to = (IPv4Address(packet[at : at + 4]) for at in (12, 16))
        total, number, part = struct.unpack_from("!HHH", packet, 2)
        what = f"IPv4 {source} > {to} proto {packet[9]} ttl {packet[8]} tos {packet[1]:#x} length {total} id {number}"
        what += f" fragment {part:#x}" if part else ""
        rest = packet[4 * (packet[0] & 15) :]
    elif kind == IPV6 and len(packet) >= IPV6_BYTES:
        source6, to6 = (IPv6Address(packet[at : at + 16]) for at in (8, 24))
        [first, length] = struct.unpack_from("!IH", packet)
        what = f"IPv6 {source6} > {to6} next {packet[6]} hops {packet[7]} first {first:#x} payload {length}"
        rest = packet[IPV6_BYTES:]
    else:
        what, rest = f"type {kind:#06x}", packet
    return f"{stations} {what}, {len(frame)} bytes: {rest[:24].hex()}"
