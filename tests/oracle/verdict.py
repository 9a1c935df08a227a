# SPDX-License-Identifier: Apache-2.0
"""What two routers made of the same packets: what may differ by nature, and what must not."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable

from tests.oracle import wire
from tests.oracle.case import Frame
from tests.oracle.router import port_mac

Frames = Counter[Frame]

_MULTICAST_REPORTS = (b"\x83", b"\x84", b"\x8f")  # MLD
_BRIDGES, _OF_PORTS = bytes((1, 0x80, 0xC2, 0, 0, 0)), port_mac(0)[:5]
_ALWAYS = frozenset({bytes((192, 0, 0, 8)), bytes((127, 0, 0, 1))})
"""What any router sends by: errors where it has no address (RFC 7600); and what is routed though it is loopback's."""


def _is_report(frame: bytes) -> bool:
    """Reports of the groups the router is in are sent at random times; they have a hop-by-hop option before them."""
    packet = frame[14:]
    return frame[12:14] == b"\x86\xdd" and packet[6:8] == b"\0\1" and packet[48:49] in _MULTICAST_REPORTS


def _is_bpdu(frame: bytes) -> bool:
    """A bridge with a spanning tree sends them every other second, and when something happens to its ports."""
    return frame[:6] == _BRIDGES and frame[6:11] == _OF_PORTS


def _without_id(frame: bytes) -> bytes:
    """The id of a packet the kernel makes itself comes from a counter with random steps."""
    packet = frame[14:]
    header = 4 * (packet[0] & 15)
    assert wire.checksum(packet[:header]) == 0, "a packet of the router's own has a wrong checksum"
    return frame[:18] + b"\0\0" + frame[20:24] + b"\0\0" + frame[26:]


def steadied(frames: Iterable[Frame], router: frozenset[bytes]) -> Frames:
    """Frames without what is random by nature; ``router`` has the IPv4 addresses of the router."""
    found: Frames = Counter()
    for frame in frames:
        data = frame.data
        if _is_report(data) or _is_bpdu(data):
            continue
        if data[12:14] == b"\x08\x00" and data[26:30] in router | _ALWAYS:
            data = _without_id(data)
        found[Frame(frame.port, data)] += 1
    return found


def is_question(frame: Frame) -> bool:
    """Whether it asks for a neighbour's address: once for each neighbour, whichever packet needs it first."""
    data = frame.data
    [kind] = struct.unpack_from("!H", data, 12)
    return kind == wire.ARP or (
        kind == wire.IPV6 and data[20:21] == bytes([wire.ICMP6]) and data[54:55] == b"\x87"
    )


def differences(plain: Frames, fast: Frames) -> list[str]:
    """A line for each frame that only one of them sent."""
    lines = []
    for who, extra in (("only the kernel", plain - fast), ("only the fast path", fast - plain)):
        lines += [
            f"{who}, {count} times by p{f.port}: {wire.described(f.data)}" for f, count in extra.items()
        ]
    return lines
