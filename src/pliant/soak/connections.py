# SPDX-License-Identifier: Apache-2.0
"""The process of one service under load: both ends of connections that stay open, and new ones all the time.

    python -m pliant.soak.connections --held 20 --pause 0.03

It connects to itself, so both ends belong to its service. It writes one JSON line when its connections are open, and
one for each line it reads, about what it has seen since the line before: see :meth:`Load.told`. It ends, closing its
connections in order, at the end of its input.
"""

from __future__ import annotations

import argparse
import json
import select
import socket
import sys
import time
from collections import Counter
from typing import Any, NamedTuple

from pliant.lab.sockets import SO_MAX_PACING_RATE, tcp_info

TIMEOUT_S = 30.0  # of the load itself: no data for so long is as bad as a reset
NO_LIMIT = 0xFFFFFFFF
PING = bytes(64)


class Given(NamedTuple):
    """What one end of a connection has: window in segments, pacing in bytes a second (-1: no limit), DSCP."""

    window: int
    rate: int
    dscp: int


def given(sock: socket.socket) -> Given:
    """What a socket has now."""
    rate = sock.getsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE) & NO_LIMIT
    dscp = sock.getsockopt(socket.IPPROTO_IP, socket.IP_TOS) >> 2
    return Given(tcp_info(sock)["snd_cwnd"], -1 if rate == NO_LIMIT else rate, dscp)


class Load:
    """Connections to itself over loopback."""

    def __init__(self, held: int) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.listener.settimeout(TIMEOUT_S)
        self.opened = 0
        self.new: Counter[Given] = Counter()
        self.failures: list[str] = []
        self.held = [self.connect() for _ in range(held)]
        self.turn = 0

    def connect(self) -> tuple[socket.socket, socket.socket]:
        """Open a connection; what its two ends were given is remembered."""
        client = socket.create_connection(self.listener.getsockname(), timeout=TIMEOUT_S)
        accepted, _ = self.listener.accept()
        accepted.settimeout(TIMEOUT_S)
        self.opened += 1
        for end in (client, accepted):
            self.new[given(end)] += 1
        return client, accepted

    def exchange(self, ends: tuple[socket.socket, socket.socket]) -> None:
        """Send data both ways."""
        for sender, receiver in (ends, ends[::-1]):
            sender.sendall(PING)
            left = len(PING)
            while left:
                found = receiver.recv(left)
                if not found:
                    raise ConnectionResetError("the connection ended by itself")
                left -= len(found)

    def step(self) -> None:
        """One new connection that is closed again, and some data on an old one."""
        try:
            ends = self.connect()
            self.exchange(ends)
            for end in ends:
                end.close()
        except OSError as error:
            self.failures.append(f"{time.time():.3f} a new connection: {error!r}")
        if not self.held:
            return
        self.turn = (self.turn + 1) % len(self.held)
        try:
            self.exchange(self.held[self.turn])
        except OSError as error:
            self.failures.append(f"{time.time():.3f} open connection {self.turn}: {error!r}")

    def told(self) -> dict[str, Any]:
        """What new connections have been given since it was last told, what open ones have now, and failures."""
        held = Counter(given(end)[1:] for ends in self.held for end in ends)
        found = {
            "opened": self.opened,
            "new": [[*kind, count] for kind, count in self.new.items()],
            "held": [[*kind, count] for kind, count in held.items()],
            "failures": self.failures,
        }
        self.new.clear()
        self.failures = []
        return found

    def close(self) -> None:
        """Close every connection."""
        for ends in self.held:
            for end in ends:
                end.close()


def main() -> None:
    """Make connections until the input ends."""
    parser = argparse.ArgumentParser(description="connections of one service under load")
    parser.add_argument("--held", type=int, required=True, help="how many stay open")
    parser.add_argument("--pause", type=float, required=True, help="s between new ones")
    arguments = parser.parse_args()
    load = Load(arguments.held)
    print(json.dumps(load.told()), flush=True)
    while True:
        if select.select([sys.stdin], [], [], arguments.pause)[0]:
            if not sys.stdin.readline():
                break
            print(json.dumps(load.told()), flush=True)
        load.step()
    load.close()


if __name__ == "__main__":
    main()
