# SPDX-License-Identifier: Apache-2.0
"""A long path in user space: carries packets between two TUN devices with rate, delay, loss and marks.

Each direction is a transmitter with a finite drop-tail queue and a wire. A packet that arrives while the
queue is full is dropped. Otherwise it leaves the transmitter when all before it have (size / rate), may be
lost on the wire, and is delivered one delay (plus jitter, without overtaking) later:

    departs = max(arrived, previous departs) + size / rate
    due     = max(departs + delay + jitter, previous due)

So no packet waits in two places, and one deque per direction, ordered by due time, is the whole state. The
loop sleeps in select (microseconds, timer slack 1 ns) until a packet arrives or the next one is due.

Run by path with ``python -I -S``: it may import only the standard library. Its one argument is JSON with
the descriptors (``tun``: two, ``control``: a socket, ``statistics``: a memfd, ``recording``: two memfds or
null), ``header`` (bytes before each IP packet), ``seed`` and ``directions`` (two settings). The control socket
takes one JSON message for a change and answers "ok".

A recording says when each packet came into the transmitter's queue and when it left the transmitter: a count of all
packets so far, then for the latest as many pairs of times (CLOCK_MONOTONIC, ns) as fit, in a ring. The length of the
queue at any time follows from it.
"""

from __future__ import annotations

import ctypes
import gc
import json
import mmap
import os
import random
import select
import socket
import struct
import sys
import time
from collections import deque
from contextlib import suppress
from typing import Any

PR_SET_TIMERSLACK = 29
MOST_READS = 64  # a wake: bounded, so that a flood in one direction cannot hold up deliveries
LARGEST_PACKET = 65536 + 64
IDLE_NS = 10**9
LONG_SLEEP_NS = 1_000_000
WAKE_EARLY_NS = 300_000
FIELDS = ("forwarded", "forwarded_bytes", "dropped", "lost", "marked", "undelivered", "most_queued_bytes")

PASSAGE = struct.Struct("=QQ")  # of a packet through the queue: arrived, departs
RECORDING_HEADER = struct.Struct("=QQ")  # packets so far, the rest unused

VNET_HEADER = struct.Struct("<BBHHHHxx")  # flags, gso type, header length, gso size, checksum start, offset


class Direction:
    """One direction of the link: the transmitter's queue, the wire and their counters."""

    def __init__(
        self,
        source: int,
        sink: int,
        header: int,
        rng: random.Random,
        setting: dict[str, Any],
        recording: mmap.mmap | None = None,
    ) -> None:
        self.recording = recording
        self.recorded = 0
        self.source = source
        self.sink = sink
        self.header = header
        self.rng = rng
        self.departures: deque[int] = deque()  # of packets that may still be in the queue
        self.wire: deque[tuple[int, bytes]] = deque()  # (due, packet), by due time
        self.free_at = 0  # when the transmitter has sent all it accepted
        self.last_due = 0
        self.counts = dict.fromkeys(FIELDS, 0)
        self.change(setting)

    def change(self, setting: dict[str, Any]) -> None:
        """Take new settings; packets already accepted keep the times they were given."""
        rate = setting["rate"]
        self.ns_per_byte: float = 8e9 / rate if rate else 0.0
        self.delay_ns: int = setting["delay_ns"]
        self.jitter_ns: int = setting["jitter_ns"]
        self.loss: float = setting["loss"]
        self.most_bytes, self.most_packets = _limits(setting["queue"])
        self.mark_bytes, self.mark_packets = _limits(setting["mark_above"])
        self.marks: bool = setting["mark_above"] is not None

    def receive(self, now: int) -> None:
        """Read what has arrived and decide the fate of each packet."""
        source, header = self.source, self.header
        try:
            for _ in range(MOST_READS):
                packet = os.read(source, LARGEST_PACKET)
                self.accept(packet, wire_size(packet) if header else len(packet), now)
        except BlockingIOError:
            pass

    def accept(self, packet: bytes, size: int, now: int) -> None:
        """Queue, mark, lose or drop one packet of ``size`` bytes on the wire."""
        departs = now
        if self.ns_per_byte:
            departures, free_at = self.departures, self.free_at
            while departures and departures[0] <= now:
                departures.popleft()
            queued = int((free_at - now) / self.ns_per_byte) if free_at > now else 0
            if queued + size > self.most_bytes or len(departures) >= self.most_packets:
                self.counts["dropped"] += 1
                return
            if queued > self.counts["most_queued_bytes"]:
                self.counts["most_queued_bytes"] = queued
            if self.marks and (queued > self.mark_bytes or len(departures) > self.mark_packets):
                packet = self.marked(packet)
            departs = self.free_at = (free_at if free_at > now else now) + int(size * self.ns_per_byte)
            departures.append(departs)
        if self.recording is not None:
            self.record(now, departs)
        if self.loss and self.rng.random() < self.loss:
            self.counts["lost"] += 1
            return
        due = departs + self.delay_ns
        if self.jitter_ns:
            due += int(self.jitter_ns * (2 * self.rng.random() - 1))
        if due < self.last_due:
            due = self.last_due
        self.last_due = due
        self.wire.append((due, packet))

    def record(self, arrived: int, departs: int) -> None:
        """Write a packet's way through the queue into the ring, then count it."""
        ring = self.recording
        assert ring is not None
        room = (len(ring) - RECORDING_HEADER.size) // PASSAGE.size
        place = RECORDING_HEADER.size + self.recorded % room * PASSAGE.size
        PASSAGE.pack_into(ring, place, arrived, departs)
        self.recorded += 1
        RECORDING_HEADER.pack_into(ring, 0, self.recorded, 0)

    def marked(self, packet: bytes) -> bytes:
        """Return the packet with Congestion Experienced set, if it is ECN-capable (RFC 3168)."""
        changed = mark_congestion(packet, self.header)
        if changed is None:
            return packet
        self.counts["marked"] += 1
        return changed

    def deliver(self, now: int) -> None:
        """Write every packet that is due."""
        wire, sink, write = self.wire, self.sink, os.write
        packets = size = 0
        while wire and wire[0][0] <= now:
            packet = wire.popleft()[1]
            try:
                write(sink, packet)
            except OSError:  # the device is down, or its namespace is going away
                self.counts["undelivered"] += 1
                continue
            packets += 1
            size += len(packet) - self.header
        self.counts["forwarded"] += packets
        self.counts["forwarded_bytes"] += size


