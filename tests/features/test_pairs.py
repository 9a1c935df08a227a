# SPDX-License-Identifier: Apache-2.0
"""Every two features on one connection: it has what both promise, but for the conflicts listed, which are some.

One change brings policies for all pairs, each for a port of its own; then there is one connection for each.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import pytest

from pliant.agent.places import Places
from pliant.features import features
from pliant.features.feature import Reach
from pliant.lab import PrivateMounts, SocketState, TcpClient, TcpServer
from pliant.policy.model import Policy
from tests.conftest import Pliant, policy
from tests.features.conftest import Capture, Packet, capturing, deaf
from tests.features.promises import (
    CONFLICTS,
    FLOW_REHASH,
    PROMISES,
    ROLES,
    SYN_TIMEOUT,
    UNDER_LOSS,
    Conflict,
    Seen,
    setting,
)
from tests.features.test_live import ROWS, options

if TYPE_CHECKING:
    from tests.conftest import Eventually, Pair

pytestmark = pytest.mark.root

PAIRS = [frozenset(pair) for pair in combinations(features(), 2)]
LIVE = [name for name, feature in features().items() if feature.reach is Reach.LIVE]
SHARED = {name for name, feature in features().items() if feature.reach is Reach.LIVE_ONLY}
FIRST_PORT = {"both": 20_000, "client": 21_000, "server": 22_000, "open": 23_000, "conflict": 24_000}
UNTOUCHED = 19_999
SO_TXREHASH = 74  # asm-generic/socket.h; Python does not name it
SENT_BYTES = 100_000

CONNECT_AND_STAY = """
import socket, sys
held = []
for port in map(int, sys.argv[2:]):
    sock = socket.socket(socket.AF_INET6)
    sock.setblocking(False)
    sock.connect_ex((sys.argv[1], port))
    held.append(sock)
print("connecting", flush=True)
sys.stdin.read()
"""


def name(pair: frozenset[str]) -> str:
    return "+".join(sorted(pair))


def port(pair: frozenset[str], ends: str = "both") -> int:
    return FIRST_PORT[ends] + PAIRS.index(pair)


def lossy(feature: str) -> list[frozenset[str]]:
    return [pair for pair in PAIRS if feature in pair]


@dataclass(frozen=True)
class Ground:
    """A server that listens for every pair, a client, and a Pliant of their own."""

    pair: Pair
    server: TcpServer
    client: TcpClient
    pliant: Pliant

    def policy(self, number: int, role: str, tune: Mapping[str, Any], apply_to: str = "new") -> Policy:
        """A policy for one end of the connections to one of the server's ports."""
        is_server = role == "server"
        host, name = (self.pair.server, "web.service") if is_server else (self.pair.client, "app.service")
        match: dict[str, Any] = {"role": role, "localPorts" if is_server else "remotePorts": [number]}
        return policy(f"{role}-{number}", self.pair.service(host, name), tune, apply_to=apply_to, **match)

    def policies(self) -> Iterator[Policy]:
        """For all pairs, for the ends that the ports stand for, and for the conflicts."""
        for pair in PAIRS:
            tune = {feature: setting(feature) for feature in pair}
            apply_to = "live" if pair & SHARED else "new"
            for role in ROLES:
                yield self.policy(port(pair), role, tune, apply_to)
                if pair & UNDER_LOSS.keys():
                    yield self.policy(port(pair, role), role, tune, apply_to)
        for conflict in CONFLICTS:
            for role in ROLES:
                yield self.policy(port(conflict.pair, "conflict"), role, conflict.settings)

    def connect(self, ports: Iterable[int]) -> None:
        self.client.disconnect()
        for number in ports:
            self.client.ask(
                "connect",
                address=self.pair.server.address6,
                port=number,
                count=1,
                source=None,
                timeout_s=10,
            )

    def states(self) -> dict[int, dict[str, SocketState]]:
        """Both ends of every open connection, by the server's port."""
        accepted = {(state.remote_port, state.local_port): state for state in self.server.connections()}
        return {
            state.remote_port: {"client": state, "server": accepted[state.local_port, state.remote_port]}
            for state in self.client.connections()
        }


