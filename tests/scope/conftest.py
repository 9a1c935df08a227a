# SPDX-License-Identifier: Apache-2.0
"""Many connections at once from chosen addresses and ports, in one process of a service."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import pytest

from pliant.lab import Host as LabHost
from pliant.lab import SocketState

# Opens every connection of a list, reports them all, and keeps them open until its input ends.
OPEN_ALL = """
import json, socket, sys
from pliant.lab.sockets import state_as_json
opened = []
for source, source_port, address, port in json.loads(sys.stdin.readline()):
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if source:
        sock.bind((source, source_port))
    sock.connect((address, port))
    opened.append(sock)
print(json.dumps([state_as_json(sock) for sock in opened]), flush=True)
sys.stdin.read()
"""

Wanted = tuple[str, int, str, int]
"""A connection to be opened: source address and port, address and port; an empty source is left to the kernel."""

Opened = AbstractContextManager[list[SocketState]]
OpenAll = Callable[[LabHost, str, Sequence[Wanted]], Opened]


@pytest.fixture
def open_all() -> OpenAll:
    """Open connections in a service of a host; they stay open in the block."""

    @contextmanager
    def opened(host: LabHost, service: str, wanted: Sequence[Wanted]) -> Iterator[list[SocketState]]:
        process = host.spawn(
            [sys.executable, "-c", OPEN_ALL], service=service, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        stdin, stdout = process.popen.stdin, process.popen.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(wanted).encode() + b"\n")
        stdin.flush()
        line = stdout.readline()
        assert line, process.output
        yield [SocketState(**state) for state in json.loads(line)]
        process.stop()

    return opened
