# SPDX-License-Identifier: Apache-2.0
"""What a relay records of its queue, and what is read from it."""

from __future__ import annotations

import mmap
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from pliant.errors import PliantError
from pliant.lab import Host, Lab, TcpClient, TcpServer, relay
from pliant.lab.path import PathSpec
from pliant.lab.queue_record import QueueRecord, read_recording

if TYPE_CHECKING:
    from tests.lab.conftest import Eventually

MS = 1_000_000
PACKETS = 4


@pytest.fixture
def ring() -> Iterator[mmap.mmap]:
    with mmap.mmap(-1, relay.RECORDING_HEADER.size + PACKETS * relay.PASSAGE.size) as memory:
        yield memory


def direction(ring: mmap.mmap) -> relay.Direction:
    spec = PathSpec(rate="8Mbit", queue="3 packets")  # 1 ms for 1000 bytes
    return relay.Direction(-1, -1, 0, random.Random(1), spec.settings().as_json(), ring)


def test_length_follows_from_when_packets_came_and_left(ring: mmap.mmap) -> None:
    path = direction(ring)
    for _ in range(5):  # the last two find the queue full
        path.accept(b"x", 1000, 10 * MS)
    record = read_recording(ring)
    assert record == QueueRecord((10 * MS,) * 3, (11 * MS, 12 * MS, 13 * MS))
    assert [record.length_at(ms * MS) for ms in (9, 10, 11, 12, 13)] == [0, 3, 2, 1, 0]


def test_ring_keeps_the_latest_packets_in_order(ring: mmap.mmap) -> None:
    path = direction(ring)
    for number in range(6):
        path.accept(b"x", 1000, number * 10 * MS)
    record = read_recording(ring)
    assert record.arrived == tuple(number * 10 * MS for number in (2, 3, 4, 5))
    assert record.between(35 * MS, 50 * MS).arrived == (40 * MS,)


def test_lengths_are_taken_at_even_times(ring: mmap.mmap) -> None:
    path = direction(ring)
    path.accept(b"x", 1000, 0)
    path.accept(b"x", 1000, 0)
    path.accept(b"x", 1000, 4 * MS)
    assert read_recording(ring).lengths(every_s=0.001) == [2, 1, 0, 0, 1]


def test_nothing_recorded_is_no_lengths(ring: mmap.mmap) -> None:
    assert read_recording(ring).lengths() == []


@pytest.mark.root
def test_link_records_the_queue_toward_a_host(
    lab: Lab, server: Host, client: Host, eventually: Eventually
) -> None:
    link = lab.link(server, client, rate="20Mbit", delay="5ms", queue="30 packets", record_packets=1 << 12)
    with TcpServer(server, mode="sink") as sink, TcpClient(client) as source:
        source.connect(server.address, sink.port)
        source.send(500_000)
        eventually(lambda: sink.received_bytes() == 500_000)
    lengths = link.queue_record(toward=server).lengths()
    assert 5 < max(lengths) <= 30
    assert len(link.queue_record(toward=server).arrived) >= 500_000 / 1500


@pytest.mark.root
def test_link_without_a_recording_says_how_to_have_one(lab: Lab, server: Host, client: Host) -> None:
    link = lab.link(server, client, delay="1ms", medium="relay")
    with pytest.raises(PliantError, match="does not record") as error:
        link.queue_record(toward=server)
    assert "record_packets" in error.value.remedy
