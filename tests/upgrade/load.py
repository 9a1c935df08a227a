# SPDX-License-Identifier: Apache-2.0
"""A service that keeps connections open and makes new ones all the time, and says at the end what became of them.

Argument: how many connections to itself to keep open. It prints ``open`` when they are, then makes new ones all the
time until it is told something. Each line of its input is answered with one of JSON: how many ends of connections it
has made, by what they were given (initial window in segments, pacing rate in bytes a second, DSCP), what those that
stay open have now (rate, DSCP), and what TCP of the network namespace has counted since the beginning.
"""

from __future__ import annotations

import contextlib
import json
import resource
import select
import socket
import sys
from collections import Counter
from pathlib import Path

from pliant.lab.sockets import SO_MAX_PACING_RATE, tcp_info

SPARE_DESCRIPTORS = 64
PAUSE_S = 0.001  # the agent wants some of the machine

Given = tuple[int, int, int]
Ends = tuple[socket.socket, socket.socket]


def main() -> None:
    """Connect until told something, then tell until the input ends."""
    count = int(sys.argv[1])
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * count + SPARE_DESCRIPTORS
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, max(hard, needed)))
    resets = tcp_counters()
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener, contextlib.ExitStack() as stack:
        kept = [connected(listener, stack) for _ in range(count)]
        made = Counter(given(end) for ends in kept for end in ends)
        print("open", flush=True)
        while not select.select([sys.stdin], [], [], PAUSE_S)[0]:
            made.update(connect_once(listener))
        for _ in sys.stdin:
            for ends in kept:
                exchange(*ends)
            now = Counter(held(end) for ends in kept for end in ends)
            after = tcp_counters()
            report = {
                "made": sorted(made.items()),
                "kept": sorted(now.items()),
                "resets": {name: after[name] - resets[name] for name in resets},
            }
            print(json.dumps(report), flush=True)


def connected(listener: socket.socket, stack: contextlib.ExitStack) -> Ends:
    """Both ends of a new connection, which stay open."""
    client = stack.enter_context(socket.create_connection(listener.getsockname()))
    return client, stack.enter_context(listener.accept()[0])


def connect_once(listener: socket.socket) -> list[Given]:
    """Make a connection, use it, and close it as well as may be; what its ends were given."""
    with socket.create_connection(listener.getsockname()) as client, listener.accept()[0] as server:
        found = [given(client), given(server)]
        exchange(client, server)
        client.shutdown(socket.SHUT_WR)
        assert server.recv(1) == b""
    return found


def exchange(client: socket.socket, server: socket.socket) -> None:
    """A byte there and one back; raises where a connection is dead."""
    client.sendall(b"?")
    assert server.recv(1) == b"?"
    server.sendall(b"!")
    assert client.recv(1) == b"!"


def given(end: socket.socket) -> Given:
    """What an end has that has sent nothing yet."""
    return (int(tcp_info(end)["snd_cwnd"]), *held(end))


def held(end: socket.socket) -> tuple[int, int]:
    """What of that stays."""
    rate = end.getsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE) & 0xFFFFFFFF
    return rate, end.getsockopt(socket.SOL_IP, socket.IP_TOS) >> 2


def tcp_counters() -> dict[str, int]:
    """Connections that were reset, and resets that were sent (RFC 4022), in this network namespace."""
    lines = [
        line.split() for line in Path("/proc/net/snmp").read_text().splitlines() if line.startswith("Tcp:")
    ]
    values = dict(zip(*lines, strict=True))
    return {name: int(values[name]) for name in ("EstabResets", "OutRsts", "AttemptFails")}


if __name__ == "__main__":
    main()
