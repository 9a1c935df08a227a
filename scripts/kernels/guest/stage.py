# SPDX-License-Identifier: Apache-2.0
"""Two hosts in network namespaces, a service on each, and connections between them whose sockets are read back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from command import pliant_command, wait_until
from pliant.lab import Lab, SocketState, TcpClient, TcpServer
from pliant.lab.cgroup import version2_root

PINS = Path("/sys/fs/bpf/pliant")
SETTINGS = (
    *(
        "congestion_control",
        "snd_cwnd",
        "snd_ssthresh",
        "max_pacing_rate",
        "tos",
        "tclass",
        "window_clamp",
        "sndbuf",
    ),
    *("rcvbuf", "notsent_lowat", "snd_mss", "maxseg", "mark", "priority", "ecn", "rto_min_us", "rto_max_ms"),
    *("delack_max_us", "rto_us"),
)
"""What of a socket does not change by itself while nothing is sent."""

ECN_BITS = 2

Ends = Mapping[str, SocketState]
Difference = dict[str, list[Any]]


class Stage:
    """A server's service and a client's, linked; ``connect`` opens the only connection there is."""

    def __enter__(self) -> Self:
        self.lab = Lab("kernels")
        self.lab.__enter__()
        self.server_host, self.client_host = self.lab.host("server"), self.lab.host("client")
        self.lab.link(self.server_host, self.client_host)
        self.server = TcpServer(self.server_host, ["[::]:80"], service="web.service")
        self.client = TcpClient(self.client_host, service="app.service")
        self.local_client = TcpClient(self.server_host, service="local.service")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for helper in (self.local_client, self.client, self.server):
            helper.close()
        self.lab.close()

    def service(self, role: str) -> str:
        """The path of the control group of a role's service."""
        host, name = {
            "server": (self.server_host, "web.service"),
            "client": (self.client_host, "app.service"),
            "local": (self.server_host, "local.service"),
            "late": (self.client_host, "late.service"),
        }[role]
        return "/" + str(host.service(name).relative_to(version2_root()))

    def remove_service(self, role: str) -> None:
        """Remove the control group of a service that has no process."""
        Path(f"{version2_root()}{self.service(role)}").rmdir()

    def late_client(self) -> TcpClient:
        """A client in the service that comes late."""
        return TcpClient(self.client_host, service="late.service")

    def window_of(self, client: TcpClient) -> int:
        """The window of a new connection of a client, the only one then."""
        client.disconnect()
        [mine] = client.connect(self.server_host.address, 80)
        return mine.snd_cwnd

    def policy(self, role: str, tune: Mapping[str, Any], *, name: str = "", **spec: Any) -> str:
        """A policy for the service of a role, as people write it."""
        return json.dumps(
            {
                "apiVersion": "pliant/v1",
                "kind": "TransportPolicy",
                "metadata": {"name": name or role},
                "spec": {"match": {"service": self.service(role)}, "tune": dict(tune), **spec},
            }
        )

    def connect(self, address: str = "") -> dict[str, SocketState]:
        """Open a connection, the only one then, and return the state of both ends by role."""
        self.disconnect()
        [mine] = self.client.connect(address or self.server_host.address, 80)
        return {"client": mine, "server": self._peer_of(mine)}

    def connect_over_loopback(self) -> dict[str, SocketState]:
        """The same from the server's own host."""
        self.disconnect()
        [mine] = self.local_client.connect("127.0.0.1", 80)
        return {"local": mine, "server": self._peer_of(mine)}

    def now(self) -> dict[str, SocketState]:
        """The state of both ends of the open connection."""
        [mine] = self.client.connections()
        return {"client": mine, "server": self._peer_of(mine)}

    def exchange(self, size: int = 20_000) -> None:
        """Send this many bytes there and back on the open connection."""
        self.client.send(size)
        self.client.receive(size)

    def disconnect(self) -> None:
        """Close what is open."""
        self.client.disconnect()
        self.local_client.disconnect()

    def _peer_of(self, mine: SocketState) -> SocketState:
        found: list[SocketState] = []

        def is_accepted() -> bool:
            found[:] = [
                state
                for state in self.server.connections()
                if (state.remote_port, state.state) == (mine.local_port, "established")
            ]
            return bool(found)

        wait_until(is_accepted, "the server accepts the connection")
        return found[0]

    @contextmanager
    def in_force(self, *policies: str) -> Iterator[Any]:
        """Policies in force for a block, through the command; gives what ``apply`` printed."""
        stream = "\n---\n".join(policies)
        try:
            yield pliant_command("apply", "-f", "-", "-o", "json", given=stream).data()
        finally:
            pliant_command("rollback", "0", "-o", "json")


def differences(before: SocketState, after: SocketState) -> Difference:
    """What of two sockets' settings differs, by name: before and after."""
    pairs = {name: [getattr(before, name), getattr(after, name)] for name in SETTINGS}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1] and not _is_noise(name, *pair)}


def _is_noise(name: str, before: Any, after: Any) -> bool:
    if name in ("tos", "tclass"):
        return bool(before >> ECN_BITS == after >> ECN_BITS)  # those below the DSCP are the kernel's
    return name == "rto_us" and abs(before - after) < before / 4  # follows the round trips that were measured


def pinned() -> list[str]:
    """Everything that Pliant has pinned."""
    return (
        sorted(str(path.relative_to(PINS)) for path in PINS.rglob("*") if path.is_file())
        if PINS.exists()
        else []
    )
