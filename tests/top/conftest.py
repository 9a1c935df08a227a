# SPDX-License-Identifier: Apache-2.0
"""A host at work: services with and without policies, and open connections of both families."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from pliant.kernel.cgroups import walk
from pliant.kernel.sock_diag import list_sockets
from pliant.lab import TcpClient, TcpServer
from pliant.top.frame import Watch

if TYPE_CHECKING:
    from tests.conftest import Eventually, MakePolicy, Pair, Pliant

CONNECTIONS = 6
"""Of web.service, half of them IPv6; the clients' ends have no policy."""


@dataclass(frozen=True)
class Work:
    """The host, watched; ``connect`` opens more connections."""

    pliant: Pliant
    watch: Watch
    server: TcpServer
    client: TcpClient
    connect: Callable[[int], None]


@pytest.fixture
def work(pliant: Pliant, pair: Pair, make_policy: MakePolicy, eventually: Eventually) -> Iterator[Work]:
    web = pair.service(pair.server, "web.service")
    ids = {cgroup.id for cgroup in walk(pair.server.cgroup)}

    def are_open(count: int) -> bool:
        return list_sockets(cgroups=ids, states=["established"], netns=pair.server.netns_path).total == count

    eventually(lambda: list_sockets(cgroups=ids, netns=pair.server.netns_path).total == 0)
    pliant.apply(
        make_policy("fast", web, {"initial_cwnd": 40, "pacing_rate": "200Mbit"}, priority=200, holdout="50%"),
        make_policy("marked", web, {"dscp": "EF"}),
    )
    with (
        TcpServer(pair.server, ["[::]:80"], service="web.service") as server,
        TcpClient(pair.client) as client,
    ):
        opened = 0

        def connect(count: int) -> None:
            nonlocal opened
            for address in (pair.server.address, pair.server.address6):
                client.connect(address, 80, count=count // 2)
            opened += count
            eventually(lambda: are_open(opened))

        connect(CONNECTIONS)
        yield Work(pliant, Watch(pliant.places), server, client, connect)
