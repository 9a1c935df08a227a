# SPDX-License-Identifier: Apache-2.0
"""The interpreter against the kernel: random rulesets, random packets through a router, what comes out."""

from __future__ import annotations

import os
import random
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address

import pytest

from pliant.fastpath.ruleset_walk import NEW, Packet, walk
from pliant.kernel.nftables_rules import read_rules
from pliant.lab import Host, Lab
from pliant.lab.packets import interface
from tests.fastpath.filtered_way import tap

RULESETS, PACKETS = 12, 40
LAST_PORT = 9999
PORTS = (22, 53, 80, 443, 1500, 5000)
SOURCES = {
    4: ("198.51.100.1", "198.51.100.77", "203.0.113.9"),
    6: ("2001:db8::1", "2001:db8:1::77", "2001:db8:2::9"),
}


@dataclass(frozen=True)
class Way:
    """A router between two hosts, and sockets that see frames on either side of it."""

    router: Host
    inside: str
    outside: str
    sender: socket.socket
    receiver: socket.socket
    ethernet: dict[int, bytes]
    targets: dict[int, str]


@pytest.fixture
def way() -> Iterator[Way]:
    if os.geteuid() != 0:
        pytest.skip("a lab needs root")
    with Lab("walk") as lab:
        one, router, other = lab.host("one"), lab.host("router"), lab.host("other")
        near, far = lab.link(one, router), lab.link(router, other)
        router.sysctl("net.ipv4.ip_forward", "1")
        router.sysctl("net.ipv6.conf.all.forwarding", "1")
        ends = (
            near.interface_of(one),
            near.interface_of(router),
            far.interface_of(router),
            far.interface_of(other),
        )
        mac = interface(other, ends[3]).address
        router.ip(
            *(f"neighbour replace {a} lladdr {mac.hex(':')} dev {ends[2]} nud permanent"
              for a in (far.address_of(other), far.address6_of(other)))
        )  # fmt: skip
        addresses = interface(router, ends[1]).address + interface(one, ends[0]).address
        kinds = {4: addresses + b"\x08\x00", 6: addresses + b"\x86\xdd"}
        targets = {4: far.address_of(other), 6: far.address6_of(other)}
        with tap(one, ends[0]) as sender, tap(other, ends[3]) as receiver:
            yield Way(router, ends[1], ends[2], sender, receiver, kinds, targets)


def checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def packet(
    way: Way, family: int, number: int, source: str, protocol: int, port: int, ttl: int = 64
) -> Packet:
    """A packet whose number is its identification, or its flow label; a fragment where the protocol is 0."""
    from_, to = ip_address(source).packed, ip_address(way.targets[family]).packed
    offset, protocol = (100, socket.IPPROTO_UDP) if protocol == 0 else (0, protocol)
    transport = struct.pack(">HHHH", 40000, port, 12, 0) + b"data"  # no checksum: nobody looks
    if protocol == socket.IPPROTO_TCP:
        transport = struct.pack(">HHIIBBHHH", 40000, port, 1, 0, 5 << 4, 2, 1000, 0, 0)
    if family == 4:
        head = struct.pack(
            ">BBHHHBBH4s4s", 0x45, 0, 20 + len(transport), number, offset, ttl, protocol, 0, from_, to
        )
        head = head[:10] + checksum(head).to_bytes(2, "big") + head[12:]
    else:
        head = struct.pack(">IHBB16s16s", 6 << 28 | number, len(transport), protocol, ttl, from_, to)
    return Packet(
        4 if family == 4 else 6,
        head + transport,
        None if offset else len(head),
        protocol,
        in_interface=way.inside,
        out_interface=way.outside,
        ct_state=NEW,
    )


def a_hop_later(sent: Packet) -> Packet:
    """What the hook sees: the TTL is decreased before."""
    place = 8 if sent.family == 4 else 7
    data = bytearray(sent.data)
    data[place] -= 1
    return replace(sent, data=bytes(data))


def random_packets(way: Way, chance: random.Random) -> dict[int, Packet]:
    found = {}
    for number in range(1, PACKETS + 1):
        family = chance.choice((4, 6))
        protocols = (socket.IPPROTO_TCP, socket.IPPROTO_UDP) + ((0,) if family == 4 else ())
        found[number] = packet(
            way, family, number, chance.choice(SOURCES[family]), chance.choice(protocols), chance.choice(PORTS),
            chance.choice((2, 10, 64)),
        )  # fmt: skip
    return found


