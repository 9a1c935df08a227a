# SPDX-License-Identifier: Apache-2.0
"""The scope program against policy.explain, on real connections, and what it does not do."""

from __future__ import annotations

import json
import math
import os
import random
import sys
from collections.abc import Iterator
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Any

import pytest

from pliant.kernel.cgroup_query import attached
from pliant.kernel.links import AttachType
from pliant.kernel.programs import Program
from pliant.kernel.run_time import run_time_statistics
from pliant.lab import SocketState, TcpServer
from pliant.policy.explain import Connection, explain
from pliant.policy.model import Policy

if TYPE_CHECKING:
    from tests.conftest import Eventually, MakePolicy, OpenAndClose, Pair, Pliant
    from tests.scope.conftest import OpenAll, Wanted

pytestmark = pytest.mark.root

DEFAULT_WINDOW, NO_LIMIT = 10, 2**64 - 1
SERVER_SERVICES = (
    "app.slice",
    "app.slice/a.service",
    "app.slice/a.service/worker",
    "app.slice/b.service",
    "c.service",
)
CLIENT_SERVICES = ("batch.slice", "batch.slice/x.service", "batch.slice/x.service/deep", "y.service")
PORTS = (80, 443, 8080, 8081)
SOURCE_PORTS = (2000, 2001, 2002, 2003)
SERVER_POOLS = ("10.77.0.0/16", "fd77::/32")
CLIENT_POOLS = ("10.88.0.0/16", "fd88::/32")
JIFFY_US = 4000
Network = IPv4Network | IPv6Network


# -- what a random policy and a random connection look like


def subnet(random_: random.Random, pool: str) -> str:
    """A prefix in a pool, out of few enough that many nest."""
    network = ip_network(pool)
    bits = network.max_prefixlen
    length = random_.choice((network.prefixlen, network.prefixlen + 2, network.prefixlen + 5, bits - 6, bits))
    return str(ip_network((address(random_, pool), length), strict=False))


def address(random_: random.Random, pool: str) -> str:
    """One of 64 addresses of a pool, spread over it."""
    network = ip_network(pool)
    width = network.max_prefixlen - network.prefixlen
    number = (
        random_.randrange(4) << (width - 2) | random_.randrange(4) << (width - 5) | random_.randrange(1, 5)
    )
    return str(network.network_address + number)


def settings(random_: random.Random, number: int) -> dict[str, Any]:
    """A few options, with values that tell policies apart."""
    everything: dict[str, Any] = {
        "initial_cwnd": 11 + number,
        "pacing_rate": 8000 * (10_000 + number),
        "dscp": 1 + number % 63,
        "min_rto": f"{8 + 4 * (number % 48)}ms",
    }
    everything["pacing_rate"] = f"{everything['pacing_rate']}bit"
    return {
        name: everything[name] for name in random_.sample(sorted(everything), random_.choice((1, 1, 2, 4)))
    }


def random_policies(random_: random.Random, pair: Pair, make_policy: MakePolicy, count: int) -> list[Policy]:
    made = []
    priorities = random_.sample(range(1000), count)  # no two alike: nothing is a conflict
    for number in range(count):
        of_server = random_.random() < 0.6
        host = pair.server if of_server else pair.client
        match: dict[str, Any] = {"role": random_.choice(("server", "client", "any"))}
        if random_.random() < 0.8:
            pools = CLIENT_POOLS if of_server else SERVER_POOLS
            match["peers"] = sorted(
                {subnet(random_, random_.choice(pools)) for _ in range(random_.choice((1, 2, 5)))}
            )
        near, far = (PORTS, SOURCE_PORTS) if of_server else (SOURCE_PORTS, PORTS)
        if random_.random() < 0.4:
            match["localPorts"] = random_.sample(near, random_.choice((1, 2)))
        if random_.random() < 0.3:
            match["remotePorts"] = random_.sample(far, random_.choice((1, 2)))
        service = pair.service(host, random_.choice(SERVER_SERVICES if of_server else CLIENT_SERVICES))
        made.append(
            make_policy(
                f"p{number}", service, settings(random_, number), priority=priorities[number], **match
            )
        )
    return made


