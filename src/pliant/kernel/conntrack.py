# SPDX-License-Identifier: Apache-2.0
"""Connections as the kernel tracks them, over netlink (ctnetlink): read, and forgotten."""

from __future__ import annotations

import errno as codes
import socket
import struct
from dataclasses import dataclass
from enum import IntFlag
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from pliant.kernel.errors import KernelError
from pliant.kernel.netlink import (
    NETLINK_NETFILTER,
    Attributes,
    Netlink,
    attribute,
    attributes,
    network_number,
)

_SUBSYSTEM = 1 << 8  # NFNL_SUBSYS_CTNETLINK
_GET, _DELETE = _SUBSYSTEM | 1, _SUBSYSTEM | 2
_HEADER = struct.Struct("=BBH")  # struct nfgenmsg
_TUPLE_ORIGINAL, _TUPLE_REPLY, _STATUS, _PROTOINFO, _TIMEOUT, _MARK = 1, 2, 3, 4, 7, 8  # CTA_*
_PROTOINFO_TCP, _TCP_STATE = 1, 1
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_NESTED = 0x8000  # NLA_F_NESTED
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_SOURCES, _DESTINATIONS = (1, 3), (2, 4)  # IPv4's and IPv6's

Address = IPv4Address | IPv6Address


class Status(IntFlag):
    """What the kernel has noted of a connection (enum ip_conntrack_status)."""

    EXPECTED = 1 << 0
    SEEN_REPLY = 1 << 1
    ASSURED = 1 << 2
    CONFIRMED = 1 << 3
    SOURCE_NAT = 1 << 4
    DESTINATION_NAT = 1 << 5
    SEQUENCE_ADJUSTED = 1 << 6
    SOURCE_NAT_DONE = 1 << 7
    DESTINATION_NAT_DONE = 1 << 8
    DYING = 1 << 9
    FIXED_TIMEOUT = 1 << 10


@dataclass(frozen=True, slots=True)
class Tuple:
    """What packets of one direction have in common. Ports are 0 for protocols without."""

    source: Address
    destination: Address
    protocol: int
    source_port: int
    destination_port: int


@dataclass(frozen=True, slots=True)
class Connection:
    """A tracked connection; ``tcp_state`` as the kernel numbers them (3: established), 0 for other protocols."""

    original: Tuple
    reply: Tuple
    status: Status
    timeout_s: int
    tcp_state: int = 0
    mark: int = 0


def read_connections(netns: Path | int | None = None) -> list[Connection]:
    """The connections of a namespace; raises :class:`KernelError`."""
    with Netlink(NETLINK_NETFILTER, netns) as netlink:
        found = netlink.dump(_GET, _HEADER.pack(0, 0, 0), "list the tracked connections")
    return [_connection(attributes(message, _HEADER.size)) for message in found]


def find_connection(wanted: Tuple, netns: Path | int | None = None) -> Connection | None:
    """The connection that packets with these addresses and ports are of, in either direction.

    None where there is none, or nothing is tracked. Raises :class:`KernelError`.
    """
    body = _HEADER.pack(_FAMILIES[wanted.source.version], 0, 0) + _encoded(wanted)
    with Netlink(NETLINK_NETFILTER, netns) as netlink:
        try:
            found = netlink.ask(_GET, body, "look up a connection")
        except KernelError as error:
            if error.errno in (codes.ENOENT, codes.EINVAL, codes.EOPNOTSUPP):
                return None
            raise
    return _connection(attributes(found, _HEADER.size))


def _encoded(wanted: Tuple) -> bytes:
    kinds = (_SOURCES[0], _DESTINATIONS[0]) if wanted.source.version == 4 else (_SOURCES[1], _DESTINATIONS[1])
    addresses = attribute(kinds[0], wanted.source.packed) + attribute(kinds[1], wanted.destination.packed)
    ports = (wanted.source_port.to_bytes(2, "big"), wanted.destination_port.to_bytes(2, "big"))
    protocol = attribute(1, bytes([wanted.protocol])) + attribute(2, ports[0]) + attribute(3, ports[1])
    parts = attribute(_NESTED | _TUPLE_IP, addresses) + attribute(_NESTED | _TUPLE_PROTO, protocol)
    return attribute(_NESTED | _TUPLE_ORIGINAL, parts)


def forget_connections(netns: Path | int | None = None) -> None:
    """Have the kernel forget every connection of a namespace; raises :class:`KernelError`."""
    with Netlink(NETLINK_NETFILTER, netns) as netlink:
        netlink.tell(_DELETE, _HEADER.pack(0, 0, 0), "have the kernel forget its connections")


def _connection(found: Attributes) -> Connection:
    tcp = (
        attributes(attributes(found[_PROTOINFO]).get(_PROTOINFO_TCP, memoryview(b"")))
        if _PROTOINFO in found
        else {}
    )
    return Connection(
        _tuple(found[_TUPLE_ORIGINAL]),
        _tuple(found[_TUPLE_REPLY]),
        Status(network_number(found.get(_STATUS))),
        network_number(found.get(_TIMEOUT)),
        network_number(tcp.get(_TCP_STATE)),
        network_number(found.get(_MARK)),
    )


def _tuple(raw: memoryview) -> Tuple:
    parts = attributes(raw)
    addresses, protocol = attributes(parts[_TUPLE_IP]), attributes(parts[_TUPLE_PROTO])
    source, destination = (
        next(ip_address(bytes(addresses[kind])) for kind in kinds if kind in addresses)
        for kinds in (_SOURCES, _DESTINATIONS)
    )
    ports = (network_number(protocol.get(kind)) for kind in (2, 3))
    return Tuple(source, destination, network_number(protocol.get(1)), *ports)
