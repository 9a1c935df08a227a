# SPDX-License-Identifier: Apache-2.0
"""A router with a fast path that follows its configuration, and sockets that see frames on either side of it."""

from __future__ import annotations

import itertools
import json
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from pliant.fastpath.objects import counted_reasons
from pliant.fastpath.rule_counts import read_rule_counts
from pliant.fastpath.ruleset_walk import Packet
from pliant.fastpath.synthesis import synthesize
from pliant.fastpath.topology import topology
from pliant.kernel.nftables_counts import RuleCounter
from pliant.kernel.nftables_rules import Rules, read_rules
from pliant.kernel.packet_counts import Counted
from pliant.lab import Host
from pliant.lab.packets import interface
from pliant.observe.fastpath import Mode, Port, own_programs, read_counts
from pliant.observe.network_reader import read_facts
from pliant.plan.fastpath import accelerations, superseded
from tests.fastpath.fastpath_row import Fastpath
from tests.fastpath.rulesets import LAST_PORT, SOURCES, Around, packet

ETHERTYPES = {4: b"\x08\x00", 6: b"\x86\xdd"}
_RECEIVE_BYTES = 1 << 24


def tap(host: Host, name: str) -> socket.socket:
    """A socket for all that comes and goes by an interface."""
    with host.inside():
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))  # ETH_P_ALL
    sock.setsockopt(socket.SOL_SOCKET, 33, _RECEIVE_BYTES)  # SO_RCVBUFFORCE
    sock.bind((name, 3))
    sock.settimeout(0.2)
    return sock


def _only_interface(host: Host) -> str:
    found = json.loads(host.run(["ip", "-j", "link", "show"]).stdout)
    [name] = [link["ifname"] for link in found if link["ifname"] != "lo"]
    return str(name)


@dataclass(frozen=True)
class Way:
    """From a sender through the router; what comes out is told by the number of each packet."""

    fastpath: Fastpath
    around: Around
    sender: socket.socket
    receiver: socket.socket
    ethernet: Mapping[int, bytes]
    _lasts: Iterator[int] = field(default_factory=lambda: itertools.count(0x4000))

    @property
    def router(self) -> Host:
        return self.fastpath.row.router

    def nft(self, text: str) -> Rules:
        """Give the router rules."""
        self.router.run(["nft", "-f", "-"], given=text)
        return read_rules(self.router.netns_path)

    def follow(self, mode: Mode = Mode.NATIVE, *, counts: bool = False) -> None:
        """Have the fast path be what the router's configuration makes of it; ``counts``: also for rules that do."""
        facts = read_facts(self.router.netns_path)
        found = topology(facts, own=own_programs(self.fastpath.pins), counts=lambda name: counts)
        target = synthesize(found, {port.index: mode for port in found.ports})
        self.fastpath.take(
            (*accelerations(self.fastpath.found(), target), *superseded(self.fastpath.found(), target))
        )
        found_now = self.fastpath.found()
        assert [*accelerations(found_now, target), *superseded(found_now, target)] == []

    def counts(self, mode: Mode = Mode.NATIVE, index: int = 0) -> dict[str, int]:
        """What became of packets that came in by the inner interface, or by that of an index, by reason."""
        counted = read_counts(self.fastpath.pins, Port(index or self.around.inside_index, mode))
        names = counted_reasons()
        return {names.get(number, "forwarded"): one.packets for number, one in enumerate(counted)}

    def rule_sums(self) -> dict[RuleCounter, Counted]:
        """What was counted for each rule, by the kernel and here."""
        with self.router.inside():
            return {one.counter: one.sum for one in read_rule_counts(self.fastpath.pins)}

    def through(self, packets: Mapping[int, Packet]) -> list[int]:
        """Send packets, and then one that every ruleset lets pass; the numbers of what comes out before it."""
        last = next(self._lasts)
        for sent in packets.values():
            self.sender.send(self.ethernet[sent.family] + sent.data)
        end = packet(self.around, 4, last, SOURCES[4][0], "udp", LAST_PORT)
        self.sender.send(self.ethernet[4] + end.data)
        found: list[int] = []
        deadline = time.monotonic() + 10
        while last not in found:
            assert time.monotonic() < deadline, "the last packet did not come through"
            found += numbers_of(self.receiver)
        return [number for number in found if number != last]


def numbers_of(receiver: socket.socket) -> Iterator[int]:
    """The number of the packet that comes next, if one comes and has a number."""
    try:
        frame = receiver.recv(2048)
    except TimeoutError:
        return
    if frame[12:14] == ETHERTYPES[4]:
        yield int.from_bytes(frame[18:20], "big")
    elif frame[12:14] == ETHERTYPES[6] and frame[20] in (socket.IPPROTO_TCP, socket.IPPROTO_UDP):
        yield int.from_bytes(frame[14:18], "big") & 0xFFFFF


@contextmanager
def filtered_way(fastpath: Fastpath) -> Iterator[Way]:
    """The row's router with routes to all sources, and nothing in the rules."""
    row = fastpath.row
    near, far = _only_interface(row.sender), _only_interface(row.receiver)
    sender_mac, receiver_mac = interface(row.sender, near).address, interface(row.receiver, far).address
    targets, commands = {}, []
    for family, length in ((4, 24), (6, 32)):
        targets[family] = _address(row.receiver, far, family)
        sender = _address(row.sender, near, family)
        commands += [
            f"neighbour replace {targets[family]} lladdr {receiver_mac.hex(':')} dev {row.right} nud permanent",
            f"neighbour replace {sender} lladdr {sender_mac.hex(':')} dev {row.left} nud permanent",
            *_routes(family, length, sender, row.left),
        ]
    row.router.ip(*commands)
    around = Around(
        row.left, row.right, fastpath.port(row.left).ifindex, fastpath.port(row.right).ifindex, targets
    )
    ethernet = {
        f: interface(row.router, row.left).address + sender_mac + kind for f, kind in ETHERTYPES.items()
    }
    with tap(row.sender, near) as sender_tap, tap(row.receiver, far) as receiver_tap:
        yield Way(fastpath, around, sender_tap, receiver_tap, ethernet)
    row.router.run(["nft", "flush", "ruleset"])


def _routes(family: int, length: int, via: str, interface: str) -> Iterable[str]:
    prefixes = ("198.51.100.0/24", "203.0.113.0/24") if family == 4 else (f"2001:db8::/{length}",)
    return (f"route replace {prefix} via {via} dev {interface}" for prefix in prefixes)


def _address(host: Host, interface: str, family: int) -> str:
    shown = host.run(
        ["ip", f"-{family}", "-j", "address", "show", "dev", interface, "scope", "global"]
    ).stdout
    [found] = json.loads(shown)
    return str(found["addr_info"][0]["local"])