def random_connections(random_: random.Random, port: int, count: int) -> list[Wanted]:
    """Connections from every kind of source; the same one never twice, for the source ports are few."""
    found: dict[tuple[str, int, str], Wanted] = {}
    while len(found) < count:
        index, mapped = random_.randrange(2), random_.random() < 0.4
        source, target = address(random_, CLIENT_POOLS[index]), address(random_, SERVER_POOLS[index])
        if mapped and index == 0:
            source, target = f"::ffff:{source}", f"::ffff:{target}"
        source_port = random_.choice(SOURCE_PORTS)
        bare = source.removeprefix("::ffff:")
        found[bare, source_port, target.removeprefix("::ffff:")] = (source, source_port, target, port)
    return list(found.values())


# -- what connections are expected to have, and what they have


def expected(policies: list[Policy], cgroup: str, role: str, state: SocketState) -> dict[str, Any]:
    connection = Connection(cgroup, role, state.local_port, ip_address(state.remote), state.remote_port)
    won = {name: value for judged in explain(policies, connection) for name, value in judged.won.items()}
    return {
        "initial_cwnd": won.get("initial_cwnd", DEFAULT_WINDOW),
        "pacing_rate": won["pacing_rate"] // 8 if "pacing_rate" in won else NO_LIMIT,
        "dscp": won.get("dscp", 0),
        "min_rto": won.get("min_rto", 200_000),
    }


def actual(state: SocketState) -> dict[str, Any]:
    is_ipv6 = (
        ":" in state.remote
        and ip_address(state.remote).version == 6
        and not state.remote.startswith("::ffff:")
    )
    traffic_class = state.tclass if is_ipv6 else state.tos
    assert traffic_class is not None
    return {
        "initial_cwnd": state.snd_cwnd,
        "pacing_rate": state.max_pacing_rate,
        "dscp": traffic_class >> 2,
        "min_rto": state.rto_min_us,
    }


def has_connections(server: TcpServer, count: int) -> bool:
    return len(server.connections()) == count


@pytest.fixture(scope="module")
def pools(pair: Pair) -> None:
    pair.server.add_prefix(*SERVER_POOLS)
    pair.client.add_prefix(*CLIENT_POOLS)


@pytest.mark.parametrize("seed", range(3))
def test_connections_get_what_explain_says_at_both_ends(
    pliant: Pliant,
    pair: Pair,
    pools: None,
    make_policy: MakePolicy,
    open_all: OpenAll,
    eventually: Eventually,
    seed: int,
) -> None:
    random_ = random.Random(seed)
    policies = random_policies(random_, pair, make_policy, 250)
    pliant.apply(*policies)
    compared = tuned = 0
    for server_service, client_service in zip(
        SERVER_SERVICES, random_.choices(CLIENT_SERVICES, k=len(SERVER_SERVICES)), strict=True
    ):
        port = random_.choice(PORTS)
        with TcpServer(pair.server, [f"[::]:{port}"], service=server_service) as server:
            wanted = random_connections(random_, port, 40)
            with open_all(pair.client, client_service, wanted) as mine:
                eventually(partial(has_connections, server, len(mine)))
                ends = [("client", pair.service(pair.client, client_service), state) for state in mine]
                ends += [
                    ("server", pair.service(pair.server, server_service), state)
                    for state in server.connections()
                ]
                for role, cgroup, state in ends:
                    wanted_values = expected(policies, cgroup, role, state)
                    assert actual(state) == wanted_values, (role, cgroup, state)
                    compared += 1
                    tuned += wanted_values["initial_cwnd"] != DEFAULT_WINDOW
    assert compared == 2 * 40 * len(SERVER_SERVICES)
    assert tuned > compared / 10  # the policies are such that the comparison says something


# -- holdout


def is_likely(count: int, total: int, share: float) -> bool:
    """Whether a count is within 4.5 standard deviations of what is expected: wrong once in 150,000 times."""
    return abs(count - total * share) <= 4.5 * math.sqrt(total * share * (1 - share))


def test_holdout_keeps_its_share_of_connections_untuned_and_counts_both_arms(
    pliant: Pliant, pair: Pair, port: int, make_policy: MakePolicy, open_and_close: OpenAndClose
) -> None:
    service = pair.service(pair.client, "app.service")
    pliant.apply(make_policy("a", service, {"initial_cwnd": 30}, holdout="30%"))
    seen = open_and_close(pair.client, "app.service", pair.server.address, port, 2000)
    windows = [one.window for one in seen]
    assert set(windows) == {30, DEFAULT_WINDOW}
    assert is_likely(windows.count(DEFAULT_WINDOW), 2000, 0.3)
    assert pliant.arms("a") == (windows.count(30), windows.count(DEFAULT_WINDOW))
    assert pliant.judged()["held_out"] == windows.count(DEFAULT_WINDOW)
    assert pliant.judged()["matched"] == windows.count(30)


