# SPDX-License-Identifier: Apache-2.0
"""The neighbours of a network namespace (rtnetlink(7))."""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from pliant.kernel.netlink import NETLINK_ROUTE, Netlink, attributes

_GETNEIGH = 30
_MESSAGE = struct.Struct("=BxxxiHBB")  # struct ndmsg
_ADDRESS, _STATION = 1, 2  # NDA_DST, NDA_LLADDR
_STATES = {
    0: "NONE", 1: "INCOMPLETE", 2: "REACHABLE", 4: "STALE", 8: "DELAY", 16: "PROBE", 32: "FAILED", 64: "NOARP",
    128: "PERMANENT",
}  # fmt: skip


class Neighbour(NamedTuple):
    """An address, where it is, and how sure the kernel is of it."""

    address: str
    ifindex: int
    station: str
    state: str


def read_neighbours(netns: Path) -> list[Neighbour]:
    """All of both IP versions; raises KernelError."""
    found = []
    with Netlink(NETLINK_ROUTE, netns) as netlink:
        for family in (socket.AF_INET, socket.AF_INET6):
            for message in netlink.dump(_GETNEIGH, _MESSAGE.pack(family, 0, 0, 0, 0), "list neighbours"):
                _, ifindex, state, _, _ = _MESSAGE.unpack_from(message)
                has = attributes(message, _MESSAGE.size)
                station = bytes(has.get(_STATION, b"")).hex(":")
                found.append(
                    Neighbour(str(ip_address(bytes(has[_ADDRESS]))), ifindex, station, _STATES[state])
                )
    return found
