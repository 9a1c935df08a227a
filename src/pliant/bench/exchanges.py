# SPDX-License-Identifier: Apache-2.0
"""Two processes that keep TCP connections busy, and what it has cost them of a processor.

    python -m pliant.bench.exchanges server ADDRESS PORT
    python -m pliant.bench.exchanges client ADDRESS PORT KIND SECONDS SERVER_PID

A server answers one client after the other until it is stopped. A client uses its connections in one of four ways
(KIND): ``requests``, of 64 bytes, one on each of sixteen connections, and the next ones when the answers are there;
``turns``, the same on one connection, where every request waits for the answer to the one before; ``messages``, 64
bytes in a packet of their own, one after the other; ``bulk``, 64 KB at a time. It tells, as JSON, how many requests or
bytes went in how many seconds, and how many of those both processes had a processor for; work that the kernel does for
packets is in that time as long as it does it in these processes' name, as it does on one core.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

MESSAGE = bytes(64)
CHUNK = bytes(1 << 16)
READ_BYTES = 1 << 18
WARM_UP_S = 0.1
LOOK_EVERY = 16
ECHO, DISCARD = b"e", b"d"
CONNECTIONS = 16


def serve(address: str, port: int) -> None:
    """Answer clients: send back what comes, or throw it away, as the first connection's first two bytes say."""
    with socket.create_server((address, port), backlog=CONNECTIONS) as listener:
        print("ready", flush=True)
        while True:
            with ExitStack() as held:
                connections = [held.enter_context(listener.accept()[0])]
                mode, count = connections[0].recv(1), connections[0].recv(1)
                if count:
                    connections += [held.enter_context(listener.accept()[0]) for _ in range(count[0] - 1)]
                    answer(connections, is_echo=mode == ECHO)


def answer(connections: Sequence[socket.socket], *, is_echo: bool) -> None:
    """Answer connections by turns until the client ends: what comes on one has come on those before it."""
    room = bytearray(READ_BYTES)
    view = memoryview(room)
    for connection in connections:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    ways = [(connection.recv_into, connection.send) for connection in connections]
    try:
        while True:
            for receive, send in ways:
                size = receive(room)
                if not size:
                    return
                if is_echo:
                    send(view[:size])
    except ConnectionError:
        return


def requests(connections: Sequence[socket.socket]) -> Callable[[], int]:
    """A request on each connection, and its answer."""
    room = bytearray(len(MESSAGE))
    sends = [connection.send for connection in connections]
    receives = [connection.recv_into for connection in connections]

    def exchange() -> int:
        for send in sends:
            send(MESSAGE)
        for receive in receives:
            receive(room)
        return len(sends)

    return exchange


def messages(connections: Sequence[socket.socket]) -> Callable[[], int]:
    """A short message."""
    send = connections[0].send
    return lambda: send(MESSAGE)


def bulk(connections: Sequence[socket.socket]) -> Callable[[], int]:
    """A lot at a time."""
    send = connections[0].send
    return lambda: send(CHUNK)


KINDS = {
    "requests": (ECHO, CONNECTIONS, requests),
    "turns": (ECHO, 1, requests),
    "messages": (DISCARD, 1, messages),
    "bulk": (DISCARD, 1, bulk),
}
"""What the server does with what comes, on how many connections, and how they are used."""


def use(address: str, port: int, kind: str, seconds: float, server: int) -> dict[str, float]:
    """Keep connections busy; say what went, in what time, and what that took of a processor."""
    mode, count, way = KINDS[kind]
    with ExitStack() as held:
        connections = []
        for number in range(count):
            connection = held.enter_context(socket.create_connection((address, port)))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if not number:
                connection.send(mode + bytes([count]))
            connections.append(connection)
        once = way(connections)
        _repeat(once, WARM_UP_S)
        begun = time.monotonic()
        used = _processor_s(server) + time.process_time()
        done = _repeat(once, seconds)
        used = _processor_s(server) + time.process_time() - used
        return {"done": done, "seconds": time.monotonic() - begun, "processor_seconds": used}


def _repeat(once: Callable[[], int], seconds: float) -> int:
    done, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        for _ in range(LOOK_EVERY):
            done += once()
    return done


def _processor_s(pid: int) -> float:
    """For how long a process has had a processor (proc(5), schedstat)."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def main() -> None:
    """Serve, or use a server and tell."""
    role, address, port, *rest = sys.argv[1:]
    if role == "server":
        serve(address, int(port))
    else:
        kind, seconds, server = rest
        print(json.dumps(use(address, int(port), kind, float(seconds), int(server))), flush=True)


if __name__ == "__main__":
    main()