def random_ruleset(way: Way, chance: random.Random) -> str:
    groups = (
        (f"iifname {way.inside}", f"iifname != {way.inside}", f"oifname {way.inside}", "meta mark 0", "meta mark 5"),
        ("ip saddr 198.51.100.0/25", "ip saddr != 198.51.96.0/20", "ip saddr @friends", "ip saddr != @friends",
         "ip6 saddr 2001:db8::/33", "ip6 saddr @friends6", f"ip daddr {way.targets[4]}", "ip ttl > 9", "ip ttl < 10",
         "ip frag-off & 0x1fff != 0", "ip6 hoplimit 10", "meta nfproto ipv6"),
        (*(f"tcp dport {port}" for port in PORTS), "tcp dport 20-100", "udp dport != 53-443",
         "udp dport { 53, 1000-2000 }", "tcp sport >= 1024", "tcp flags syn", "meta l4proto { tcp, icmp }",
         "th dport 80"),
    )  # fmt: skip
    alone = ("ip saddr . udp dport @pairs", "ip protocol udp", "meta l4proto udp")
    verdicts = ("accept", "drop", "drop", "continue", "return", "jump one", "goto two", "counter", "jump two")
    maps = ("tcp dport vmap @ways", "udp dport vmap @ways", "meta l4proto vmap { tcp : jump one }")

    def rule() -> str:
        if chance.random() < 0.15:
            return chance.choice(maps)
        some = chance.sample(groups, chance.randrange(1, 3))
        selectors = (
            [chance.choice(group) for group in some] if chance.random() < 0.8 else [chance.choice(alone)]
        )
        return " ".join((*selectors, chance.choice(verdicts)))

    def rules(without: str) -> str:
        written = (rule() for _ in range(chance.randrange(1, 7)))
        return "\n".join(text for text in written if not any(word in text for word in without.split()))

    return f"""
flush ruleset
table inet t {{
  set friends {{ type ipv4_addr; flags interval; elements = {{ 198.51.100.0/26, 203.0.113.9 }}; }}
  set friends6 {{ type ipv6_addr; flags interval; elements = {{ 2001:db8:1::/48 }}; }}
  set pairs {{ type ipv4_addr . inet_service; flags interval; elements = {{ 198.51.100.0/24 . 53-80 }}; }}
  chain two {{ {rules("jump goto @ways vmap")}
  }}
  chain one {{ {rules("one @ways vmap")}
  }}
  map ways {{ type inet_service : verdict; elements = {{ 22 : drop, 80 : jump two, 443 : accept, 53 : goto one }}; }}
  chain first {{ type filter hook forward priority -5; policy accept; udp dport {LAST_PORT} accept; {rules("")}
  }}
  chain second {{ type filter hook forward priority 5; policy {chance.choice(("accept", "drop"))};
    udp dport {LAST_PORT} accept
    meta l4proto ipv6-icmp accept
    {rules("")}
  }}
}}
"""


def came_through(way: Way, last: int) -> set[int]:
    """The numbers of the packets that have come out, up to the one that ends a series."""
    found: set[int] = set()
    deadline = time.monotonic() + 10
    while last not in found:
        assert time.monotonic() < deadline, "the last packet did not come through"
        try:
            frame = way.receiver.recv(2048)
        except TimeoutError:
            continue
        if frame[12:14] == b"\x08\x00":
            found.add(int.from_bytes(frame[18:20], "big"))
        elif frame[12:14] == b"\x86\xdd" and frame[20] in (socket.IPPROTO_TCP, socket.IPPROTO_UDP):
            found.add(int.from_bytes(frame[14:18], "big") & 0xFFFFF)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_packets_come_out_where_the_interpreter_says_so(way: Way, seed: int) -> None:
    chance = random.Random(seed)
    said = {"accept": 0, "drop": 0, "unknown": 0}
    for turn in range(RULESETS):
        ruleset = random_ruleset(way, chance)
        way.router.run(["nft", "-f", "-"], given=ruleset)
        rules = read_rules(way.router.netns_path)
        packets = random_packets(way, chance)
        last = 1000 + turn
        packets[last] = packet(way, 4, last, SOURCES[4][0], socket.IPPROTO_UDP, LAST_PORT)
        for sent in packets.values():
            way.sender.send(way.ethernet[sent.family] + sent.data)
        found = came_through(way, last)
        for number, sent in packets.items():
            walked = walk(rules, "forward", a_hop_later(sent))
            said[walked.verdict] += 1
            if walked.verdict == "unknown":
                assert sent.transport is None
                continue
            assert walked.verdict == ("accept" if number in found else "drop"), (walked, sent, ruleset)
    assert said["accept"] > RULESETS * PACKETS / 10
    assert said["drop"] > RULESETS * PACKETS / 10
