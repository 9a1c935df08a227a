# SPDX-License-Identifier: Apache-2.0
"""The load of ``pliant bench lazy``: one process that is many services, and their client.

A socket belongs to the cgroup that its process is in when it is made, and what is accepted belongs to the listener's.
So this process goes through the cgroups given, listens in each, and then connects to itself from the last one. One
thread: the connections are made one after the other, so many of them to each service, and nothing else happens.

Arguments: the cgroups, the client's last. A number on standard input asks for that many connections; the answer is a
line when they are closed.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path


def main() -> None:
    """Listen, then make as many connections as asked for, in turn to each listener."""
    *services, client = sys.argv[1:]
    listeners = []
    for service in services:
        _enter(service)
        listeners.append(socket.create_server(("127.0.0.1", 0), backlog=16))
    _enter(client)
    print("ready", flush=True)
    for line in sys.stdin:
        for number in range(int(line)):
            _connect(listeners[number % len(listeners)])
        print("done", flush=True)


def _enter(cgroup: str) -> None:
    Path(cgroup, "cgroup.procs").write_text("0")


def _connect(listener: socket.socket) -> None:
    with socket.create_connection(listener.getsockname()) as client:
        accepted, _ = listener.accept()
        with accepted:
            client.sendall(b"?")
            accepted.recv(1)
            accepted.sendall(b"!")
            client.recv(1)


if __name__ == "__main__":
    main()
