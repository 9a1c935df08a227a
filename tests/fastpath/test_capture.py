# SPDX-License-Identifier: Apache-2.0
"""Filters of captures choose the packets that libpcap's language says, accelerated or not."""

from __future__ import annotations

import socket
import time

import pytest

from pliant.errors import PliantError
from pliant.fastpath.capture import INSTRUCTIONS_MAX, Capture, Captured
from pliant.fastpath.frame import read_frame
from pliant.kernel.libpcap import compile_filter
from tests.fastpath.fastpath_row import Fastpath, Row

Sent = tuple[int, int, int]  # IP version, port, bytes of payload
PACKETS: tuple[Sent, ...] = ((4, 53, 4), (4, 9000, 4), (4, 9001, 700), (6, 53, 4), (6, 9000, 600))
LAST = 7777
# What a filter wants of these; between them they have every kind of instruction that libpcap makes.
FILTERS: tuple[tuple[str, set[Sent]], ...] = (
    ("", set(PACKETS)),
    ("ip", {p for p in PACKETS if p[0] == 4}),
    ("ip6 and udp", {p for p in PACKETS if p[0] == 6}),
    ("udp port 53", {p for p in PACKETS if p[1] == 53}),
    ("udp dst portrange 9000-9001", {p for p in PACKETS if p[1] >= 9000}),
    ("greater 500", {p for p in PACKETS if p[2] >= 500}),
    ("udp and not port 53 and less 200", {(4, 9000, 4)}),
    ("ip[2:2] > 100", {(4, 9001, 700)}),
    ("ip[0] & 0xf == 5 and udp[4:2] - 8 = 4", {(4, 53, 4), (4, 9000, 4)}),
    ("(ip[2:2] - 28) * 2 / 4 = 350", {(4, 9001, 700)}),
    ("ip[2:2] % 3 = 2 or ip6[6] = 99", {p for p in PACKETS if p[0] == 4 and (p[2] + 28) % 3 == 2}),
    ("udp[2:2] << 1 = 106 and ip", {(4, 53, 4)}),
    ("udp[(ip[0] & 3) + 1:2] = 53", {(4, 53, 4)}),
    ("tcp", set()),
)


@pytest.fixture
def accelerated(fastpath: Fastpath, row: Row) -> Fastpath:
    fastpath.become(fastpath.acceleration(row.left), fastpath.acceleration(row.right))
    return fastpath


def send(row: Row, packets: tuple[Sent, ...]) -> None:
    link = row.receiver.links[0]
    for version, port, size in packets:
        family, to = (
            (socket.AF_INET, link.address_of(row.receiver))
            if version == 4
            else (socket.AF_INET6, link.address6_of(row.receiver))
        )
        with row.sender.inside(), socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"x" * size, (str(to), port))


def taken(fastpath: Fastpath, text: str) -> list[Captured]:
    """What a filter takes of all packets; one more, which it is made to take as well, is the last."""
    wanted = f"({text}) or (ip and udp dst port {LAST})" if text else ""
    program = compile_filter(wanted) if wanted else b""
    with fastpath.row.router.inside():
        held = Capture(fastpath.pins, [fastpath.row.left], filter=program)
    with held:
        send(fastpath.row, (*PACKETS, (4, LAST, 1)))
        found: list[Captured] = []
        for batch in held.packets(20):
            found += batch
            if any((read_frame(one.packet.data).ports or (0, 0))[1] == LAST for one in batch):
                return found
    raise AssertionError(f"the last packet was not seen: {found}")


def described(captured: Captured) -> Sent | None:
    frame = read_frame(captured.packet.data)
    if frame.ports is None or frame.family is None or frame.protocol != socket.IPPROTO_UDP:
        return None
    return frame.family, frame.ports[1], frame.length - (28 if frame.family == 4 else 48)


def test_filters_take_what_they_say(accelerated: Fastpath) -> None:
    send(accelerated.row, PACKETS)  # neighbours
    seen = []
    for text, expected in FILTERS:
        found = taken(accelerated, text)
        assert {one for c in found if (one := described(c))} - {(4, LAST, 1)} == expected, text
        seen += found
    assert sum(one.is_accelerated for one in seen) > len(seen) / 2
    assert {one.out for one in seen if one.is_accelerated} == {accelerated.row.right}


def test_no_more_is_kept_than_is_asked_for(accelerated: Fastpath) -> None:
    send(accelerated.row, PACKETS)
    with accelerated.row.router.inside():
        held = Capture(accelerated.pins, snapshot=60, filter=compile_filter("udp and greater 500"))
    with held:
        send(accelerated.row, PACKETS)
        one = next(one for batch in held.packets(20) for one in batch)
        assert (len(one.packet.data), one.packet.length > 600) == (60, True)


def test_a_program_that_replaces_another_is_captured_too(accelerated: Fastpath) -> None:
    row = accelerated.row
    send(row, PACKETS)
    with row.router.inside():
        held = Capture(accelerated.pins, [row.left], filter=compile_filter("udp port 9000"))
    with held:
        accelerated.become(accelerated.acceleration(row.left, max_age=1), accelerated.acceleration(row.right))
        deadline = time.monotonic() + 20
        with row.router.inside():
            for batch in held.packets(20):
                send(row, PACKETS)
                if any(one.is_accelerated for one in batch):
                    return
                assert time.monotonic() < deadline


def test_what_cannot_be_captured_is_told(accelerated: Fastpath) -> None:
    with accelerated.row.router.inside():
        with pytest.raises(PliantError, match="there is nothing to capture: nosuch has no fast path"):
            Capture(accelerated.pins, ["nosuch"])
        with pytest.raises(PliantError, match="instructions"):
            Capture(accelerated.pins, filter=bytes(8 * (INSTRUCTIONS_MAX + 1)))
    with pytest.raises(PliantError, match="is not a filter"):
        compile_filter("port nosuchport or")
