# SPDX-License-Identifier: Apache-2.0
"""A real nginx in a lab host, serving files of given sizes."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from pliant.errors import PliantError
from pliant.lab.host import Host, Process

READY_S = 10.0

_CONFIGURATION = """\
daemon off;
user root;
worker_processes {workers};
pid {prefix}/nginx.pid;
error_log {prefix}/error.log;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  sendfile on;
  keepalive_requests 1000000;
  default_type application/octet-stream;
  client_body_temp_path {prefix}/body;
  proxy_temp_path {prefix}/proxy;
  fastcgi_temp_path {prefix}/fastcgi;
  uwsgi_temp_path {prefix}/uwsgi;
  scgi_temp_path {prefix}/scgi;
  server {{
{listen}
    root {prefix}/files;
  }}
}}
"""


class Nginx:
    """nginx with its own prefix and configuration, nothing of the system's; use as a context manager.

    ``files`` gives names and sizes in bytes. ``listen`` takes ports (IPv4) and what nginx's own directive
    takes: "[::]:80", "[::]:81 ipv6only=off" (both families on one socket). Raises PliantError when nginx is
    missing or does not come up.
    """

    def __init__(
        self,
        host: Host,
        *,
        files: Mapping[str, int],
        listen: Sequence[int | str] = (80, "[::]:80"),
        service: str = "nginx.service",
        workers: int = 1,
    ) -> None:
        self.host = host
        self.service = service
        self.listen = [str(item) for item in listen]
        self.prefix = Path(tempfile.mkdtemp(prefix="nginx-", dir=host.directory))
        self.process: Process | None = None
        (self.prefix / "files").mkdir()
        for name, size in files.items():
            (self.prefix / "files" / name).write_bytes(content(size))
        lines = "\n".join(f"    listen {item};" for item in self.listen)
        text = _CONFIGURATION.format(prefix=self.prefix, workers=workers, listen=lines)
        (self.prefix / "nginx.conf").write_text(text)

    def __enter__(self) -> Nginx:
        prefix = str(self.prefix)
        # error_log in the file comes too late for what nginx says while reading it, hence -e
        argv = ["nginx", "-p", prefix, "-e", f"{prefix}/error.log", "-c", f"{prefix}/nginx.conf"]
        self.process = self.host.spawn(argv, service=self.service)
        try:
            for item in self.listen:
                self._await_ready(self.process, item)
        except BaseException:
            self.process.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is not None:
            self.process.stop()

    def _await_ready(self, process: Process, item: str) -> None:
        family, address = _local_address(item)
        deadline = time.monotonic() + READY_S
        while True:
            with self.host.inside(), socket.socket(family) as probe:
                probe.settimeout(1)
                try:
                    probe.connect(address)
                    return
                except OSError as error:
                    if time.monotonic() > deadline:
                        raise PliantError(
                            f"nginx does not answer on {item}: {error}; {self.errors}"
                        ) from error
            try:
                status = process.wait(0.01)
            except subprocess.TimeoutExpired:
                continue
            raise PliantError(f"nginx ended at once with status {status}: {self.errors}")

    @property
    def errors(self) -> str:
        """What nginx wrote to its error log."""
        log = self.prefix / "error.log"
        return log.read_text().strip() if log.exists() else ""

    def url(self, name: str, *, address: str | None = None, port: int = 80) -> str:
        """Return the URL of a file, at the host's first IPv4 address unless told otherwise."""
        at = self.host.address if address is None else address
        return f"http://{f'[{at}]' if ':' in at else at}:{port}/{name}"


def content(size: int) -> bytes:
    """Return the bytes of a served file of this size: a repeating pattern with no short period."""
    pattern = b"".join(number.to_bytes(4, "big") for number in range(4096))
    return (pattern * (size // len(pattern) + 1))[:size]


def _local_address(item: str) -> tuple[int, tuple[str, int]]:
    endpoint = item.split()[0]
    address, _, port = endpoint.rpartition(":")
    if address.startswith("["):
        inner = address.strip("[]")
        return socket.AF_INET6, ("::1" if inner == "::" else inner, int(port))
    return socket.AF_INET, (address if address not in ("", "*", "0.0.0.0") else "127.0.0.1", int(port))
