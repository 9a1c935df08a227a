# SPDX-License-Identifier: Apache-2.0
"""What a router counts: of its interfaces, as ``ip -s link`` has it, and of the protocols, as ``nstat`` has it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tests.oracle import wire
from tests.oracle.router import Counters, Router

# What every packet adds to that the kernel itself sees, and what multicast reports do (see verdict.py).
_SEEN = re.compile(
    r"Ip(Ext)?6?(In|Out)(Receives|Requests|Transmits|ForwDatagrams|.*Octets|.*Pkts)|IpForwDatagrams|Ip6OutDiscards|"
    r"Icmp6Out(Msgs|Type143|MLDv2Reports)|TcpExt.*"
)
_ALIKE = ("IpExtInTruncatedPkts", "Ip6InTruncatedPkts", "TcpExtIPReversePathFilter")


class Counted(NamedTuple):
    """At one moment; ``forwarded`` is what the fast path has."""

    ports: Sequence[Counters]
    protocols: Mapping[str, int]
    forwarded: int = 0

    @classmethod
    def by(cls, router: Router) -> Counted:
        """What a router has counted so far."""
        return cls(router.counters(), router.protocol_counters())

    def until(self, later: Counted) -> Counted:
        """What was counted between two moments."""
        return Counted(
            [
                Counters(*(b - a for a, b in zip(*pair, strict=True)))
                for pair in zip(self.ports, later.ports, strict=True)
            ],
            {name: value - self.protocols.get(name, 0) for name, value in later.protocols.items()},
            later.forwarded - self.forwarded,
        )


def uneven_counts(plain: Counted, fast: Counted) -> list[str]:
    """What two routers have counted differently over the same packets."""
    return [*_of_ports(plain, fast), *_of_protocols(plain, fast)]


def _of_ports(plain: Counted, fast: Counted) -> list[str]:
    found = []
    discards = [counted.protocols.get("Ip6OutDiscards", 0) for counted in (plain, fast)]
    for port, (one, other) in enumerate(zip(plain.ports, fast.ports, strict=True)):
        # What a report adds depends on when it is sent; that all is counted that was sent is looked at elsewhere. A
        # veth device counts bytes in without the Ethernet header once it runs XDP, and out as its peer counts them. A
        # report that is sent while its port goes down is dropped, which IPv6 counts as well.
        more = other.dropped_out - one.dropped_out
        is_report = 0 < more <= discards[1] or 0 < -more <= discards[0]
        expected = one._replace(
            bytes_in=one.bytes_in - wire.ETHERNET_BYTES * one.packets_in,
            packets_out=other.packets_out,
            bytes_out=other.bytes_out,
            dropped_out=other.dropped_out if is_report else one.dropped_out,
        )
        if other != expected:
            found.append(f"p{port}: {other}, with the kernel {expected}")
    return found


def _of_protocols(plain: Counted, fast: Counted) -> list[str]:
    names = plain.protocols.keys() | fast.protocols.keys()
    found = []
    for name in sorted(names):
        if name in _ALIKE or not _SEEN.fullmatch(name):
            one, other = (counted.protocols.get(name, 0) for counted in (plain, fast))
            if one != other:
                found.append(f"{name}: {other}, with the kernel {one}")
    forwarded = [
        c.forwarded + c.protocols["IpForwDatagrams"] + c.protocols["Ip6OutForwDatagrams"]
        for c in (plain, fast)
    ]
    if forwarded[0] != forwarded[1]:
        found.append(f"forwarded: {forwarded[1]}, with the kernel {forwarded[0]}")
    return found