def test_arms_of_two_policies_are_independent(
    pliant: Pliant, pair: Pair, port: int, make_policy: MakePolicy, open_and_close: OpenAndClose
) -> None:
    service = pair.service(pair.client, "app.service")
    pliant.apply(
        make_policy("window", service, {"initial_cwnd": 30}, holdout="40%", priority=2),
        make_policy("rate", service, {"pacing_rate": "800Mbit"}, holdout="50%", priority=1),
    )
    seen = open_and_close(pair.client, "app.service", pair.server.address, port, 2000)
    for window, window_share in ((30, 0.6), (DEFAULT_WINDOW, 0.4)):
        for rate, rate_share in ((100_000_000, 0.5), (NO_LIMIT & 0xFFFFFFFF, 0.5)):
            count = sum(one == (window, rate) for one in seen)
            assert is_likely(count, 2000, window_share * rate_share), (window, rate, count)


@pytest.mark.parametrize("ports", [{}, {"remotePorts": [80]}])
def test_held_out_connection_falls_to_the_next_policy_and_arms_count_what_each_decides(
    pliant: Pliant,
    pair: Pair,
    port: int,
    make_policy: MakePolicy,
    open_and_close: OpenAndClose,
    ports: dict[str, Any],
) -> None:
    service = pair.service(pair.client, "app.service")
    pliant.apply(
        make_policy("first", service, {"initial_cwnd": 30}, holdout="30%", priority=3, **ports),
        make_policy("next", service, {"initial_cwnd": 20}, holdout="50%", priority=2),
        make_policy("last", service, {"initial_cwnd": 15}, priority=1),
    )
    seen = open_and_close(pair.client, "app.service", pair.server.address, port, 1000)
    windows = [one.window for one in seen]
    assert set(windows) == {30, 20, 15}
    assert is_likely(windows.count(30), 1000, 0.7)
    assert is_likely(windows.count(20), 1000, 0.15)
    # Where "first" treats a connection, neither arm of the others has anything to do with it.
    assert pliant.arms("first") == (windows.count(30), 1000 - windows.count(30))
    assert pliant.arms("next") == (windows.count(20), windows.count(15))
    assert pliant.arms("last") == (windows.count(15), 0)


def test_arm_of_a_connection_is_the_same_each_time_and_drawn_anew_for_a_new_version(
    pliant: Pliant, pair: Pair, pools: None, make_policy: MakePolicy, open_all: OpenAll
) -> None:
    service = pair.service(pair.client, "app.service")
    wanted = [("10.88.0.1", 3000 + n, "10.77.0.1", 80) for n in range(100)]

    def arms() -> list[bool]:
        with TcpServer(pair.server, ["[::]:80"]), open_all(pair.client, "app.service", wanted) as opened:
            return [state.snd_cwnd != DEFAULT_WINDOW for state in opened]

    pliant.apply(make_policy("a", service, {"initial_cwnd": 30}, holdout="50%"))
    first, again = arms(), arms()
    assert first == again
    pliant.apply(make_policy("a", service, {"initial_cwnd": 31}, holdout="50%"))
    assert first != arms()  # another version is another experiment
    assert 20 < sum(first) < 80


# -- services


@pytest.fixture
def services(pair: Pair) -> Iterator[dict[str, TcpServer]]:
    """A server in a service, in a cgroup below it, in a sibling and in their parent."""
    names = ("app.slice", "app.slice/a.service", "app.slice/a.service/worker", "app.slice/b.service")
    servers = {name: TcpServer(pair.server, [f"[::]:{80 + n}"], service=name) for n, name in enumerate(names)}
    yield servers
    for server in servers.values():
        server.close()


def windows_of(
    pair: Pair, services: dict[str, TcpServer], open_all: OpenAll, eventually: Eventually, count: int = 1
) -> dict[str, set[int]]:
    """The initial windows that the servers gave to some connections each."""
    wanted = [("", 0, pair.server.address, server.port) for server in services.values() for _ in range(count)]
    with open_all(pair.client, "y.service", wanted):
        for server in services.values():
            eventually(partial(has_connections, server, count))
        return {name: {s.snd_cwnd for s in server.connections()} for name, server in services.items()}


