# SPDX-License-Identifier: Apache-2.0
"""Ethernet frames with IPv4 or IPv6 packets in them, all checksums right."""

from __future__ import annotations

import ipaddress
import socket
import struct

SHORTEST_BYTES = 60
"""The shortest frame there is on Ethernet, without its check sequence."""
TCP_ACK = 0x10
HOPS = 64
_ETHERNET_BYTES = 14


def udp_frame(
    to_mac: bytes,
    from_mac: bytes,
    source: str,
    destination: str,
    *,
    ports: tuple[int, int] = (1234, 9),
    length: int = SHORTEST_BYTES,
    checksum: bool = True,
    hops: int = HOPS,
) -> bytes:
    """A frame with a UDP packet; longer than asked for where its headers are. No padding follows the packet.

    Without a ``checksum``, which only IPv4 allows, nobody on the way can look whether it is right, which is the work of
    network cards, where there are any.
    """
    header = struct.pack("!HHHH", *ports, 0, 0)
    return _frame(to_mac + from_mac, source, destination, socket.IPPROTO_UDP, header, length, checksum, hops)


def tcp_frame(
    to_mac: bytes,
    from_mac: bytes,
    source: str,
    destination: str,
    *,
    ports: tuple[int, int] = (1234, 9),
    numbers: tuple[int, int] = (1, 1),
    flags: int = TCP_ACK,
    length: int = SHORTEST_BYTES,
) -> bytes:
    """A frame with a TCP segment without options; ``numbers`` are those of sequence and acknowledgement."""
    header = struct.pack("!HHIIBBHHH", *ports, *numbers, 5 << 4, flags, 0xFFFF, 0, 0)
    return _frame(to_mac + from_mac, source, destination, socket.IPPROTO_TCP, header, length)


def _frame(
    macs: bytes,
    source: str,
    destination: str,
    protocol: int,
    header: bytes,
    length: int,
    has_checksum: bool = True,
    hops: int = HOPS,
) -> bytes:
    one, other = ipaddress.ip_address(source), ipaddress.ip_address(destination)
    addresses = one.packed + other.packed
    ip_bytes = 20 if one.version == 4 else 40
    size = max(length - _ETHERNET_BYTES - ip_bytes, len(header))
    segment = bytearray(header.ljust(size, b"\0"))
    if protocol == socket.IPPROTO_UDP:
        struct.pack_into("!H", segment, 4, size)
    if has_checksum:
        checksum = internet_checksum(addresses + struct.pack("!II", size, protocol) + segment)
        struct.pack_into("!H", segment, 6 if protocol == socket.IPPROTO_UDP else 16, checksum or 0xFFFF)
    if one.version == 6:
        return macs + b"\x86\xdd" + struct.pack("!IHBB", 6 << 28, size, protocol, hops) + addresses + segment
    ip = bytearray(struct.pack("!BBHHHBBH", 0x45, 0, ip_bytes + size, 1, 0, hops, protocol, 0) + addresses)
    struct.pack_into("!H", ip, 10, internet_checksum(ip))
    return macs + b"\x08\x00" + ip + segment


def internet_checksum(data: bytes | bytearray) -> int:
    """The checksum of RFC 1071."""
    words = struct.unpack(f"!{(len(data) + 1) // 2}H", bytes(data).ljust((len(data) + 1) // 2 * 2, b"\0"))
    total: int = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
