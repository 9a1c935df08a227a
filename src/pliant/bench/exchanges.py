# SPDX-License-Identifier: Apache-2.0
"""Two processes that keep one TCP connection busy, and what it has cost them of a processor.

    python -m pliant.bench.exchanges server ADDRESS PORT
    python -m pliant.bench.exchanges client ADDRESS PORT KIND SECONDS SERVER_PID

A server answers one connection after the other until it is stopped. A client makes one and uses it in one of three ways
(KIND): ``requests``, of 64 bytes each, the next when the answer is there; ``messages``, 64 bytes in a packet of their
own, one after the other; ``bulk``, 64 KB at a time. It tells, as JSON, how many bytes (of requests: how many) went in
how many seconds, and how many of those both processes had a processor for; work that the kernel does for packets is in
that time as long as it does it in these processes' name, as it does on one core.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

MESSAGE = bytes(64)
CHUNK = bytes(1 << 16)
READ_BYTES = 1 << 18
WARM_UP_S = 0.1
LOOK_EVERY = 64
ECHO, DISCARD = b"e", b"d"


def serve(address: str, port: int) -> None:
    """Answer connections: send back what comes, or throw it away, as the first byte says."""
    with socket.create_server((address, port)) as listener:
        print("ready", flush=True)
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                is_echo = connection.recv(1) == ECHO
                _answer(connection, is_echo=is_echo)


def _answer(connection: socket.socket, *, is_echo: bool) -> None:
    room = bytearray(READ_BYTES)
    view = memoryview(room)
    receive, send = connection.recv_into, connection.send
    try:
        while size := receive(room):
            if is_echo:
                send(view[:size])
    except ConnectionError:
        return


def request(connection: socket.socket) -> Callable[[], int]:
    """A request and its answer."""
    receive, send, room = connection.recv_into, connection.send, bytearray(len(MESSAGE))

    def exchange() -> int:
        send(MESSAGE)
        receive(room)
        return 1

    return exchange


def message(connection: socket.socket) -> Callable[[], int]:
    """A short message."""
    send = connection.send
    return lambda: send(MESSAGE)


def bulk(connection: socket.socket) -> Callable[[], int]:
    """A lot at a time."""
    send = connection.send
    return lambda: send(CHUNK)


KINDS = {"requests": (ECHO, request), "messages": (DISCARD, message), "bulk": (DISCARD, bulk)}


def use(address: str, port: int, kind: str, seconds: float, server: int) -> dict[str, float]:
    """Keep a connection busy; say what went, in what time, and what that took of a processor."""
    mode, way = KINDS[kind]
    with socket.create_connection((address, port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.send(mode)
        once = way(connection)
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
