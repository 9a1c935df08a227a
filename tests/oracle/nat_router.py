# SPDX-License-Identifier: Apache-2.0
"""One of two routers that translate: connections are part of a case, as if their first packets had been long ago."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from ipaddress import ip_address
from typing import NamedTuple, Self

from pliant.kernel.conntrack import forget_connections, read_connections
from pliant.kernel.errors import KernelError
from pliant.kernel.netlink import NETLINK_NETFILTER, Netlink, attribute
from tests.oracle import wire
from tests.oracle.router import Router

CONNECTION, FORGET = "connection ", "forget connections"
SETTINGS = {
    "net.netfilter.nf_conntrack_tcp_be_liberal": "1",
    "net.netfilter.nf_conntrack_tcp_ignore_invalid_rst": "1",
    "net.netfilter.nf_conntrack_checksum": "1",
    "net.netfilter.nf_conntrack_acct": "0",
    # As of the router's own (router.py).
    "net.netfilter.nf_conntrack_frag6_low_thresh": "0",
    "net.netfilter.nf_conntrack_frag6_high_thresh": "0",
}
PROTOCOLS = {"udp": wire.UDP, "tcp": wire.TCP}
ESTABLISHED = 3
_TIMEOUT_S = 100
_NEW, _CREATE = 1 << 8, 0x600
_NESTED = 0x8000
_STATUS = 0xE  # seen both ways, assured, confirmed
# No rule is ever asked; without one that translates the kernel tracks nothing.
_CHAINS = "".join(
    f"table {family} t {{ chain in {{ type nat hook prerouting priority dstnat; }}; "
    f"chain out {{ type nat hook postrouting priority srcnat; oifname nowhere masquerade; }}; }}\n"
    for family in ("ip", "ip6")
)


class Made(NamedTuple):
    """A connection of a case: whom the client asks, how the server knows the client, and where the server is."""

    protocol: str
    client: tuple[str, int]
    asked: tuple[str, int]
    shown: tuple[str, int] | None
    server: tuple[str, int] | None

    def command(self) -> str:
        words = [f"{name} {port}" if name else "" for name, port in self[1:3]]
        words += [" ".join(map(str, end)) if end else "- 0" for end in self[3:]]
        return CONNECTION + " ".join((self.protocol, *words))

    @classmethod
    def of(cls, command: str) -> Self:
        words = command.removeprefix(CONNECTION).split()
        ends = [(words[at], int(words[at + 1])) for at in (1, 3, 5, 7)]
        return cls(words[0], ends[0], ends[1], *(None if end[0] == "-" else end for end in ends[2:]))

    @property
    def answering(self) -> tuple[str, int]:
        return self.server or self.asked

    @property
    def answered(self) -> tuple[str, int]:
        return self.shown or self.client

    def message(self) -> bytes:
        """What makes it (ctnetlink)."""
        source = ip_address(self.client[0])
        parts = [
            _nest(1, _tuple(self.protocol, self.client, self.asked)),
            _nest(2, _tuple(self.protocol, self.asked, self.client)),
            attribute(3, struct.pack("!I", _STATUS)),
            attribute(7, struct.pack("!I", _TIMEOUT_S)),
        ]
        if self.protocol == "tcp":
            parts.append(_nest(4, _nest(1, attribute(1, bytes((ESTABLISHED,))))))
        for kind, end in ((6, self.shown), (13, self.server)):
            if end:
                parts.append(_nest(kind, _range(end)))
        return struct.pack("=BBH", 2 if source.version == 4 else 10, 0, 0) + b"".join(parts)


def _nest(kind: int, content: bytes) -> bytes:
    return attribute(kind | _NESTED, content)


def _tuple(protocol: str, source: tuple[str, int], to: tuple[str, int]) -> bytes:
    one, other = ip_address(source[0]), ip_address(to[0])
    first = 1 if one.version == 4 else 3
    addresses = attribute(first, one.packed) + attribute(first + 1, other.packed)
    ports = b"".join(attribute(2 + at, struct.pack("!H", end[1])) for at, end in enumerate((source, to)))
    return _nest(1, addresses) + _nest(2, attribute(1, bytes((PROTOCOLS[protocol],))) + ports)


def _range(end: tuple[str, int]) -> bytes:
    address, port = ip_address(end[0]), struct.pack("!H", end[1])
    first = 1 if address.version == 4 else 4
    both = attribute(first, address.packed) + attribute(first + 1, address.packed)
    return both + _nest(3, attribute(1, port) + attribute(2, port))


class NatRouter(Router):
    """Its connections are part of what it holds."""

    def _make_ports(self) -> None:
        super()._make_ports()
        self.host.run(["nft", "-f", "-"], given=_CHAINS)
        self._set(SETTINGS.items())

    def _clear(self) -> str:
        refused = super()._clear()
        forget_connections(self.host.netns_path)
        return refused

    def apply(self, commands: Iterable[str]) -> str:
        commands = list(commands)
        refused = super().apply(commands)
        made = [Made.of(command) for command in commands if command.startswith(CONNECTION)]
        with Netlink(NETLINK_NETFILTER, self.host.netns_path) as netlink:
            for connection in made:
                try:
                    netlink.tell(_NEW, connection.message(), "make a connection", _CREATE)
                except KernelError as error:
                    refused += f"{connection}: {error.errno}\n"
        return refused

    def change(self, command: str) -> str:
        if command == FORGET:
            forget_connections(self.host.netns_path)
            return ""
        return super().change(command)

    def held(self) -> set[tuple[str, ...]]:
        """With its connections: how long they have left to live is known to two seconds."""
        found = super().held()
        for one in read_connections(self.host.netns_path):
            # How long an established TCP connection lives depends on what is not acknowledged; see docs/nat.md.
            lives = "" if one.tcp_state == ESTABLISHED else str((one.timeout_s + 1) // 4)
            found.add((str(one.original), str(one.reply), str(one.status), lives, str(one.tcp_state)))
        return found