def test_cgroups_below_a_service_are_of_it_and_siblings_are_not(
    pliant: Pliant,
    pair: Pair,
    services: dict[str, TcpServer],
    make_policy: MakePolicy,
    open_all: OpenAll,
    eventually: Eventually,
) -> None:
    pliant.apply(make_policy("a", pair.service(pair.server, "app.slice/a.service"), {"initial_cwnd": 30}))
    assert windows_of(pair, services, open_all, eventually) == {
        "app.slice": {DEFAULT_WINDOW},
        "app.slice/a.service": {30},
        "app.slice/a.service/worker": {30},
        "app.slice/b.service": {DEFAULT_WINDOW},
    }


def test_connection_of_nested_services_is_judged_once(
    pliant: Pliant,
    pair: Pair,
    services: dict[str, TcpServer],
    make_policy: MakePolicy,
    open_all: OpenAll,
    eventually: Eventually,
) -> None:
    outer, inner = (pair.service(pair.server, n) for n in ("app.slice", "app.slice/a.service"))
    pliant.apply(
        make_policy("outer", outer, {"initial_cwnd": 30}, priority=1),
        make_policy("inner", inner, {"initial_cwnd": 31, "min_rto": "20ms"}, priority=2),
    )
    hooks = {name: attached(pair.server.service(name), AttachType.CGROUP_SOCK_OPS) for name in services}
    assert [[program.name for program in hook] for hook in hooks.values()] == [["scope"], [], [], []]
    found = windows_of(pair, services, open_all, eventually, count=10)
    assert [found[name] for name in services] == [{30}, {31}, {31}, {30}]
    assert pliant.judged() == {"matched": 40, "held_out": 0, "no_rule": 0, "no_service": 0, "no_memory": 0}
    assert (pliant.arms("outer"), pliant.arms("inner")) == ((20, 0), (20, 0))
    assert pliant.outcomes("initial_cwnd").applied == 40
    assert pliant.outcomes("min_rto").applied == 20


def test_nothing_runs_for_a_service_without_a_policy(
    pliant: Pliant,
    pair: Pair,
    services: dict[str, TcpServer],
    make_policy: MakePolicy,
    open_and_close: OpenAndClose,
) -> None:
    a, b = services["app.slice/a.service"], services["app.slice/b.service"]
    tune = {"initial_cwnd": 30, "congestion_control": "cubic", "dscp": 1, "min_rto": "20ms"}
    pliant.apply(make_policy("a", pair.service(pair.server, "app.slice/a.service"), tune))

    def runs(port: int) -> dict[str, int]:
        with run_time_statistics():
            before = all_runs(pliant)
            open_and_close(pair.client, "y.service", pair.server.address, port, 100)
            return {name: count - before[name] for name, count in all_runs(pliant).items()}

    assert set(runs(b.port).values()) == {0}
    assert {pliant.outcomes(name).applied for name in tune} == {0}
    ran = runs(a.port)
    assert set(ran) == {"scope", *tune}
    assert ran["scope"] >= 100  # the kernel counts what scope calls as part of it
    assert {pliant.outcomes(name).applied for name in tune} == {100}


def all_runs(pliant: Pliant) -> dict[str, int]:
    """How often each program of this Pliant has run."""
    found = {}
    for pin in pliant.places.pins.rglob("program_*"):
        with Program.pinned(pin) as program:
            found[pin.parent.name] = program.run_time().runs
    return found


# -- verdicts of accepted connections, which pass through a slot of the CPU

# On each CPU a process connects to its listeners in turn, all of one service, and says what each has accepted.
ACCEPT_IN_TURN = """
import json, os, socket, sys
from pliant.lab.sockets import SO_MAX_PACING_RATE, tcp_info
turns = int(sys.argv[1])
for cpu in sorted(os.sched_getaffinity(0)):
    if os.fork() == 0:
        os.sched_setaffinity(0, {cpu})
        listeners = []
        for port in sys.argv[2:]:
            listener = socket.socket()
            listener.bind((f"127.0.1.{cpu + 1}", int(port)))
            listener.listen()
            listeners.append(listener)
        seen = [set() for _ in listeners]
        for _ in range(turns):
            for listener, kinds in zip(listeners, seen):
                client = socket.create_connection(listener.getsockname())
                accepted, _ = listener.accept()
                limit = accepted.getsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE) & 0xFFFFFFFF
                tos = accepted.getsockopt(socket.SOL_IP, socket.IP_TOS)
                kinds.add((tcp_info(accepted)["snd_cwnd"], limit, tos >> 2))
                client.close()
                accepted.close()
        os.write(1, (json.dumps([sorted(kinds) for kinds in seen]) + chr(10)).encode())
        os._exit(0)
while True:
    try:
        os.wait()
    except ChildProcessError:
        break
"""


