# SPDX-License-Identifier: Apache-2.0
"""Connections of a service, of which a policy matches some, and the packets they send."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from pliant.lab import Host as LabHost
from pliant.lab import SocketState, TcpClient, TcpServer

if TYPE_CHECKING:
    from tests.conftest import Eventually, MakePolicy, Pair, Pliant

MATCHED, OTHER = {"ipv4": 80, "ipv6": 81, "mapped": 81}, {"ipv4": 82, "ipv6": 83, "mapped": 83}


@pytest.fixture(params=["server", "client"])
def role(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["ipv4", "ipv6", "mapped"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@dataclass(frozen=True)
class Ends:
    """A server and a client process, each in a service of its own."""

    pair: Pair
    server: TcpServer
    client: TcpClient
    eventually: Eventually

    def connect(self, family: str, port: int) -> dict[str, SocketState]:
        """Open a connection, the only one then, and return the state of both ends by role."""
        self.client.disconnect()
        host = self.pair.server
        address = {"ipv4": host.address, "ipv6": host.address6, "mapped": f"::ffff:{host.address}"}[family]
        [mine] = self.client.connect(address, port)
        return {"client": mine, "server": self.peer_of(mine)}

    def peer_of(self, mine: SocketState) -> SocketState:
        found: list[SocketState] = []

        def is_accepted() -> bool:
            found[:] = [
                state
                for state in self.server.connections()
                if (state.remote_port, state.state) == (mine.local_port, "established")
            ]
            return bool(found)

        self.eventually(is_accepted)
        return found[0]

    def now(self, family: str) -> dict[str, SocketState]:
        """The state of both ends of the open connection."""
        [mine] = self.client.connections()
        return {"client": mine, "server": self.peer_of(mine)}

    def match(self, role: str) -> dict[str, Any]:
        """What a policy says to match the connections to the ports in MATCHED, and no others."""
        ports = sorted(set(MATCHED.values()))
        if role == "server":
            service = self.pair.service(self.pair.server, "web.service")
            return {"service": service, "role": "server", "localPorts": ports}
        service = self.pair.service(self.pair.client, "app.service")
        return {"service": service, "role": "client", "remotePorts": ports}


@pytest.fixture(scope="module")
def processes(pair: Pair) -> Iterator[tuple[TcpServer, TcpClient]]:
    listen = [f"0.0.0.0:{ports['ipv4']}" for ports in (MATCHED, OTHER)]
    listen += [f"[::]:{ports['ipv6']}" for ports in (MATCHED, OTHER)]
    with (
        TcpServer(pair.server, listen, service="web.service") as server,
        TcpClient(pair.client, service="app.service") as client,
    ):
        yield server, client


@pytest.fixture
def ends(pair: Pair, processes: tuple[TcpServer, TcpClient], eventually: Eventually) -> Iterator[Ends]:
    yield Ends(pair, *processes, eventually)
    processes[1].disconnect()


@dataclass(frozen=True)
class Tuned:
    """The tuned end of a connection, its other end, and the same end of a connection the policy does not match."""

    state: SocketState
    peer: SocketState
    unmatched: SocketState


Tune = Callable[[Mapping[str, Any], str, str], Tuned]


@pytest.fixture
def tune(pliant: Pliant, ends: Ends, make_policy: MakePolicy) -> Tune:
    """Apply a policy with these settings for one role, and connect once as it says and once beside it."""

    def tuned(settings: Mapping[str, Any], role: str, family: str) -> Tuned:
        pliant.apply(make_policy("tuned", tune=settings, **ends.match(role)))
        other = "client" if role == "server" else "server"
        unmatched = ends.connect(family, OTHER[family])
        matched = ends.connect(family, MATCHED[family])
        for name in settings:
            outcomes = pliant.outcomes(name)
            assert (outcomes.applied, outcomes.refused, outcomes.unchanged) == (1, 0, 0)
        return Tuned(matched[role], matched[other], unmatched[role])

    return tuned


# -- packets

FIN, SYN, PSH, ACK, ECE, CWR = 1, 2, 8, 16, 64, 128
SOL_PACKET, PACKET_IGNORE_OUTGOING, ETH_P_ALL = 263, 23, 3
SO_RCVBUFFORCE, SO_TIMESTAMPNS = 33, 35


@dataclass(frozen=True)
class Packet:
    """A TCP packet as a host has received it, ``at`` in seconds; ``window`` is not scaled yet.

    ``scale`` and ``mss`` are options of a SYN, ``flow_label`` is IPv6's.
    """

    at: float
    source_port: int
    port: int
    dscp: int
    ecn: int
    flow_label: int | None
    flags: int
    window: int
    scale: int | None
    mss: int | None
    payload: int

    @property
    def is_syn(self) -> bool:
        return bool(self.flags & SYN)


class Capture:
    """The TCP packets that have come in to a host since the capture began."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def packets(self) -> list[Packet]:
        found: list[Packet] = []
        while True:
            try:
                data, control, _, _ = self._socket.recvmsg(128, 64, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return found
            seconds, nanoseconds = struct.unpack("=qq", control[0][2])
            packet = parse(data, seconds + nanoseconds / 1e9)
            if packet:
                found.append(packet)


Captures = Callable[[LabHost], AbstractContextManager[Capture]]


@contextmanager
def capturing(host: LabHost) -> Iterator[Capture]:
    """Record the TCP packets that come in to a host."""
    with host.inside():
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
    with sock:
        sock.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 26)
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        wait_for_timestamps()
        yield Capture(sock)


