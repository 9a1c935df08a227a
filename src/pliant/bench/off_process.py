# SPDX-License-Identifier: Apache-2.0
"""A process with many open connections that says, whenever it is asked, what they have.

Arguments: ``server`` and how many connections to accept, or ``client``, how many to make and the port. Prints the port
(server), a line when all are open, and for each line it reads one JSON list of [pacing rate in bytes a second, DSCP,
how many sockets have both].
"""

from __future__ import annotations

import json
import resource
import socket
import struct
import sys
from collections import Counter
from collections.abc import Iterator

from pliant.lab.sockets import SO_MAX_PACING_RATE

SPARE_DESCRIPTORS = 64
LOOPBACK = "127.0.0.1"


def main() -> None:
    """Open the connections, then answer until the input ends."""
    role, count = sys.argv[1], int(sys.argv[2])
    needed = count + SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, max(hard, needed)))
    opened = list(accepted(count) if role == "server" else connected(count, int(sys.argv[3])))
    print("open", flush=True)
    for _ in sys.stdin:
        found = Counter((pacing_rate(sock), dscp(sock)) for sock in opened)
        print(json.dumps([[*values, number] for values, number in found.items()]), flush=True)


def accepted(count: int) -> Iterator[socket.socket]:
    """Listen, say where, and accept so many connections."""
    with socket.create_server((LOOPBACK, 0), backlog=4096) as listener:
        print(listener.getsockname()[1], flush=True)
        for _ in range(count):
            yield listener.accept()[0]


def connected(count: int, port: int) -> Iterator[socket.socket]:
    """Make so many connections."""
    for _ in range(count):
        yield socket.create_connection((LOOPBACK, port))


def pacing_rate(sock: socket.socket) -> int:
    """The fastest a socket may send, bytes a second."""
    packed = sock.getsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, 8)
    return int(struct.unpack("=Q", packed)[0])


def dscp(sock: socket.socket) -> int:
    """The DSCP of what a socket sends."""
    return sock.getsockopt(socket.IPPROTO_IP, socket.IP_TOS) >> 2


if __name__ == "__main__":
    main()
