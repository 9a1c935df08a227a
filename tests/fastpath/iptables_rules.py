# SPDX-License-Identifier: Apache-2.0
"""Random rules of iptables: as iptables-nft writes them here, and as older ones do, by matches of iptables alone."""

from __future__ import annotations

import random
import socket
import struct
import sys
from collections.abc import Iterable

from pliant.kernel.netlink import NETLINK_NETFILTER, attribute
from pliant.lab import Host
from tests.fastpath.rulesets import ACK, LAST_PORT, PORTS, SYN

RESTORE = {4: "iptables-nft-restore", 6: "ip6tables-nft-restore"}
_VERDICTS = ("ACCEPT", "DROP")
_FAMILIES = {4: (socket.AF_INET, 9), 6: (socket.AF_INET6, 6)}
"""The number of a family, and where its header has the protocol."""
_PROTOCOLS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}
_RANGES = {
    4: ("198.51.100.0-198.51.100.50", "198.51.100.77", "198.51.100.70-203.0.113.9"),
    6: ("2001:db8::-2001:db8::5", "2001:db8:1::77", "2001:db8:1::-2001:db8:2::9"),
}
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_BEGIN, _END = 0x10, 0x11  # NFNL_MSG_BATCH_*
_NFTABLES, _NEWRULE = 10, 10 << 8 | 6
_REQUEST, _ACK, _CREATE_AND_APPEND = 1, 4, 0xC00  # NLM_F_*


def random_iptables(family: int, chance: random.Random) -> str:
    """The chain of what is forwarded, for iptables-restore."""
    rules = (f"-A FORWARD {_asked(family, chance)} -j {chance.choice(_VERDICTS)}" for _ in range(8))
    first = f"-A FORWARD -p udp --dport {LAST_PORT} -j ACCEPT"
    policy = chance.choice(_VERDICTS)
    return "\n".join(("*filter", f":FORWARD {policy} [0:0]", first, *rules, "COMMIT\n"))


def _asked(family: int, chance: random.Random) -> str:
    def maybe(inverted: str) -> str:
        return f"! {inverted}" if chance.random() < 0.3 else inverted

    asked = []
    if chance.random() < 0.8:
        some = sorted(chance.sample(PORTS, chance.randrange(1, 4)))
        ports = ",".join(map(str, some))
        if chance.random() < 0.5:
            ports += chance.choice((",1000:2000", ",40000", ",39999:40001"))
        ends = maybe(f"--{chance.choice(('sports', 'dports', 'ports'))} {ports}")
        asked.append(f"-p {chance.choice(('tcp', 'udp'))} -m multiport {ends}")
    if not asked or chance.random() < 0.4:
        asked.append(f"-m iprange {maybe('--src-range ' + chance.choice(_RANGES[family]))}")
    return " ".join(asked)


def add_old_rules(host: Host, family: int, chance: random.Random, number: int = 8) -> None:
    """More rules for that chain, which ask for ports, flags and marks as iptables-nft did before 1.8.8."""
    rules = [_old_rule(family, chance) for _ in range(number)]
    messages = [
        _message(_BEGIN, 0, struct.pack(">BBH", 0, 0, _NFTABLES)),
        *(_message(_NEWRULE, _ACK | _CREATE_AND_APPEND, rule) for rule in rules),
        _message(_END, 0, struct.pack(">BBH", 0, 0, _NFTABLES)),
    ]
    with host.inside(), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as kernel:
        kernel.settimeout(5)
        kernel.send(b"".join(messages))
        answers = 0
        while answers < number:
            data = kernel.recv(1 << 16)
            while data:
                length, _, _, _, _ = _HEADER.unpack_from(data)
                assert int.from_bytes(data[16:20], sys.byteorder, signed=True) == 0, "the kernel refused"
                data, answers = data[(length + 3) & ~3 :], answers + 1


def _message(kind: int, flags: int, body: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | flags, 1, 0) + body


def _old_rule(family: int, chance: random.Random) -> bytes:
    number, protocol_at = _FAMILIES[family]
    protocol = chance.choice(("tcp", "udp"))
    matches = [_old_tcp(chance) if protocol == "tcp" else _old_udp(chance)]
    if chance.random() < 0.3:
        matches.append(_match("mark", 1, struct.pack("=IIB", *chance.choice(((0, 0xFF), (5, 0xFF), (0, 0))),
                                                     chance.random() < 0.3)))  # fmt: skip
    loads = {1: 1, 2: 1, 3: protocol_at, 4: 1}  # one byte of the network header into the first register
    expressions = (
        _expression("payload", *(attribute(key, struct.pack(">I", value)) for key, value in loads.items())),
        _expression(
            "cmp",
            attribute(1, struct.pack(">I", 1)),
            attribute(2, bytes(4)),
            attribute(3, attribute(1, bytes([_PROTOCOLS[protocol]]))),
        ),
        *matches,
        _expression("counter"),
        _expression(
            "immediate",
            attribute(1, bytes(4)),
            attribute(2, attribute(2, attribute(1, struct.pack(">I", chance.choice((0, 1)))))),
        ),
    )
    compatible = attribute(1, struct.pack(">I", _PROTOCOLS[protocol])) + attribute(2, bytes(4))
    return (
        struct.pack(">BBH", number, 0, 0)
        + attribute(1, b"filter\0")
        + attribute(2, b"FORWARD\0")
        + attribute(4, b"".join(attribute(1, one) for one in expressions))
        + attribute(5, compatible)
    )


def _old_tcp(chance: random.Random) -> bytes:
    mask, flags = chance.choice(((0, 0), (0, 0), (SYN, SYN), (SYN | ACK, ACK), (0x3F, ACK)))
    inverts = chance.choice((0, 0, 1, 2, 4))
    return _match("tcp", 0, struct.pack("=4H4B", *_some_ports(chance), 0, mask, flags, inverts))


def _old_udp(chance: random.Random) -> bytes:
    return _match("udp", 0, struct.pack("=4HB", *_some_ports(chance), chance.choice((0, 0, 1, 2, 3))))


def _some_ports(chance: random.Random) -> Iterable[int]:
    """First and last of the source, and of the destination."""
    port = chance.choice(PORTS)
    return (
        *chance.choice(((0, 0xFFFF), (0, 0xFFFF), (40000, 40000), (1024, 39999))),
        *chance.choice(((0, 0xFFFF), (port, port), (port, port + 400), (port, 0xFFFF))),
    )


def _match(name: str, revision: int, info: bytes) -> bytes:
    padded = info + bytes(-len(info) % 8)
    told = (
        attribute(1, name.encode() + b"\0"),
        attribute(2, struct.pack(">I", revision)),
        attribute(3, padded),
    )
    return _expression("match", *told)


def _expression(name: str, *told: bytes) -> bytes:
    return attribute(1, name.encode() + b"\0") + attribute(2, b"".join(told))
