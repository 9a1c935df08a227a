# SPDX-License-Identifier: Apache-2.0
"""Networks in which a host forwards what two others send to each other, in each way that the fast path knows."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pliant.bench.forwarding import Row
from pliant.bench.gateway import rules, ruleset
from pliant.bench.modules import bridged
from pliant.bench.nat import RULES
from pliant.lab import Host, Lab
from pliant.lab.flannel import TUNNEL, Flannel
from scenarios import expect

EXCHANGES = 60
"""Datagrams to each address, each of which is answered by one."""
PORTS = (4001, 4000)
"""Of the near and of the far end: all that is sent to an address is of one connection."""
NETWORKS = ("192.0.2.{}/24", "2001:db8::{}/64")
ANSWER_S = 20.0


class Ground(NamedTuple):
    """A host that forwards, in a mode, what comes in by its interfaces ``names`` from either of two ends."""

    host: Host
    names: Sequence[str]
    mode: str
    ends: tuple[Host, Host]
    addresses: Sequence[str]

    def exchange(self) -> None:
        """Send to all addresses of the far end, and have it answer; raises where something does not arrive."""
        for address in self.addresses:
            _exchange(*self.ends, address)


def _of(row: Row, addresses: Sequence[str]) -> Ground:
    return Ground(row.router, row.names(row.router), "native", (row.source, row.sink), addresses)


def routed(lab: Lab) -> Ground:
    """A router of both IP versions."""
    return _routed(Row(lab))


def _routed(row: Row) -> Ground:
    near, far = row.near[0], row.far[0]
    row.source.add_route(f"{far.address_of(row.sink)}/32", near.address_of(row.router))
    row.source.add_route(f"{far.address6_of(row.sink)}/128", near.address6_of(row.router))
    row.sink.add_route(f"{near.address_of(row.source)}/32", far.address_of(row.router))
    row.sink.add_route(f"{near.address6_of(row.source)}/128", far.address6_of(row.router))
    return _of(row, [far.address_of(row.sink), far.address6_of(row.sink)])


def filtered(lab: Lab) -> Ground:
    """The same, with rules of nftables, of which one is for what is sent."""
    row = Row(lab)
    accepted = f"udp dport {{ {', '.join(map(str, PORTS))} }} accept"
    row.router.run(["nft", "-f", "-"], given=ruleset([*rules(), accepted], stateful=False))
    return _routed(row)


def dropping(lab: Lab) -> tuple[Ground, Callable[[], None]]:
    """The same, with a rule that drops something, and what sends that: to each address as much as is exchanged."""
    row = Row(lab)
    dropped = "table inet t { chain f { type filter hook forward priority 0; udp dport 53 drop; }; }"
    row.router.run(["nft", "-f", "-"], given=dropped)
    ground = _routed(row)

    def send() -> None:
        for address in ground.addresses:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            with row.source.inside(), socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.connect((address, 53))
                for _ in range(EXCHANGES):
                    sock.send(b"not wanted")

    return ground, send


def translated(lab: Lab) -> Ground:
    """The same, where the far end sees the router's addresses."""
    row = Row(lab)
    for family in ("ip", "ip6"):
        row.router.run(["nft", "-f", "-"], given=RULES.format(family, row.far[0].interface_of(row.router)))
    return _routed(row)


def switched(lab: Lab) -> Ground:
    """A bridge, and both ends in one network."""
    row = Row(lab)
    bridged(row)
    for number, (host, link) in enumerate(((row.source, row.near[0]), (row.sink, row.far[0])), 1):
        name = link.interface_of(host)
        host.ip(*(f"address add {network.format(number)} dev {name} nodad" for network in NETWORKS))
    return _of(row, [network.format(2).partition("/")[0] for network in NETWORKS])


def overlaid(lab: Lab) -> Ground:
    """The node of a pod in Flannel's network; the other pod is on another node."""
    subprocess.run(["modprobe", "br_netfilter"], check=True)  # as kubelet's hosts have it
    network = Flannel(lab, pods=(1, 1))
    [near], [far] = (node.pods for node in network.nodes)
    names = [near.interface, TUNNEL]
    return Ground(network.nodes[0].host, names, "tc", (near.host, far.host), [far.address])


def _exchange(near: Host, far: Host, address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with far.inside():
        there = socket.socket(family, socket.SOCK_DGRAM)
    with near.inside():
        here = socket.socket(family, socket.SOCK_DGRAM)
    with there, here:
        for end in (there, here):
            end.settimeout(ANSWER_S)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        there.bind((address, PORTS[1]))
        here.bind(("", PORTS[0]))
        here.connect((address, PORTS[1]))
        for number in range(EXCHANGES):
            content = number.to_bytes(4, "big")
            here.send(content)
            received, sender = there.recvfrom(100)
            expect(received == content, f"packet {number} to {address} is not as it was sent")
            there.sendto(content, sender)
            expect(here.recv(100) == content, f"the answer to packet {number} to {address} is another")
