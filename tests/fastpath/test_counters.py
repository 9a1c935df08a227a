# SPDX-License-Identifier: Apache-2.0
"""Counters by interface, module, verdict and reason agree with what the kernel counts of the interfaces."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from pliant.agent.daemon.metrics import fastpath_values
from pliant.agent.fastpath import FastpathGround
from pliant.fastpath.counters import ACCELERATED, LEFT, Key, read_counters
from pliant.kernel.packet_counts import Counted
from tests.fastpath.fastpath_row import Fastpath, Row

ETHERNET_BYTES = 14
SENT = 60
PORT = 9


class Device(NamedTuple):
    """Of an interface, as ``ip -s link`` has it."""

    packets_in: int
    bytes_in: int
    packets_out: int


def devices(row: Row) -> dict[str, Device]:
    lines = Path(f"/proc/{row.router.pid}/net/dev").read_text().splitlines()[2:]
    fields = {name.strip(): rest.split() for name, _, rest in (line.partition(":") for line in lines)}
    return {n: Device(*(int(fields[n][at]) for at in (1, 0, 9))) for n in (row.left, row.right)}


def counters(fastpath: Fastpath) -> dict[Key, Counted]:
    with fastpath.row.router.inside():
        return read_counters(fastpath.pins, fastpath.found())


def both(fastpath: Fastpath) -> tuple[dict[str, Device], dict[Key, Counted]]:
    """What the kernel has counted and what we have, when nothing comes in between."""
    deadline = time.monotonic() + 20
    while True:
        before, counted, after = devices(fastpath.row), counters(fastpath), devices(fastpath.row)
        if before == after:
            return after, counted
        assert time.monotonic() < deadline


def send(row: Row, address: str, count: int, hops: int = 64) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    level, option = (41, 16) if family == socket.AF_INET6 else (0, socket.IP_TTL)
    with row.sender.inside(), socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(level, option, hops)
        for _ in range(count):
            sock.sendto(b"counted", (address, PORT))


def total(counted: Iterable[tuple[Key, Counted]], **wanted: str) -> Counted:
    found = [
        one for key, one in counted if all(getattr(key, name) == value for name, value in wanted.items())
    ]
    return Counted(sum(one.packets for one in found), sum(one.bytes for one in found))


def test_every_packet_is_counted_once_and_as_the_kernel_counts_it(fastpath: Fastpath, row: Row) -> None:
    fastpath.become(fastpath.acceleration(row.left), fastpath.acceleration(row.right))
    link = row.receiver.links[0]
    four, six = str(link.address_of(row.receiver)), str(link.address6_of(row.receiver))
    for address in (four, six):
        send(row, address, 1)  # neighbours
    devices_before, before = both(fastpath)
    for address in (four, six):
        send(row, address, SENT)
        send(row, address, 5, hops=1)
    deadline = time.monotonic() + 20
    while True:
        devices_after, after = both(fastpath)
        new = {key: Counted(c.packets - before.get(key, Counted()).packets,
                            c.bytes - before.get(key, Counted()).bytes) for key, c in after.items()}  # fmt: skip
        expiring = Counter({key.module: c.packets for key, c in new.items() if key.reason == "expiring"})
        if expiring["route4"] >= 5 and expiring["route6"] >= 5:
            break
        assert time.monotonic() < deadline
    for name in (row.left, row.right):
        seen = devices_after[name].packets_in - devices_before[name].packets_in
        octets = devices_after[name].bytes_in - devices_before[name].bytes_in
        counted = total(new.items(), interface=name)
        assert counted.packets == seen
        assert counted.bytes == octets + ETHERNET_BYTES * seen  # a veth with XDP counts without the header
    for module in ("route4", "route6"):
        ours = total(new.items(), interface=row.left, module=module, verdict=ACCELERATED)
        left = total(new.items(), interface=row.left, module=module, verdict=LEFT)
        assert ours.packets > SENT * 0.5
        assert ours.packets + left.packets >= SENT + 5
    accelerated = total(new.items(), interface=row.left, verdict=ACCELERATED)
    sent = devices_after[row.right].packets_out - devices_before[row.right].packets_out
    assert accelerated.packets <= sent <= accelerated.packets + 20  # the kernel's own: confirming, neighbours
    assert expiring == Counter({"route4": 5, "route6": 5})


def test_metrics_are_the_counters(fastpath: Fastpath, row: Row) -> None:
    fastpath.become(fastpath.acceleration(row.left))
    send(row, str(row.receiver.links[0].address_of(row.receiver)), SENT)
    with row.router.inside():
        found = dict(fastpath_values(FastpathGround(fastpath.ground.pins.root)))
    counted = counters(fastpath)
    shown = dict(found["pliant_fastpath_packets_total"])
    key = (row.left, "route4", "accelerated", "")
    assert shown[key] == counted[Key(*key)].packets > SENT * 0.5
    assert sum(shown.values()) == sum(one.packets for one in counted.values())
    assert found["pliant_fastpath_interfaces_count"] == [(("native",), 1)]