def test_accepted_connection_gets_nothing_of_the_verdict_before_it_on_the_same_cpu(
    pliant: Pliant, pair: Pair, make_policy: MakePolicy
) -> None:
    service, turns = pair.service(pair.server, "turns.service"), 500
    everything = {"initial_cwnd": 30, "pacing_rate": "800Mbit", "dscp": 9, "min_rto": "20ms"}
    pliant.apply(
        make_policy("all", service, everything, role="server", localPorts=[80]),
        make_policy("one", service, {"dscp": 5}, role="server", localPorts=[81]),
        make_policy("none", service, everything, role="server", localPorts=[82], holdout="100%"),
    )
    argv = [sys.executable, "-c", ACCEPT_IN_TURN, str(turns), "80", "83", "81", "82"]
    found = [json.loads(line) for line in pair.server.run(argv, service="turns.service").stdout.splitlines()]
    unlimited = NO_LIMIT & 0xFFFFFFFF
    whole, nothing = [[30, 100_000_000, 9]], [[DEFAULT_WINDOW, unlimited, 0]]
    assert found == [[whole, nothing, [[DEFAULT_WINDOW, unlimited, 5]], nothing]] * len(found)
    count = turns * len(found)
    assert len(found) == len(os.sched_getaffinity(0))
    assert pliant.outcomes("initial_cwnd").applied == count
    assert pliant.outcomes("dscp").applied == 2 * count
    assert pliant.judged()["held_out"] == count


# -- processes that move


MOVE_AND_CONNECT = """
import os, socket, sys
from pliant.lab.sockets import tcp_info
address, port, group = sys.argv[1], int(sys.argv[2]), sys.argv[3]
early = socket.socket()
if os.fork() == 0:
    with open(group + "/cgroup.procs", "w") as procs:
        procs.write(str(os.getpid()))
    early.connect((address, port))
    late = socket.create_connection((address, port))
    print(tcp_info(early)["snd_cwnd"], tcp_info(late)["snd_cwnd"])
    sys.stdout.flush()
    os._exit(0)
os.wait()
"""

MOVE_AND_ACCEPT = """
import os, socket, sys
from pliant.lab.sockets import tcp_info
listener = socket.create_server(("127.0.0.1", 0))
with open(sys.argv[1] + "/cgroup.procs", "w") as procs:
    procs.write(str(os.getpid()))
client = socket.create_connection(listener.getsockname())
accepted, _ = listener.accept()
print(tcp_info(accepted)["snd_cwnd"], tcp_info(client)["snd_cwnd"])
"""


def test_socket_belongs_to_the_service_it_was_made_in_wherever_its_process_goes(
    pliant: Pliant, pair: Pair, port: int, make_policy: MakePolicy
) -> None:
    old, new = (pair.service(pair.client, name) for name in ("old.service", "new.service"))
    pliant.apply(
        make_policy("a", old, {"initial_cwnd": 30}, role="client"),
        make_policy("b", new, {"initial_cwnd": 31}, role="client"),
    )
    argv = [sys.executable, "-c", MOVE_AND_CONNECT, pair.server.address, str(port)]
    argv.append(str(pair.client.service("new.service")))
    assert pair.client.run(argv, service="old.service").stdout.split() == ["30", "31"]


def test_accepted_connection_is_of_the_service_that_made_the_listener(
    pliant: Pliant, pair: Pair, make_policy: MakePolicy
) -> None:
    old, new = (pair.service(pair.client, name) for name in ("old.service", "new.service"))
    pliant.apply(make_policy("a", old, {"initial_cwnd": 30}), make_policy("b", new, {"initial_cwnd": 31}))
    argv = [sys.executable, "-c", MOVE_AND_ACCEPT, str(pair.client.service("new.service"))]
    assert pair.client.run(argv, service="old.service").stdout.split() == ["30", "31"]
