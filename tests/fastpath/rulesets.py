# SPDX-License-Identifier: Apache-2.0
"""Random rulesets of nftables, and random packets that they are about."""

from __future__ import annotations

import random
import socket
import struct
from dataclasses import dataclass, replace
from ipaddress import ip_address

from pliant.fastpath.ruleset_rows import VIEW_WORDS, View
from pliant.fastpath.ruleset_walk import Packet

PORTS = (22, 53, 80, 443, 1500, 5000)
SOURCES = {
    4: ("198.51.100.1", "198.51.100.77", "203.0.113.9"),
    6: ("2001:db8::1", "2001:db8:1::77", "2001:db8:2::9"),
}
LAST_PORT = 9999
SYN, ACK = 2, 16
_KINDS = ("udp", "udp", "tcp", "tcp", "syn", "icmp", "fragment", "other")
_SIGNALS = 7


@dataclass(frozen=True)
class Around:
    """Where packets go: by which interfaces of the router, as names and indexes, and to which addresses."""

    inside: str
    outside: str
    inside_index: int
    outside_index: int
    targets: dict[int, str]


def checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _segment(kind: str, port: int) -> tuple[int, bytes]:
    """No checksums: nobody looks."""
    if kind in ("tcp", "syn"):
        flags = SYN if kind == "syn" else ACK
        return socket.IPPROTO_TCP, struct.pack(">HHIIBBHHH", 40000, port, 1, 0, 5 << 4, flags, 1000, 0, 0)
    if kind == "icmp":
        return socket.IPPROTO_ICMP, struct.pack(">BBHI", 8 if port > 1000 else 13, 0, 0x1234, port) + b"data"
    if kind == "other":
        return 47, struct.pack(">II", 0, port) + b"data"
    return socket.IPPROTO_UDP, struct.pack(">HHHH", 40000, port, 12, 0) + b"data"


def packet(
    around: Around, family: int, number: int, source: str, kind: str, port: int, ttl: int = 64, tos: int = 0
) -> Packet:
    """A packet as it is sent, whose number is its identification, or its flow label."""
    from_, to = ip_address(source).packed, ip_address(around.targets[family]).packed
    protocol, transport = _segment(kind, port)
    offset = 100 if kind == "fragment" else 0
    if family == 4:
        total = 20 + len(transport)
        head = struct.pack(">BBHHHBBH4s4s", 0x45, tos, total, number, offset, ttl, protocol, 0, from_, to)
        head = head[:10] + checksum(head).to_bytes(2, "big") + head[12:]
    else:
        head = struct.pack(
            ">IHBB16s16s", 6 << 28 | tos << 20 | number, len(transport), protocol, ttl, from_, to
        )
    return Packet(
        4 if family == 4 else 6,
        head + transport,
        None if offset else len(head),
        protocol,
        in_interface=around.inside,
        out_interface=around.outside,
        in_index=around.inside_index,
        out_index=around.outside_index,
    )


def a_hop_later(sent: Packet) -> Packet:
    """What the hook sees: the TTL is decreased before."""
    place = 8 if sent.family == 4 else 7
    data = bytearray(sent.data)
    data[place] -= 1
    return replace(sent, data=bytes(data))


def random_packet(around: Around, chance: random.Random, number: int) -> Packet:
    family = chance.choice((4, 4, 6))
    kinds = _KINDS if family == 4 else _KINDS[:5]
    return packet(
        around, family, number, chance.choice(SOURCES[family]), chance.choice(kinds), chance.choice(PORTS),
        chance.choice((2, 10, 64, 64)), chance.choice((0, 0, 1, 0x20, 0xB8)),
    )  # fmt: skip


def is_signal(sent: Packet) -> bool:
    """Whether it is TCP with SYN, FIN or RST."""
    at = sent.transport
    return sent.protocol == socket.IPPROTO_TCP and at is not None and bool(sent.data[at + 13] & _SIGNALS)