def _limits(depth: dict[str, int | None] | None) -> tuple[float, float]:
    if depth is None:
        return float("inf"), float("inf")
    as_bytes, as_packets = depth["bytes"], depth["packets"]
    return (
        float("inf") if as_bytes is None else as_bytes,
        float("inf") if as_packets is None else as_packets,
    )


def wire_size(packet: bytes) -> int:
    """Return the bytes an aggregate takes on the wire: each segment carries the headers again."""
    size = len(packet) - VNET_HEADER.size
    gso_type: int
    segment: int
    transport: int
    _, gso_type, _, segment, transport, _ = VNET_HEADER.unpack_from(packet)
    if gso_type == 0 or segment == 0:
        return size
    headers = transport + (packet[VNET_HEADER.size + transport + 12] >> 4) * 4
    segments = -(-(size - headers) // segment)
    return size + (segments - 1) * headers


def mark_congestion(packet: bytes, header: int) -> bytes | None:
    """Return a copy with Congestion Experienced set, or None if the packet is not ECN-capable."""
    if packet[header] >> 4 == 6:
        if not packet[header + 1] & 0x30:
            return None
        copy = bytearray(packet)
        copy[header + 1] |= 0x30
        return bytes(copy)
    if not packet[header + 1] & 3:
        return None
    copy = bytearray(packet)
    copy[header + 1] |= 3
    end = header + (packet[header] & 15) * 4
    copy[header + 10 : header + 12] = b"\0\0"
    total = sum(struct.unpack_from(f">{(end - header) // 2}H", copy, header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    struct.pack_into(">H", copy, header + 10, total ^ 0xFFFF)
    return bytes(copy)


def apply_change(control: socket.socket, directions: list[Direction]) -> bool:
    """Apply one change and confirm it; False when the owner has closed the socket."""
    message = control.recv(65536)
    if not message:
        return False
    for index, setting in json.loads(message).items():
        directions[int(index)].change(setting)
    control.send(b"ok")
    return True


def run(directions: list[Direction], control: socket.socket, statistics: mmap.mmap) -> None:
    """Carry packets until the owner closes the control socket."""
    one, other = directions
    publish = struct.Struct(f"{2 * len(FIELDS)}Q").pack_into
    clock, sleep = time.monotonic_ns, select.select
    watched = [one.source, other.source, control.fileno()]
    while True:
        now = clock()
        due = min(
            one.wire[0][0] if one.wire else now + IDLE_NS, other.wire[0][0] if other.wire else now + IDLE_NS
        )
        left = due - now
        if left > LONG_SLEEP_NS:  # a long sleep ends some 100 us late, a short one 20: take two
            left -= WAKE_EARLY_NS
        ready = sleep(watched, [], [], left / 1e9 if left > 0 else 0)[0]
        now = clock()
        if ready:
            if one.source in ready:
                one.receive(now)
            if other.source in ready:
                other.receive(now)
            if watched[2] in ready and not apply_change(control, directions):
                return
            now = clock()
        if one.wire and one.wire[0][0] <= now:
            one.deliver(now)
        if other.wire and other.wire[0][0] <= now:
            other.deliver(now)
        publish(statistics, 0, *one.counts.values(), *other.counts.values())


def run_ahead_of_others() -> None:
    """Become a real-time process (sched(7)) where that is allowed: else busy processors wake it up to 4 ms late."""
    with suppress(OSError):  # no CAP_SYS_NICE, or no real-time share for this control group
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(os.sched_get_priority_min(os.SCHED_RR)))


def main() -> None:
    """Read the settings and carry packets."""
    setup = json.loads(sys.argv[1])
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)
    run_ahead_of_others()
    control = socket.socket(fileno=setup["control"])
    statistics = mmap.mmap(setup["statistics"], 0)
    tun = setup["tun"]
    directions = [
        Direction(
            tun[i],
            tun[1 - i],
            setup["header"],
            random.Random(f"{setup['seed']}/{i}"),
            setup["directions"][i],
            None if setup["recording"] is None else mmap.mmap(setup["recording"][i], 0),
        )
        for i in (0, 1)
    ]
    gc.disable()
    control.send(b"ok")
    run(directions, control, statistics)


if __name__ == "__main__":
    main()
