# SPDX-License-Identifier: Apache-2.0
"""Open connections: judged by the iterator as new ones are by the program, tuned, and given back what they had."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pliant.agent.host import Host
from pliant.kernel.iterators import network_namespaces, run_in_namespaces
from pliant.lab import SocketState, TcpClient, TcpServer
from pliant.plan.steps import RetuneOnUndo, TuneOpen

if TYPE_CHECKING:
    from tests.conftest import MakePolicy, Pair, Pliant

pytestmark = pytest.mark.root

NO_LIMIT = 2**64 - 1
RATE = {"pacing_rate": "80Mbit"}
RATE_BYTES = 10_000_000


def rates(states: list[SocketState]) -> list[int]:
    return [state.max_pacing_rate for state in states]


@pytest.mark.parametrize("role", ["server", "client"])
@pytest.mark.parametrize("family", ["ipv4", "ipv6", "mapped"])
def test_which_end_opened_a_connection_is_found_from_the_open_socket(
    pliant: Pliant, pair: Pair, make_policy: MakePolicy, role: str, family: str
) -> None:
    """One process accepts and opens connections: the role alone tells them apart."""
    host = pair.server
    address = {"ipv4": host.address, "ipv6": host.address6, "mapped": f"::ffff:{host.address}"}[family]
    listen = "0.0.0.0:90" if family == "ipv4" else "[::]:90"
    with (
        TcpServer(host, [listen], service="both.service") as server,
        TcpClient(host, service="both.service") as client,
    ):
        client.connect(address, 90)
        server.connections()
        pliant.apply(
            make_policy("live", pair.service(host, "both.service"), RATE, role=role, apply_to="live")
        )
        accepted = [s for s in server.connections() if s.state == "established"]
        wanted = (RATE_BYTES, NO_LIMIT) if role == "server" else (NO_LIMIT, RATE_BYTES)
        assert (rates(accepted), rates(client.connections())) == ([wanted[0]], [wanted[1]])


def test_open_connections_follow_the_policy_and_get_back_what_they_had(
    pliant: Pliant, pair: Pair, port: int, make_policy: MakePolicy
) -> None:
    service = pair.service(pair.client, "app.service")
    with TcpClient(pair.client, service="app.service") as client:
        client.connect(pair.server.address, port)
        first = pliant.apply(make_policy("live", service, RATE, apply_to="live"))
        assert [type(s) for s in first.change.plan if isinstance(s, TuneOpen | RetuneOnUndo)] == [
            RetuneOnUndo,
            TuneOpen,
        ]
        assert rates(client.connections()) == [RATE_BYTES]
        client.connect(pair.server.address, port)  # a new one, which remembers what it had, too
        assert rates(client.connections()) == 2 * [RATE_BYTES]
        pliant.apply(make_policy("live", service, {"pacing_rate": "160Mbit"}, apply_to="live"))
        assert rates(client.connections()) == 2 * [2 * RATE_BYTES]
        pliant.rollback()
        assert rates(client.connections()) == 2 * [RATE_BYTES]
        pliant.rollback(0)
        assert rates(client.connections()) == 2 * [NO_LIMIT]


@pytest.mark.parametrize("next_change", ["delete", "off", "apply"])
@pytest.mark.parametrize("interrupted", ["before", "after"])
def test_what_was_interrupted_while_open_connections_were_tuned_is_settled_by_the_next_change(
    pliant: Pliant,
    pair: Pair,
    port: int,
    make_policy: MakePolicy,
    monkeypatch: pytest.MonkeyPatch,
    next_change: str,
    interrupted: str,
) -> None:
    def die(iterators: list[Path]) -> None:
        if interrupted == "after":
            run_in_namespaces(iterators)
        os.kill(os.getpid(), signal.SIGKILL)

    service = pair.service(pair.client, "app.service")
    live = make_policy("live", service, RATE, apply_to="live")
    changed = make_policy("live", service, {"pacing_rate": "160Mbit"}, apply_to="live")
    with TcpClient(pair.client, service="app.service") as client:
        client.connect(pair.server.address, port)
        pliant.apply(live)
        child = os.fork()
        if child == 0:
            monkeypatch.setattr("pliant.agent.actuator.open_connections.run_in_namespaces", die)
            pliant.apply(changed)
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        assert rates(client.connections()) == [RATE_BYTES * (2 if interrupted == "after" else 1)]
        if next_change == "apply":
            pliant.apply(live)
        elif next_change == "delete":
            pliant.delete("live")
        else:
            with Host(pliant.places) as host, host.exclusively(to_switch_off=True):
                host.carry_out(host.change_to_off(actor="test"), actor="test")
        assert rates(client.connections()) == [RATE_BYTES if next_change == "apply" else NO_LIMIT]


def test_a_policy_for_new_connections_leaves_open_ones_alone_and_its_end_does_too(
    pliant: Pliant, pair: Pair, port: int, make_policy: MakePolicy
) -> None:
    service = pair.service(pair.client, "app.service")
    with TcpClient(pair.client, service="app.service") as client:
        client.connect(pair.server.address, port)
        pliant.apply(make_policy("new", service, RATE))
        client.connect(pair.server.address, port)
        assert sorted(rates(client.connections())) == [RATE_BYTES, NO_LIMIT]
        pliant.delete("new")
        assert sorted(rates(client.connections())) == [RATE_BYTES, NO_LIMIT]


def test_held_out_connections_stay_so_when_they_are_open(
    pliant: Pliant, pair: Pair, port: int, make_policy: MakePolicy
) -> None:
    service = pair.service(pair.client, "app.service")
    made = make_policy("live", service, RATE, apply_to="live", holdout="50%")
    with TcpClient(pair.client, service="app.service") as client:
        for _ in range(60):
            client.connect(pair.server.address, port)
        pliant.apply(made)
        seen = {s.local_port: s.max_pacing_rate for s in client.connections()}
        assert set(seen.values()) == {RATE_BYTES, NO_LIMIT}
        pliant.delete("live")
        assert set(rates(client.connections())) == {NO_LIMIT}
        pliant.apply(made)
        again = {s.local_port: s.max_pacing_rate for s in client.connections()}
        assert set(again.values()) == {RATE_BYTES, NO_LIMIT}


def test_every_network_namespace_with_a_process_is_gone_through(pair: Pair) -> None:
    found = {path.stat().st_ino for path in network_namespaces()}
    for host in (pair.server, pair.client):
        with host.inside():
            mine = Path(f"/proc/self/task/{threading.get_native_id()}/ns/net").stat().st_ino
        assert mine in found