def wait_for_timestamps() -> None:
    """Wait until packets get the time they come in at.

    The kernel begins with that some time after a socket has asked for it (net_enable_timestamp()); what comes in
    before has the time at which it is read.
    """
    deadline = time.monotonic() + 30
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        own.bind(("127.0.0.1", 0))
        own.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        while time.monotonic() < deadline:
            own.sendto(b"", own.getsockname())
            before = time.time()
            _, control, _, _ = own.recvmsg(1, 64)
            seconds, nanoseconds = struct.unpack("=qq", control[0][2])
            if seconds + nanoseconds / 1e9 < before:
                return
    raise AssertionError("the kernel does not stamp packets as they come in")


@pytest.fixture
def capture() -> Captures:
    return capturing


@contextmanager
def deaf(host: LabHost) -> Iterator[None]:
    """Have a host drop the TCP packets that come in, after they were captured."""
    everyone = ("0.0.0.0/0", "::/0")
    host.ip(*(f"xfrm policy add dir in src {any_} dst {any_} proto tcp action block" for any_ in everyone))
    try:
        yield
    finally:
        host.ip(*(f"xfrm policy delete dir in src {any_} dst {any_} proto tcp" for any_ in everyone))


def parse(data: bytes, at: float) -> Packet | None:
    if data[0] >> 4 == 4:
        start, traffic_class, protocol, label = (data[0] & 15) * 4, data[1], data[9], None
        end = struct.unpack_from("!H", data, 2)[0]
    else:
        start, protocol = 40, data[6]
        first = struct.unpack_from("!I", data)[0]
        traffic_class, label = first >> 20 & 0xFF, first & 0xFFFFF
        end = 40 + struct.unpack_from("!H", data, 4)[0]
    if protocol != socket.IPPROTO_TCP:
        return None
    source, port, offset, flags, window = struct.unpack_from("!HH8xBBH", data, start)
    header = (offset >> 4) * 4
    options = dict(tcp_options(data[start + 20 : start + header]))
    return Packet(
        at=at,
        source_port=source,
        port=port,
        dscp=traffic_class >> 2,
        ecn=traffic_class & 3,
        flow_label=label,
        flags=flags,
        window=window,
        scale=options[OPTION_SCALE][0] if OPTION_SCALE in options else None,
        mss=int.from_bytes(options[OPTION_MSS], "big") if OPTION_MSS in options else None,
        payload=end - start - header,
    )


OPTION_MSS, OPTION_SCALE = 2, 3


def tcp_options(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Each option of a header with its value (RFC 9293, 3.1)."""
    at = 0
    while at < len(data) and data[at] != 0:
        if data[at] == 1:
            at += 1
            continue
        yield data[at], data[at + 2 : at + data[at + 1]]
        at += data[at + 1]
