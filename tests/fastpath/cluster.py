# SPDX-License-Identifier: Apache-2.0
"""A cluster of two nodes under Flannel, a fast path on each node, and sockets in pods."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pliant.agent.actuator.fastpath import Fastpaths
from pliant.agent.actuator.ground import Ground
from pliant.fastpath.objects import shipped_object, tables_layout
from pliant.fastpath.synthesis import synthesize
from pliant.fastpath.target import FastpathTarget
from pliant.fastpath.topology import topology
from pliant.features.layout import shipped_layout
from pliant.kernel.btf import Btf
from pliant.lab import Host
from pliant.lab.flannel import Flannel, Node, Pod
from pliant.lab.packets import interface
from pliant.observe.fastpath import FastpathPins, Mode, Port, own_programs, read_counts, read_fastpath
from pliant.observe.network_reader import read_facts
from pliant.observe.pin_tree import PinTree
from pliant.plan.fastpath import accelerations, superseded
from pliant.store.holdings import Holdings

PATIENCE_S = 10
NUMBERS = Btf.from_elf(shipped_object("overlay_tc")).enum("reason")


@dataclass
class NodeFastpath:
    """The fast path of a node, through topology, synthesis, plan and actuator."""

    host: Host
    ground: Ground
    pins: FastpathPins

    def start(self) -> None:
        """Accelerate all that can be."""
        found = topology(read_facts(self.host.netns_path), own=own_programs(self.pins))
        self._become(synthesize(found, {port.index: Mode.TC for port in found.ports}))

    def stop(self) -> None:
        """Take it away."""
        self._become(FastpathTarget())

    def _become(self, target: FastpathTarget) -> None:
        actuator = Fastpaths(self.ground).steps()
        found = read_fastpath(self.pins)
        with self.host.inside():
            for step in (*accelerations(found, target), *superseded(found, target)):
                actuator[type(step)].act(step)
                actuator[type(step)].read_back(step)

    def counted(self, name: str) -> dict[str, int]:
        """Packets by reason, of an interface."""
        counts = read_counts(self.pins, Port(interface(self.host, name).number, Mode.TC))
        return {reason: counts[number].packets for reason, number in NUMBERS.items() if number < len(counts)}


@dataclass
class Cluster:
    """``near`` and ``other`` are pods of the first node, ``far`` one of the second."""

    network: Flannel
    fast: list[NodeFastpath]
    sockets: list[socket.socket] = field(default_factory=list)

    @property
    def near(self) -> Pod:
        return self.network.nodes[0].pods[0]

    @property
    def other(self) -> Pod:
        return self.network.nodes[0].pods[1]

    @property
    def far(self) -> Pod:
        return self.network.nodes[1].pods[0]

    @property
    def node(self) -> Node:
        return self.network.nodes[0]

    def udp(self, pod: Pod) -> socket.socket:
        """A bound socket in a pod."""
        with pod.host.inside():
            made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.settimeout(PATIENCE_S)
        made.bind((pod.address, 0))
        self.sockets.append(made)
        return made

    def tcp(self, client: Pod, server: Pod, address: str | None = None, port: int = 0) -> Connection:
        """A connection between two pods, to another address where one is given."""
        with server.host.inside():
            listener = socket.create_server((server.address, port))
        with client.host.inside():
            one = socket.create_connection(
                (address or server.address, listener.getsockname()[1]), timeout=PATIENCE_S
            )
        listener.settimeout(PATIENCE_S)
        two, _ = listener.accept()
        listener.close()
        for end in (one, two):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            end.settimeout(PATIENCE_S)
            self.sockets.append(end)
        return Connection(one, two)

    def close(self) -> None:
        """Close all sockets."""
        for made in self.sockets:
            made.close()
        self.sockets.clear()


def mac(pod: Pod) -> bytes:
    """The address of a pod's interface."""
    return interface(pod.host, "eth0").address


@dataclass(frozen=True)
class Connection:
    """Both ends of a TCP connection."""

    client: socket.socket
    server: socket.socket

    def exchange(self, size: int = 64, times: int = 1) -> None:
        """Send data there and back, and see that it comes as it was sent."""
        data = bytes(n * 7 & 0xFF for n in range(256)) * (size // 256 + 1)
        for number in range(times):
            sent = data[number % 251 :][:size]
            for from_end, to_end in ((self.client, self.server), (self.server, self.client)):
                carry(from_end, to_end, sent)


def carry(source: socket.socket, sink: socket.socket, data: bytes) -> None:
    """Send on one end and receive on the other, by turns."""
    got, at, deadline = bytearray(), 0, time.monotonic() + PATIENCE_S
    while len(got) < len(data):
        assert time.monotonic() < deadline, f"{len(got)} of {len(data)} bytes have come"
        if at < len(data):
            at += source.send(data[at : at + 32768])
        got += sink.recv(1 << 18)
    assert bytes(got) == data


def round_trip(one: socket.socket, two: socket.socket, data: bytes = b"ping") -> None:
    """A datagram there, and one back."""
    for source, sink in ((one, two), (two, one)):
        source.sendto(data, sink.getsockname())
        assert sink.recv(1 << 16) == data


@contextmanager
def cluster(lab_network: Flannel, bpffs: Path, state: Path) -> Iterator[Cluster]:
    """The fast path on both nodes of a network."""
    fast = []
    for node in lab_network.nodes:
        tree = PinTree(bpffs / f"overlay-{node.host.name}", shipped_layout().digest)
        ground = Ground(tree, shipped_layout(), Path(), 0, Holdings(state))
        fast.append(NodeFastpath(node.host, ground, FastpathPins(tree.root, tables_layout())))
    made = Cluster(lab_network, fast)
    try:
        yield made
    finally:
        made.close()
        for one in fast:
            one.stop()
            assert not one.ground.pins.root.exists()