def view_of(around: Around, sent: Packet) -> bytes | None:
    """What the program makes of a packet, written down a second time; None for what it decides nothing about."""
    words = bytearray(4 * VIEW_WORDS)

    def put(word: int, value: bytes) -> None:
        words[4 * word : 4 * word + len(value)] = value

    at = sent.transport
    known = (socket.IPPROTO_TCP, socket.IPPROTO_UDP, *((socket.IPPROTO_ICMP,) if sent.family == 4 else ()))
    if at is None or sent.protocol not in known:
        return None
    data = sent.data
    if sent.family == 4:
        put(View.FROM, data[12:16])
        put(View.TO, data[16:20])
        put(View.CLASS, bytes([data[1] & 0xFC]))
    else:
        put(View.FROM, data[8:24])
        put(View.TO, data[24:40])
        put(View.CLASS, bytes(a & b for a, b in zip(data[:4], b"\x0f\xcf\xff\xff", strict=True)))
    put(View.PORT_FROM, data[at : at + 2])
    if sent.protocol != socket.IPPROTO_ICMP:
        put(View.PORT_TO, data[at + 2 : at + 4])
        put(View.HAS_PORTS, b"\1")
    put(View.PROTOCOL, bytes([sent.protocol]))
    put(View.IN, struct.pack("=I", around.inside_index))
    put(View.OUT, struct.pack("=I", around.outside_index))
    put(View.IN_NAME, around.inside.encode())
    put(View.OUT_NAME, around.outside.encode())
    if sent.ct_state is not None:
        put(View.CT_STATE, struct.pack("=I", sent.ct_state))
    return bytes(words)


