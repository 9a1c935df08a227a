# SPDX-License-Identifier: Apache-2.0
"""The row's router with a ruleset of nftables, and what its connections and its fast path are."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pliant.fastpath.synthesis import synthesize
from pliant.fastpath.topology import topology
from pliant.kernel.conntrack import Connection, Status, forget_connections, read_connections
from pliant.lab import Host
from pliant.observe.fastpath import Mode, read_counts
from pliant.observe.network_reader import read_facts
from tests.fastpath.fastpath_row import Fastpath, Row

HEADER = Path(__file__).parents[2] / "bpf/include/pliant/fastpath/port.h"
DEADLINE_S = 10.0
AGED_S = 0.12
"""A little more than a way is believed."""
LIBERAL = ("nf_conntrack_tcp_be_liberal", "nf_conntrack_tcp_ignore_invalid_rst")


def reasons() -> list[str]:
    """What ``enum reason`` names."""
    [names] = re.findall(r"^enum reason \{(.*?)^\};", HEADER.read_text(), re.M | re.S)
    return re.findall(r"^\s+([A-Z_]+),", names, re.M)[:-1]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it does not come true"


@dataclass(frozen=True)
class Gateway:
    fastpath: Fastpath
    rules: str

    @property
    def row(self) -> Row:
        return self.fastpath.row

    def accelerate(self) -> None:
        """Become what the topology says."""
        router = self.row.router
        found = topology(read_facts(router.netns_path))
        target = synthesize(found, {port.index: Mode.NATIVE for port in found.ports})
        names = {acceleration.interface for acceleration in target.accelerations.values()}
        assert names >= {self.row.left, self.row.right}, [port.reasons for port in found.ports]
        self.fastpath.take(self.fastpath.plan(target))

    def counted(self, name: str | None = None) -> dict[str, int]:
        """Packets by reason, of one port or of both."""
        names = (name,) if name else (self.row.left, self.row.right)
        found = [read_counts(self.fastpath.pins, self.fastpath.port(n)) for n in names]
        return {reason: sum(counts[at].packets for counts in found) for at, reason in enumerate(reasons())}

    def connections(self, protocol: int) -> list[Connection]:
        found = read_connections(self.row.router.netns_path)
        return [c for c in found if c.original.protocol == protocol]

    def connection(self, protocol: int) -> Connection:
        [found] = self.connections(protocol)
        return found

    def setting(self, name: str, value: str | None = None) -> int:
        return int(self.row.router.sysctl(f"net.netfilter.{name}", value))


@contextmanager
def gateway(fastpath: Fastpath, rules: str) -> Iterator[Gateway]:
    router = fastpath.row.router
    router.run(["nft", "-f", "-"], given=rules)
    made = Gateway(fastpath, rules)
    for name in LIBERAL:
        made.setting(name, "1")
    try:
        yield made
    finally:
        forget_connections(router.netns_path)
        router.run(["nft", "flush", "ruleset"])


class Datagrams:
    """A client's and a server's socket, and what each sees of the other."""

    def __init__(self, client: Host, server: Host, family: int, port: int = 5000, bound: str = "") -> None:
        with client.inside():
            self.client = socket.socket(family, socket.SOCK_DGRAM)
        with server.inside():
            self.server = socket.socket(family, socket.SOCK_DGRAM)
        self.server.bind((bound, port))
        self.client.settimeout(DEADLINE_S)
        self.server.settimeout(DEADLINE_S)

    def exchange(self, address: str, port: int, size: int = 10) -> tuple[str, str]:
        """A question and an answer; who the server and the client think the other is."""
        question = bytes(i & 255 for i in range(size))
        self.client.sendto(question, (address, port))
        found, client = self.server.recvfrom(1 << 16)
        assert found == question
        self.server.sendto(found[::-1], client)
        answer, server = self.client.recvfrom(1 << 16)
        assert answer == question[::-1]
        return client[0], server[0]

    def assure(self, gateway: Gateway, address: str, port: int) -> None:
        """Exchange until the kernel takes it for a connection that goes on: two seconds."""

        def assured() -> bool:
            self.exchange(address, port)
            return bool(gateway.connection(socket.IPPROTO_UDP).status & Status.ASSURED)

        until(assured)

    def close(self) -> None:
        self.client.close()
        self.server.close()


class Stream:
    """A TCP connection between a client and a server, both ends in hand."""

    def __init__(self, client: Host, server: Host, asked: tuple[str, int], port: int = 5000) -> None:
        family = socket.AF_INET6 if ":" in asked[0] else socket.AF_INET
        with server.inside():
            listener = socket.create_server(("", port), family=family)
        with client.inside():
            self.client = socket.socket(family, socket.SOCK_STREAM)
        listener.settimeout(DEADLINE_S)
        self.client.settimeout(DEADLINE_S)
        self.client.connect(asked)
        self.server, peer = listener.accept()
        listener.close()
        self.server.settimeout(DEADLINE_S)
        self.seen = peer[0]

    def carry(self, data: bytes, *, back: bool = False) -> None:
        """Send data one way, and see that they arrive as they were sent."""
        one, other = (self.server, self.client) if back else (self.client, self.server)
        received = bytearray()

        def receive() -> None:
            while len(received) < len(data):
                part = other.recv(1 << 20)
                if not part:
                    break
                received.extend(part)

        taking = threading.Thread(target=receive)
        taking.start()
        one.sendall(data)
        taking.join(DEADLINE_S)
        assert received == data

    def close(self) -> None:
        self.client.close()
        self.server.close()