@pytest.fixture(scope="module")
def ground(pair: Pair, mounts: PrivateMounts) -> Iterator[Ground]:
    ports = [UNTOUCHED, *(port(chosen, ends) for ends in FIRST_PORT for chosen in PAIRS)]
    pliant = Pliant(Places(mounts.state / "pairs", mounts.bpffs / "pairs"))
    with (
        TcpServer(pair.server, [f"[::]:{number}" for number in ports], service="web.service") as server,
        TcpClient(pair.client, service="app.service") as client,
    ):
        ground = Ground(pair, server, client, pliant)
        pliant.apply(*ground.policies())
        yield ground
        pliant.rollback(0)


def by_port(packets: Iterable[Packet], read: Callable[[Packet], int]) -> Mapping[int, list[Packet]]:
    found = defaultdict(list)
    for packet in packets:
        found[read(packet)].append(packet)
    return found


@pytest.fixture(scope="module")
def seen(ground: Ground) -> dict[int, Seen]:
    """A connection for every pair, and one without a policy, by the server's port."""
    with capturing(ground.pair.server) as at_server, capturing(ground.pair.client) as at_client:
        conflicts = (port(conflict.pair, "conflict") for conflict in CONFLICTS)
        ground.connect([UNTOUCHED, *map(port, PAIRS), *conflicts])
        before = ground.states()
        ground.client.send(SENT_BYTES)
        ground.client.receive(SENT_BYTES)
        after = ground.states()
        by_client = by_port(at_server.packets(), lambda packet: packet.port)
        by_server = by_port(at_client.packets(), lambda packet: packet.source_port)
    return {
        number: Seen(states, after[number], {"client": by_client[number], "server": by_server[number]})
        for number, states in before.items()
    }


def broken(seen: Seen, promised: Mapping[str, object]) -> dict[str, object]:
    """What a connection has instead of what features promise."""
    found = {}
    for feature, kept in promised.items():
        for role in PROMISES[feature].roles:
            what = PROMISES[feature].read(seen, role)
            if what != kept:
                found[f"{feature} of the {role}"] = what
    return found


@pytest.mark.parametrize("chosen", PAIRS, ids=name)
def test_connection_has_what_both_features_promise(seen: dict[int, Seen], chosen: frozenset[str]) -> None:
    assert not broken(seen[port(chosen)], {f: PROMISES[f].kept for f in chosen & PROMISES.keys()})


@pytest.mark.parametrize("conflict", [c for c in CONFLICTS if c.promised], ids=lambda c: name(c.pair))
def test_what_conflicts_does_so_and_the_winner_keeps_what_it_promises(
    seen: dict[int, Seen], conflict: Conflict
) -> None:
    found = seen[port(conflict.pair, "conflict")]
    assert not broken(found, {conflict.winner: conflict.promised[conflict.winner]})
    assert broken(found, {conflict.loser: conflict.promised[conflict.loser]})


@pytest.mark.parametrize("feature", PROMISES)
def test_connection_without_a_policy_has_nothing_that_is_promised(
    seen: dict[int, Seen], feature: str
) -> None:
    promise = PROMISES[feature]
    for role in promise.roles:
        assert promise.read(seen[UNTOUCHED], role) != promise.kept


@pytest.mark.parametrize("conflict", CONFLICTS, ids=lambda c: name(c.pair))
def test_conflict_is_one_of_features_there_are_that_each_has_a_setting(conflict: Conflict) -> None:
    assert conflict.pair in PAIRS
    assert conflict.pair == conflict.settings.keys()
    assert conflict.reason.endswith(".")


@pytest.mark.parametrize("feature", features())
def test_kernel_takes_every_feature_beside_every_other(
    ground: Ground, seen: dict[int, Seen], feature: str
) -> None:
    outcomes = ground.pliant.outcomes(feature)
    assert outcomes.refused == 0


@pytest.fixture(scope="module")
def quiet(pair: Pair) -> Iterator[None]:
    """Only timeouts have anything sent again."""
    before = pair.client.sysctl("net.ipv4.tcp_early_retrans")
    for host in (pair.client, pair.server):
        host.sysctl("net.ipv4.tcp_early_retrans", "0")
    yield
    for host in (pair.client, pair.server):
        host.sysctl("net.ipv4.tcp_early_retrans", before)


def until(
    ports: Iterable[int],
    count: int,
    arrived: Capture,
    role: str,
    keep: Callable[[Packet], bool],
    eventually: Eventually,
) -> Mapping[int, list[Packet]]:
    """The packets of one role, as soon as there are so many for each of the server's ports."""
    found: dict[int, list[Packet]] = {number: [] for number in ports}

    def is_enough() -> bool:
        for packet in arrived.packets():
            number = packet.port if role == "client" else packet.source_port
            if number in found and keep(packet):
                found[number].append(packet)
        return all(len(packets) >= count for packets in found.values())

    eventually(is_enough)
    return found


