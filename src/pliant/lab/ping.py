# SPDX-License-Identifier: Apache-2.0
"""Round-trip times by ICMP echo, from inside a lab host."""

from __future__ import annotations

import os
import socket
import struct
import time
from contextlib import suppress

from pliant.errors import PliantError
from pliant.lab.host import Host

_HEADER = struct.Struct(">BBHHH")  # type, code, checksum, identifier, sequence (RFC 792, RFC 4443)


def ping(
    host: Host,
    address: str,
    *,
    count: int = 10,
    interval_s: float = 0.0,
    timeout_s: float = 2.0,
    size: int = 56,
) -> list[float]:
    """Send echo requests one after the other and return the round-trip times in seconds.

    Requests that got no answer in ``timeout_s`` are missing from the list; raises PliantError when none did.
    ``interval_s`` passes between requests, at least until the answer.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    protocol = socket.getprotobyname("ipv6-icmp") if family == socket.AF_INET6 else socket.IPPROTO_ICMP
    with host.inside():
        echo = socket.socket(family, socket.SOCK_RAW, protocol)
    with echo:
        echo.connect((address, 0))
        times = []
        for sequence in range(count):
            started = time.monotonic()
            taken = _echo(echo, family, sequence, size, timeout_s)
            if taken is not None:
                times.append(taken)
            if sequence + 1 < count and (left := interval_s - (time.monotonic() - started)) > 0:
                time.sleep(left)
    if not times:
        raise PliantError(f"{address} answered none of {count} echo requests from lab host {host.name}")
    return times


def _echo(echo: socket.socket, family: int, sequence: int, size: int, timeout_s: float) -> float | None:
    identifier = os.getpid() & 0xFFFF
    kinds = (128, 129) if family == socket.AF_INET6 else (8, 0)
    request = _HEADER.pack(kinds[0], 0, 0, identifier, sequence & 0xFFFF) + bytes(size)
    if family == socket.AF_INET:  # for ICMPv6 the kernel fills the checksum in
        request = request[:2] + struct.pack(">H", internet_checksum(request)) + request[4:]
    started = time.perf_counter()
    deadline = started + timeout_s
    echo.send(request)
    while (left := deadline - time.perf_counter()) > 0:
        echo.settimeout(left)
        with suppress(TimeoutError):
            answer = echo.recv(65536)
            now = time.perf_counter()
            start = (answer[0] & 15) * 4 if family == socket.AF_INET else 0
            kind, _, _, theirs, number = _HEADER.unpack_from(answer, start)
            if (kind, theirs, number) == (kinds[1], identifier, sequence & 0xFFFF):
                return now - started
    return None


def internet_checksum(data: bytes) -> int:
    """Return the ones' complement checksum of RFC 1071."""
    total: int = sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF
