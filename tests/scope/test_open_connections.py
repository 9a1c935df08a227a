# SPDX-License-Identifier: Apache-2.0
"""What is said of open connections, against what the scope program has decided and counted."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest

from pliant.agent.connections import Agreement, Judge, Seen, connections, find_connection
from pliant.agent.host import Host
from pliant.errors import PliantError
from pliant.kernel.cgroups import walk
from pliant.kernel.namespaces import network_namespaces
from pliant.kernel.sock_diag import list_sockets
from pliant.lab import TcpServer
from pliant.lab.sockets import SO_MAX_PACING_RATE
from pliant.observe.connections import OpenConnection, age
from pliant.policy.explain import Reason

if TYPE_CHECKING:
    from tests.conftest import Eventually, MakePolicy, Pair, Pliant
    from tests.scope.conftest import OpenAll, Wanted

pytestmark = pytest.mark.root

EVERYTHING: dict[str, Any] = {
    "congestion_control": "reno",
    "dscp": 10,
    "initial_cwnd": 30,
    "min_rto": "50ms",
    "pacing_rate": "200Mbit",
    "receive_window_max": "256KiB",
}
NEVER_SHOWN = {"initial_cwnd", "min_rto"}


@pytest.fixture
def server(pair: Pair) -> Iterator[TcpServer]:
    with TcpServer(pair.server, ["[::]:80"], service="web.service") as server:
        yield server


@pytest.fixture(autouse=True)
def nothing_open(pair: Pair, eventually: Eventually) -> None:
    """Connections of the test before have ended; closing ones are listed, too."""
    ids = {cgroup.id for host in (pair.server, pair.client) for cgroup in walk(host.cgroup)}
    hosts = (pair.server.netns_path, pair.client.netns_path)
    eventually(lambda: all(list_sockets(cgroups=ids, netns=netns).total == 0 for netns in hosts))


def by_role(seen: list[Seen], role: str) -> list[Seen]:
    return [s for s in seen if s.connection.role == role]


def has_connections(server: TcpServer, count: int) -> bool:
    return len(server.connections()) == count


def test_who_is_held_out_of_what_is_said_as_scope_has_decided_it(
    pliant: Pliant,
    pair: Pair,
    server: TcpServer,
    make_policy: MakePolicy,
    open_all: OpenAll,
    eventually: Eventually,
) -> None:
    services = pair.service(pair.server, "web.service"), pair.service(pair.client, "app.service")
    for name, service in zip(("server", "client"), services, strict=True):
        pliant.apply(
            make_policy(f"{name}-first", service, {"dscp": 10}, holdout="30%", priority=3),
            make_policy(f"{name}-next", service, {"dscp": 12}, holdout="50%", priority=2),
            make_policy(f"{name}-last", service, {"dscp": 14}, priority=1),
        )
    addresses = [pair.server.address, pair.server.address6, f"::ffff:{pair.server.address}"]
    wanted: list[Wanted] = [("", 0, address, server.port) for address in addresses for _ in range(60)]
    with open_all(pair.client, "app.service", wanted) as mine, Host(pliant.places) as host:
        eventually(partial(has_connections, server, len(mine)))
        seen, survey = connections(host, Judge(host))
        assert survey.total == len(seen) == 2 * len(mine)
        judge = Judge(host)
        for one in seen:
            [dscp] = judge.options(one)
            assert dscp.agreement is Agreement.SAME, (one, dscp)
        for role in ("server", "client"):
            ends = by_role(seen, role)
            assert len(ends) == len(mine)
            winners = Counter(winner for one in ends for winner in one.winners)
            assert min(winners.values()) > 0
            assert pliant.arms(f"{role}-first") == (winners[f"{role}-first"], 180 - winners[f"{role}-first"])
            assert pliant.arms(f"{role}-next") == (winners[f"{role}-next"], winners[f"{role}-last"])
            held_out = Counter(
                j.policy for one in ends for j in one.judged if j.reason is Reason.HELD_OUT and not j.won
            )
            assert held_out[f"{role}-first"] == pliant.arms(f"{role}-first")[1]


@pytest.mark.parametrize("family", ["ipv4", "ipv6", "mapped"])
@pytest.mark.parametrize("role", ["server", "client"])
def test_what_the_kernel_has_stands_beside_what_was_asked(
    pliant: Pliant,
    pair: Pair,
    server: TcpServer,
    make_policy: MakePolicy,
    open_all: OpenAll,
    eventually: Eventually,
    role: str,
    family: str,
) -> None:
    service = {"server": (pair.server, "web.service"), "client": (pair.client, "app.service")}[role]
    pliant.apply(make_policy("all", pair.service(*service), EVERYTHING, role=role))
    address = {
        "ipv4": pair.server.address,
        "ipv6": pair.server.address6,
        "mapped": f"::ffff:{pair.server.address}",
    }[family]
    with open_all(pair.client, "app.service", [("", 0, address, server.port)]), Host(pliant.places) as host:
        eventually(partial(has_connections, server, 1))
        judge = Judge(host)
        [seen] = connections(host, judge)[0]
        assert (seen.connection.role, seen.winners) == (role, ("all",))
        states = {state.option: state for state in judge.options(seen)}
        assert states.keys() == EVERYTHING.keys()
        for name, state in states.items():
            wanted = Agreement.HIDDEN if name in NEVER_SHOWN else Agreement.SAME
            assert state.agreement is wanted, state


def test_what_the_application_sets_itself_is_told_apart(
    pliant: Pliant,
    pair: Pair,
    server: TcpServer,
    make_policy: MakePolicy,
    open_all: OpenAll,
    eventually: Eventually,
) -> None:
    pliant.apply(
        make_policy("a", pair.service(pair.server, "web.service"), {"pacing_rate": "200Mbit", "dscp": "EF"})
    )
    with (
        open_all(pair.client, "app.service", [("", 0, pair.server.address, server.port)]),
        Host(pliant.places) as host,
    ):
        eventually(partial(has_connections, server, 1))
        server.set_option(socket.SOL_SOCKET, SO_MAX_PACING_RATE, 1_000_000)
        judge = Judge(host)
        [seen] = connections(host, judge)[0]
        states = {state.option: state for state in judge.options(seen)}
        assert states["dscp"].agreement is Agreement.SAME
        assert states["pacing_rate"].agreement is Agreement.APPLICATION
        assert (states["pacing_rate"].asked, states["pacing_rate"].shown) == ("200Mbit", "8Mbit")


def test_connection_from_before_the_policy_is_told_so(
    pliant: Pliant,
    pair: Pair,
    server: TcpServer,
    make_policy: MakePolicy,
    open_all: OpenAll,
    eventually: Eventually,
) -> None:
    with (
        open_all(pair.client, "app.service", [("", 0, pair.server.address, server.port)]) as [mine],
        Host(pliant.places) as host,
    ):

        def found() -> OpenConnection:
            local, remote = ip_address(mine.local), ip_address(mine.remote)
            ends = (local, mine.local_port), (remote, mine.remote_port)
            return find_connection(host, *ends, network_namespaces())

        def is_old() -> bool:  # by more than the granularity of the kernel's clock
            known = age(found().socket)
            return known is not None and known.is_exact and known.seconds > 0.05

        eventually(is_old)
        pliant.apply(make_policy("a", pair.service(pair.client, "app.service"), {"pacing_rate": "200Mbit"}))
        judge = Judge(host)
        [state] = judge.options(judge(found()))
        assert (state.shown, state.agreement) == ("no limit", Agreement.OLDER)


def test_application_may_have_changed_what_a_live_policy_has_set_on_an_older_connection(
    pliant: Pliant,
    pair: Pair,
    server: TcpServer,
    make_policy: MakePolicy,
    open_all: OpenAll,
    eventually: Eventually,
) -> None:
    with (
        open_all(pair.client, "app.service", [("", 0, pair.server.address, server.port)]),
        Host(pliant.places) as host,
    ):
        eventually(partial(has_connections, server, 1))
        web = pair.service(pair.server, "web.service")
        pliant.apply(make_policy("a", web, {"pacing_rate": "200Mbit", "dscp": "EF"}, apply_to="live"))
        server.set_option(socket.SOL_SOCKET, SO_MAX_PACING_RATE, 1_000_000)
        judge = Judge(host)
        [seen] = connections(host, judge)[0]
        states = {state.option: state.agreement for state in judge.options(seen)}
        assert states == {"dscp": Agreement.SAME, "pacing_rate": Agreement.APPLICATION}


def test_list_is_chosen_by_policy_and_by_service_and_bounded(
    pliant: Pliant,
    pair: Pair,
    server: TcpServer,
    make_policy: MakePolicy,
    open_all: OpenAll,
    eventually: Eventually,
) -> None:
    web, app = pair.service(pair.server, "web.service"), pair.service(pair.client, "app.service")
    pliant.apply(
        make_policy("web", web, {"dscp": 10}),
        make_policy("app", app, {"dscp": 10}),
        make_policy("elsewhere", app, {"min_rto": "50ms"}, remotePorts=[81]),
    )
    wanted: list[Wanted] = [("", 0, pair.server.address, server.port)] * 5
    with open_all(pair.client, "app.service", wanted), Host(pliant.places) as host:
        eventually(partial(has_connections, server, 5))
        judge = Judge(host)
        assert len(connections(host, judge)[0]) == 10
        assert {s.winners for s in connections(host, judge, policy="web")[0]} == {("web",)}
        assert connections(host, judge, policy="elsewhere")[0] == []
        assert {s.connection.cgroup for s in connections(host, judge, service="app.service")[0]} == {app}
        few, survey = connections(host, judge, at_most=4)
        assert (len(few), survey.total) == (4, 10)
        with pytest.raises(PliantError, match="there is no policy 'none'"):
            connections(host, judge, policy="none")
        with pytest.raises(PliantError, match=r"'none\.service' is on this host under no such name"):
            connections(host, judge, service="none.service")
