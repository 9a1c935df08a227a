# SPDX-License-Identifier: Apache-2.0
"""A ``pliant agent`` that is run as systemd runs it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from command import Broken, wait_until


@contextmanager
def running_agent() -> Iterator[subprocess.Popen[bytes]]:
    """An agent that is ready, ended when the block ends."""
    with notification() as (address, ready):
        environment = {**os.environ, "NOTIFY_SOCKET": address}
        process = subprocess.Popen([sys.executable, "-m", "pliant", "agent"], env=environment)
        try:
            wait_until(
                lambda: process.poll() is not None or ready(), "the agent says that it is ready", 240.0
            )
            if process.poll() is not None:
                raise Broken(f"the agent ended with status {process.returncode}")
            yield process
        finally:
            process.terminate()
            process.wait(120)


@contextmanager
def notification() -> Iterator[tuple[str, Callable[[], bool]]]:
    """A socket as systemd gives its services (sd_notify(3)), and whether READY=1 has come."""
    with (
        tempfile.TemporaryDirectory() as directory,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver,
    ):
        address = f"{directory}/notify"
        receiver.bind(address)
        receiver.setblocking(False)
        said = bytearray()

        def ready() -> bool:
            with suppress(BlockingIOError):
                while True:
                    said.extend(receiver.recv(4096) + b"\n")
            return b"READY=1" in said

        yield address, ready