@pytest.mark.parametrize("role", ROLES)
def test_unanswered_handshakes_are_repeated_after_their_time_beside_every_other_feature(
    ground: Ground, eventually: Eventually, role: str
) -> None:
    chosen = {port(pair, role): pair for pair in lossy(SYN_TIMEOUT)}
    deaf_one = ground.pair.server if role == "client" else ground.pair.client
    with capturing(deaf_one) as arrived, deaf(deaf_one):
        argv = [sys.executable, "-c", CONNECT_AND_STAY, ground.pair.server.address6, *map(str, chosen)]
        process = ground.pair.client.spawn(argv, service="app.service", stdin=subprocess.PIPE)
        found = until(chosen, 2, arrived, role, lambda packet: packet.is_syn, eventually)
        process.stop()
    late = {
        name(chosen[number]): packets[1].at - packets[0].at
        for number, packets in found.items()
        if not 0.099 <= packets[1].at - packets[0].at < 0.9
    }
    assert not late


def test_a_syn_waits_no_longer_than_max_rto_however_long_its_own_timeout(
    ground: Ground, eventually: Eventually
) -> None:
    [conflict] = [each for each in CONFLICTS if each.loser == SYN_TIMEOUT]
    number = port(conflict.pair, "conflict")
    with capturing(ground.pair.server) as arrived, deaf(ground.pair.server):
        argv = [sys.executable, "-c", CONNECT_AND_STAY, ground.pair.server.address6, str(number)]
        process = ground.pair.client.spawn(argv, service="app.service", stdin=subprocess.PIPE)
        first, second = until([number], 2, arrived, "client", lambda packet: packet.is_syn, eventually)[
            number
        ]
        process.stop()
    assert 0.99 <= second.at - first.at < 2.9


@pytest.mark.parametrize("role", ROLES)
def test_path_changes_from_its_timeout_on_beside_every_other_feature(
    ground: Ground, quiet: None, eventually: Eventually, role: str
) -> None:
    chosen = {port(pair, role): pair for pair in lossy(FLOW_REHASH)}
    deaf_one = ground.pair.server if role == "client" else ground.pair.client
    ground.connect(chosen)
    (ground.server if role == "client" else ground.client).set_option(socket.SOL_SOCKET, SO_TXREHASH, 0)
    with capturing(deaf_one) as arrived, deaf(deaf_one):
        ground.client.send(100)  # which the server sends back, if it hears it
        found = until(chosen, 4, arrived, role, lambda packet: packet.payload > 0, eventually)
    wrong = {}
    for number, packets in found.items():
        first, second, third, fourth = (packet.flow_label for packet in packets[:4])
        if not (first == second and len({second, third, fourth}) == 3):
            wrong[name(chosen[number])] = (first, second, third, fourth)
    assert not wrong


def test_open_connections_get_both_live_features_and_then_back_what_they_had(ground: Ground) -> None:
    chosen = {port(pair, "open"): pair for pair in PAIRS if pair <= set(LIVE)}
    ground.connect(chosen)
    for feature in LIVE:
        for option in options(ROWS[feature], "ipv6"):
            ground.client.set_option(*option)
            ground.server.set_option(*option)
    own = {feature: ROWS[feature].is_own for feature in LIVE}
    assert not wrongly_tuned(ground, dict.fromkeys(chosen, own))

    policies = [
        ground.policy(number, role, {feature: ROWS[feature].setting for feature in pair}, "live")
        for number, pair in chosen.items()
        for role in ROLES
    ]
    ground.pliant.apply(*policies)
    tuned = {
        number: own | {feature: ROWS[feature].tuned for feature in pair} for number, pair in chosen.items()
    }
    assert not wrongly_tuned(ground, tuned)

    ground.pliant.delete(*(each.name for each in policies))
    assert not wrongly_tuned(ground, dict.fromkeys(chosen, own))


def wrongly_tuned(ground: Ground, wanted: Mapping[int, Mapping[str, object]]) -> list[tuple[object, ...]]:
    return [
        (number, role, feature, found)
        for number, states in ground.states().items()
        for role, state in states.items()
        for feature, value in wanted[number].items()
        if (found := ROWS[feature].read(state)) != value
    ]