def random_ruleset(around: Around, chance: random.Random, *, connections: bool = False) -> str:
    """Two base chains, two others, sets and maps; now and then something that is not understood."""
    inside, outside = around.inside, around.outside
    groups: tuple[tuple[str, ...], ...] = (
        (f"iifname {inside}", f"iifname != {inside}", f"oifname {outside}", "meta mark 0", "meta mark 5",
         f'iifname "{inside[:2]}*"', f'oifname {{ "x", "{outside}" }}', f"iif {inside}", f"oif != {outside}",
         f"iifname . oifname {{ {inside} . {outside} }}", "iifname @names"),
        ("ip saddr 198.51.100.0/25", "ip saddr != 198.51.96.0/20", "ip saddr @friends", "ip saddr != @friends",
         "ip6 saddr 2001:db8::/33", "ip6 saddr @friends6", f"ip daddr {around.targets[4]}", "ip ttl > 9",
         "ip ttl < 10", "ip frag-off & 0x1fff != 0", "ip6 hoplimit 10", "meta nfproto ipv6", "ip dscp cs1",
         "ip dscp != ef", "ip6 dscp cs1", "ip ecn not-ect", "ip saddr 198.51.100.60-203.0.113.100",
         "ip6 saddr >= 2001:db8:1::", f"ip saddr . ip daddr {{ 198.51.100.77 . {around.targets[4]} }}",
         "ip saddr { 198.51.100.1, 203.0.113.9 }", "ip saddr & 0.0.0.1 == 1"),
        (*(f"tcp dport {port}" for port in PORTS), "tcp dport 20-100", "udp dport != 53-443",
         "udp dport { 53, 1000-2000 }", "tcp sport >= 1024", "tcp flags syn", "meta l4proto { tcp, icmp }",
         "th dport 80", "tcp flags & (fin|syn|rst|ack) == syn", "tcp flags != syn", "icmp type echo-request",
         "icmp type != echo-request", "udp length 12", "tcp sport 40000 tcp dport 80", "meta pkttype host",
         "tcp flags ! fin,rst"),
    )  # fmt: skip
    if connections:
        states = ("established,related", "new", "invalid", "established")
        groups += ((*(f"ct state {state}" for state in states), "ct state != established"),)
    alone = ("ip saddr . udp dport @pairs", "ip saddr . tcp dport @few", "ip protocol udp", "meta l4proto udp",
             "ip daddr . meta l4proto . th dport @triples")  # fmt: skip
    verdicts = ("accept", "drop", "drop", "continue", "return", "jump one", "goto two", "", "jump two", "accept",
                *(("counter",) if chance.random() < 0.3 else ()))  # fmt: skip
    maps = ("tcp dport vmap @ways", "udp dport vmap @ways", "meta l4proto vmap { tcp : jump one }",
            f"iifname vmap {{ {inside} : jump one, x : drop }}", "ip saddr vmap @places",
            "ip saddr . tcp dport vmap { 198.51.100.1 . 22 : drop, 198.51.100.77 . 80 : accept }")  # fmt: skip

    def rule() -> str:
        if chance.random() < 0.15:
            return chance.choice(maps)
        some = chance.sample(groups, chance.randrange(1, 3))
        selectors = (
            [chance.choice(group) for group in some] if chance.random() < 0.8 else [chance.choice(alone)]
        )
        text = " ".join((*selectors, chance.choice(verdicts)))
        return rule() if "icmp type" in text and "6" in text else text  # nft refuses what never applies

    def rules(without: str) -> str:
        written = (rule() for _ in range(chance.randrange(1, 7)))
        return "\n".join(text for text in written if not any(word in text for word in without.split()))

    to = around.targets[4]
    return f"""
flush ruleset
table inet t {{
  set friends {{ type ipv4_addr; flags interval; elements = {{ 198.51.100.0/26, 203.0.113.9 }}; }}
  set friends6 {{ type ipv6_addr; flags interval; elements = {{ 2001:db8:1::/48 }}; }}
  set pairs {{ type ipv4_addr . inet_service; flags interval; elements = {{ 198.51.100.0/24 . 53-80 }}; }}
  set few {{ type ipv4_addr . inet_service; elements = {{ 198.51.100.1 . 80, 203.0.113.9 . 22 }}; }}
  set triples {{ type ipv4_addr . inet_proto . inet_service; elements = {{ {to} . tcp . 80, {to} . udp . 53 }}; }}
  set names {{ type ifname; elements = {{ "{inside}", "other" }}; }}
  chain two {{ {rules("jump goto vmap")}
  }}
  chain one {{ {rules("one vmap")}
  }}
  map ways {{ type inet_service : verdict; elements = {{ 22 : drop, 80 : jump two, 443 : accept, 53 : goto one }}; }}
  map places {{ type ipv4_addr : verdict; flags interval;
    elements = {{ 198.51.100.0/26 : jump two, 198.51.100.64/26 : accept, 203.0.113.0/24 : continue }}; }}
  chain first {{ type filter hook forward priority -5; policy accept; udp dport {LAST_PORT} accept; {rules("")}
  }}
  chain second {{ type filter hook forward priority 5; policy {chance.choice(("accept", "drop"))};
    udp dport {LAST_PORT} accept
    meta l4proto ipv6-icmp accept
    {rules("")}
  }}
}}
"""


def base(rules: str, policy: str = "accept") -> str:
    """A ruleset of one chain, which lets the last packet of a series pass, and then has these rules."""
    return (
        "flush ruleset\ntable inet t {\n chain f {\n type filter hook forward priority 0; "
        f"policy {policy}; udp dport {LAST_PORT} accept\n{rules}\n }}\n}}\n"
    )


def with_counters(ruleset: str, chance: random.Random) -> str:
    """The same in which most rules count: in front of their verdict, or before all that they ask."""
    return "\n".join(_with_counter(line, chance) for line in ruleset.splitlines())


def _with_counter(line: str, chance: random.Random) -> str:
    words = line.split()
    if not words or words[0] in ("table", "flush", "set", "map", "chain", "}", "type") or "elements" in words:
        return line
    verdicts = ("accept", "drop", "continue", "return", "jump", "goto")
    at = next((n for n, word in enumerate(words) if word in verdicts), len(words))
    where = chance.choice((0, at, at, None))
    if at and where is not None and not {"vmap", "counter"}.intersection(words):
        words.insert(where, "counter")
    return " ".join(words)
