# SPDX-License-Identifier: Apache-2.0
"""Filters of captures choose the packets that libpcap's language says, accelerated, dropped or neither."""

from __future__ import annotations

import socket
import time
from collections import Counter
from contextlib import closing

import pytest

from pliant.errors import PliantError
from pliant.fastpath.capture import Capture, Captured
from pliant.fastpath.capture_programs import INSTRUCTIONS_MAX
from pliant.fastpath.counters import ACCELERATED, DROPPED, LEFT
from pliant.fastpath.frame import read_frame
from pliant.kernel.libpcap import compile_filter
from pliant.kernel.links import LinkType, all_links
from pliant.lab.packets import PacketSource
from pliant.observe.fastpath import Mode
from tests.fastpath.fastpath_row import Fastpath, Row
from tests.fastpath.filtered_way import Way
from tests.fastpath.rulesets import LAST_PORT, SOURCES, packet

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
    assert sum(one.verdict == ACCELERATED for one in seen) > len(seen) / 2
    assert {one.out for one in seen if one.verdict == ACCELERATED} == {accelerated.row.right}


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
                if any(one.verdict == ACCELERATED for one in batch):
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


RULES = f"""
table inet t {{
  chain f {{ type filter hook forward priority 0; udp dport {LAST_PORT} accept; udp dport {{ 53, 80 }} drop; }}
}}
"""


def tracing_links() -> int:
    return sum(link.type in (LinkType.RAW_TRACEPOINT, LinkType.TRACING) for link in all_links())


def frames_to(way: Way, port: int, count: int) -> dict[int, bytes]:
    """Frames that the rules drop, half of them of each IP version, by numbers that differ with the port."""
    made = {}
    for n in range(count):
        family, number = 4 if n % 2 else 6, port * 100 + n
        label = number if family == 4 else port  # which is part of a flow
        sent = packet(way.around, family, label, SOURCES[family][0], "udp", port)
        made[number] = way.ethernet[family] + sent.data
    return made


def send_on(way: Way, frames: dict[int, bytes]) -> None:
    """Send frames, and wait for one behind them to come through."""
    for frame in frames.values():
        way.sender.send(frame)
    assert way.through({}) == []


@pytest.mark.parametrize("mode", [Mode.NATIVE, Mode.GENERIC])
def test_dropped_packets_are_seen_as_they_came_and_counted(way: Way, mode: Mode) -> None:
    links = tracing_links()
    way.nft(RULES)
    way.follow(mode)
    wanted, others = frames_to(way, 53, 40), frames_to(way, 80, 40)
    with way.router.inside():
        held = Capture(way.fastpath.pins, [way.around.inside], filter=compile_filter("udp dst port 53"))
    before = way.counts(mode)["dropped"]
    with held, way.router.inside():
        assert tracing_links() > links
        send_on(way, wanted | others)
        found: list[Captured] = []
        for batch in held.packets(20):
            found += batch
            if len(found) >= len(wanted):
                break
        tally = held.tally()
    assert tracing_links() == links
    assert sorted(one.packet.data for one in found) == sorted(wanted.values())
    verdicts = Counter(one.verdict for one in found)
    assert {one.reason for one in found if one.verdict == LEFT} <= {"refused"}  # now and then one
    assert verdicts[DROPPED] > len(wanted) / 2
    assert tally.wanted == verdicts[DROPPED]
    assert tally.dropped == way.counts(mode)["dropped"] - before > verdicts[DROPPED]
    assert (tally.unseen, tally.lost) == (0, 0)
    assert {one.packet.interface for one in found} == {way.around.inside}
    assert {(one.action, one.sentence) for one in found if one.verdict == DROPPED} == {
        (1, "dropped (nftables)")
    }


def test_what_is_dropped_unseen_is_counted_as_such(way: Way) -> None:
    """Frames that are no socket's are seen where the kernel has programs' ends looked at, and else are not."""
    way.nft(RULES)
    way.follow()
    [frame] = (one.ljust(60, b"\0") for one in frames_to(way, 53, 1).values())
    near = way.fastpath.row.sender.links[0].interface_of(way.fastpath.row.sender)
    source = PacketSource(way.fastpath.row.sender, [near], [frame])
    with closing(source), way.router.inside():
        held = Capture(way.fastpath.pins, [way.around.inside], filter=compile_filter("ip6"), snapshot=14)
        with held:
            source.send(1000)
            deadline = time.monotonic() + 20
            while held.tally().dropped < 900:
                assert time.monotonic() < deadline, (way.counts(), held.tally())
            found = next(batch for batch in held.packets(20) if batch)
            assert {len(one.packet.data) for one in found} == {14}
            tally = held.tally()
            assert tally.unseen == (tally.dropped if held.limits else 0)
