# SPDX-License-Identifier: Apache-2.0
"""The relay's decisions, without devices: packets in, fates out."""

from __future__ import annotations

import random
import struct
from typing import Any

import pytest

from pliant.lab import relay
from pliant.lab.path import PathSpec
from pliant.lab.ping import internet_checksum

MS = 1_000_000


def direction(seed: int = 1, **setting: Any) -> relay.Direction:
    return relay.Direction(-1, -1, 0, random.Random(seed), PathSpec(**setting).settings().as_json())


def dues(path: relay.Direction) -> list[int]:
    return [due for due, _ in path.wire]


def ipv4(tos: int) -> bytes:
    head = struct.pack(">BBHHHBBH4s4s", 0x45, tos, 40, 7, 0, 64, 6, 0, bytes(4), bytes(4))
    return head[:10] + struct.pack(">H", internet_checksum(head)) + head[12:] + bytes(20)


def ipv6(traffic_class: int) -> bytes:
    return struct.pack(">IHBB", 6 << 28 | traffic_class << 20, 20, 6, 64) + bytes(32 + 20)


def test_packets_leave_at_the_rate_and_arrive_after_the_delay() -> None:
    path = direction(rate="8Mbit", delay="10ms")  # 1 us a byte
    for _ in range(3):
        path.accept(b"x", 1000, 5 * MS)
    path.accept(b"x", 1000, 20 * MS)
    assert dues(path) == [16 * MS, 17 * MS, 18 * MS, 31 * MS]


def test_queue_in_bytes_and_in_packets_drops_the_tail() -> None:
    for queue in ("3000 bytes", "3 packets"):
        path = direction(rate="8Mbit", queue=queue)
        for _ in range(5):
            path.accept(b"x", 1000, 0)
        assert path.counts["dropped"] == 2
        assert path.counts["most_queued_bytes"] == 2000
        path.accept(b"x", 1000, 1 * MS)  # one has left
        assert path.counts["dropped"] == 2


def test_jitter_never_reorders() -> None:
    path = direction(delay="10ms", jitter="9ms")
    for now in range(0, 100 * MS, MS):
        path.accept(b"x", 100, now)
    assert dues(path) == sorted(dues(path))
    assert len(set(dues(path))) > 20


def test_change_keeps_what_is_on_the_wire() -> None:
    path = direction(delay="10ms")
    path.accept(b"x", 100, 0)
    path.change(PathSpec(delay="1ms").settings().as_json())
    path.accept(b"x", 100, 1 * MS)
    path.accept(b"x", 100, 20 * MS)
    assert dues(path) == [10 * MS, 10 * MS, 21 * MS]


@pytest.mark.parametrize("header", [0, relay.VNET_HEADER.size])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(ipv4(0x00), None, id="v4 not capable"),
        pytest.param(ipv4(0xB8), None, id="v4 DSCP only"),
        pytest.param(ipv4(0x01), ipv4(0x03), id="v4 ECT(1)"),
        pytest.param(ipv4(0xBA), ipv4(0xBB), id="v4 ECT(0) with DSCP"),
        pytest.param(ipv4(0x03), ipv4(0x03), id="v4 marked already"),
        pytest.param(ipv6(0x00), None, id="v6 not capable"),
        pytest.param(ipv6(0xB8), None, id="v6 DSCP only"),
        pytest.param(ipv6(0x01), ipv6(0x03), id="v6 ECT(1)"),
        pytest.param(ipv6(0xBA), ipv6(0xBB), id="v6 ECT(0) with DSCP"),
    ],
)
def test_mark(before: bytes, after: bytes | None, header: int) -> None:
    marked = relay.mark_congestion(bytes(header) + before, header)
    assert marked == (None if after is None else bytes(header) + after)


def test_aggregate_counts_the_headers_of_every_segment() -> None:
    headers = bytes(20) + bytes(12) + b"\x80" + bytes(19)  # IPv4, and TCP of 32 bytes
    aggregate = relay.VNET_HEADER.pack(1, 1, 52, 1448, 20, 16) + headers + bytes(10 * 1448)
    assert relay.wire_size(aggregate) == 10 * 1500
    single = relay.VNET_HEADER.pack(0, 0, 0, 0, 0, 0) + bytes(100)
    assert relay.wire_size(single) == 100
