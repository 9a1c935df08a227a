# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from pliant.features import features
from pliant.features.feature import Reach
from pliant.lab import Host as LabHost
from pliant.lab import Lab, PrivateMounts, SocketState, TcpClient, TcpServer
from tests.features.promises import setting

if TYPE_CHECKING:
    from tests.conftest import Eventually, MakePolicy, Pair, Pliant
    from tests.features.conftest import Captures, Ends, Packet

pytestmark = pytest.mark.root

DEFAULT = 10
LEAST_OFFERED = 44
NO_LIMIT = 2**64 - 1
NO_THRESHOLD = 2**31 - 1  # TCP_INFINITE_SSTHRESH
WEIGHT = 4096  # WINDOW_WEIGHT in window_histogram.h
BUCKETS = {
    80: 21,
    128: 24,
    320: 29,
    640: 33,
    1792: 39,
}  # which bucket of the histogram begins with a window of so many segments

RECEIVE_AND_CLOSE = """
import socket, sys
for _ in range(int(sys.argv[3])):
    with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as sock:
        left = int(sys.argv[4])
        while left:
            left -= len(sock.recv(left))
"""


class Knowledge:
    """What the one group there is knows, to be read and written."""

    def __init__(self, pliant: Pliant) -> None:
        self.pliant = pliant

    def read(self) -> dict[str, Any]:
        with self.pliant.map("shared_window", "groups") as held:
            [(_, value)] = held.items()
            assert held.value_codec
            found: dict[str, Any] = held.value_codec.unpack(value)
        return found

    def plant(self, window: int | None = None, *, age_s: float = 0, **fields: Any) -> None:
        """Overwrite fields, and have the group know a window as of so many seconds ago.

        Of the path it then knows nothing but what is given. Half of the window is given out while nobody has seen
        the limit of the path.
        """
        now = time.monotonic_ns()
        with self.pliant.map("shared_window", "groups") as held:
            [(key, value)] = held.items()
            assert held.value_codec
            known = held.value_codec.unpack(value)
            path = known["path"]
            if window is not None:
                at = now - int(age_s * 1e9)
                windows = [WEIGHT * (at_ == BUCKETS[window]) for at_ in range(len(known["known"]["windows"]))]
                known |= {"known": {"windows": windows, "faded_ns": at}, "taught_ns": at}
                path |= {"turned_ns": now, "epoch_ns": now, "capacity": [0, 0], "promised": 0}
            path |= {name: field for name, field in fields.items() if name in path}
            held.put(key, held.value_codec.pack(known | {n: f for n, f in fields.items() if n not in path}))


@pytest.fixture
def knowledge(pliant: Pliant) -> Knowledge:
    return Knowledge(pliant)


@pytest.fixture
def first(pliant: Pliant, ends: Ends, make_policy: MakePolicy) -> Any:
    """Apply a policy and open a first connection, so that there is a group; nothing is known then."""

    def begun(role: str = "server", family: str = "ipv4", **tune: Any) -> SocketState:
        pliant.apply(make_policy("a", tune={"shared_window": 500} | tune, **ends.match(role)))
        return ends.connect(family, {"ipv4": 80}.get(family, 81))[role]

    return begun


def test_new_connection_begins_with_what_is_known(
    pliant: Pliant, ends: Ends, first: Any, knowledge: Knowledge, role: str, family: str
) -> None:
    assert first(role, family).snd_cwnd == DEFAULT
    knowledge.plant(128)
    port = 80 if family == "ipv4" else 81
    found = ends.connect(family, port)
    assert found[role].snd_cwnd == 64
    other = "client" if role == "server" else "server"
    assert found[other].snd_cwnd == DEFAULT
    assert ends.connect(family, port + 2)[role].snd_cwnd == DEFAULT  # matched by no policy
    outcomes = pliant.outcomes("shared_window")
    assert (outcomes.applied, outcomes.refused, outcomes.unchanged) == (1, 0, 1)


def test_bulk_transfer_teaches_and_its_successor_begins_where_it_got(
    ends: Ends, first: Any, knowledge: Knowledge, role: str
) -> None:
    first(role)
    ends.client.send(3_000_000)
    ends.client.receive(3_000_000)
    learned = knowledge.read()
    assert any(learned["known"]["windows"])
    assert ends.connect("ipv4", 80)[role].snd_cwnd > DEFAULT


def test_connection_that_waits_for_its_application_teaches_nothing(
    ends: Ends, first: Any, knowledge: Knowledge
) -> None:
    first()
    for _ in range(50):
        ends.client.send(100)
        ends.client.receive(100)
    learned = knowledge.read()
    assert learned["path"]["least_rtt_us"][0] > 0, "no round trip was seen"
    assert (sum(learned["known"]["windows"]), learned["path"]["active"], learned["taught_ns"]) == (0, 0, 0)
    assert ends.connect("ipv4", 80)["server"].snd_cwnd == DEFAULT


def test_slow_start_teaches_upwards_only(ends: Ends, first: Any, knowledge: Knowledge) -> None:
    first(congestion_control="cubic")

    def is_taught() -> bool:  # a server that is slow to answer is not held back by its window
        ends.client.send(200_000)
        ends.client.receive(200_000)
        return bool(knowledge.read()["taught_ns"] > before["taught_ns"])

    for _ in range(20):
        knowledge.plant(128, age_s=11)
        ends.connect("ipv4", 80)
        knowledge.plant(1792)
        before = knowledge.read()
        ends.eventually(is_taught)
        after = knowledge.read()
        if ends.now("ipv4")["server"].snd_ssthresh == NO_THRESHOLD:
            break
    else:
        pytest.fail("delays or losses took every connection out of slow start")
    windows = zip(before["known"]["windows"], after["known"]["windows"], strict=True)
    assert all(later <= earlier for earlier, later in windows)


def test_without_news_it_is_forgotten(ends: Ends, first: Any, knowledge: Knowledge) -> None:
    first()
    knowledge.plant(128, age_s=9)
    assert ends.connect("ipv4", 80)["server"].snd_cwnd == 64
    knowledge.plant(128, age_s=11)
    assert ends.connect("ipv4", 80)["server"].snd_cwnd == DEFAULT


def test_no_window_is_above_the_cap(
    pliant: Pliant, ends: Ends, knowledge: Knowledge, make_policy: MakePolicy
) -> None:
    windows = {}
    for cap in (10, 50, 1000):
        pliant.apply(make_policy("a", tune={"shared_window": cap}, **ends.match("server")))
        ends.connect("ipv4", 80)
        knowledge.plant(128)
        windows[cap] = ends.connect("ipv4", 80)["server"].snd_cwnd
    assert windows == {10: 10, 50: 50, 1000: 64}


def test_path_is_shared_among_active_connections(
    ends: Ends, first: Any, knowledge: Knowledge, eventually: Eventually
) -> None:
    second = 1_000_000
    mss = first().snd_mss
    windows = {}
    for active in (0, 1, 3, 1000):
        ends.client.disconnect()
        eventually(lambda: not ends.server.connections())
        knowledge.plant(
            320,
            capacity=[240 * mss, 0],  # five have 48 segments each in a round trip of a second
            least_rtt_us=[second, 0],
            most_rtt_us=[10 * second, 0],
            active=active,
            active_before=active,
        )
        windows[active] = ends.connect("ipv4", 80)["server"].snd_cwnd
    assert windows == {0: 60, 1: 60, 3: 48, 1000: LEAST_OFFERED}


def test_initial_cwnd_holds_while_nothing_is_known(
    ends: Ends, first: Any, knowledge: Knowledge, role: str
) -> None:
    assert first(role, initial_cwnd=33).snd_cwnd == 33
    for window, begun in ((128, 64), (640, 320)):
        knowledge.plant(window)
        assert ends.connect("ipv4", 80)[role].snd_cwnd == begun
    knowledge.plant(128, age_s=11)
    assert ends.connect("ipv4", 80)[role].snd_cwnd == 33


def test_beside_every_other_feature_the_window_is_what_is_known(
    pliant: Pliant, pair: Pair, knowledge: Knowledge, make_policy: MakePolicy, eventually: Eventually
) -> None:
    service = pair.service(pair.server, "web.service")
    others = dict(enumerate(sorted(features().keys() - {"shared_window"}), 100))
    policies = [
        make_policy(
            f"with-{port}",
            service,
            {"shared_window": 500, other: setting(other)},
            apply_to="live" if features()[other].reach is Reach.LIVE_ONLY else "new",
            role="server",
            localPorts=[port],
        )
        for port, other in others.items()
    ]
    listen = [f"0.0.0.0:{port}" for port in (99, *others)]
    with (
        TcpServer(pair.server, listen, service="web.service") as server,
        TcpClient(pair.client) as client,
    ):
        pliant.apply(make_policy("first", service, {"shared_window": 500}, localPorts=[99]), *policies)
        client.connect(pair.server.address, 99)
        eventually(lambda: bool(server.connections()))
        knowledge.plant(128)
        for port in others:
            client.connect(pair.server.address, port)
        eventually(lambda: len(server.connections()) == 1 + len(others))
        windows = {others.get(state.local_port): state.snd_cwnd for state in server.connections()}
    assert windows == {None: DEFAULT} | dict.fromkeys(others.values(), 64)


def test_peers_of_one_prefix_share_and_others_do_not(
    pliant: Pliant, ends: Ends, knowledge: Knowledge, make_policy: MakePolicy
) -> None:
    sources = ("10.9.1.1", "10.9.1.2", "10.9.2.1")
    ends.pair.client.add_address(*(f"{source}/32" for source in sources))
    pliant.apply(make_policy("a", tune={"shared_window": 500}, **ends.match("server")))
    windows = {}
    for source in sources:
        ends.client.disconnect()
        [mine] = ends.client.connect(ends.pair.server.address, 80, source=source)
        windows[source] = ends.peer_of(mine).snd_cwnd
        if source == sources[0]:
            knowledge.plant(128)
    assert list(windows.values()) == [DEFAULT, 64, DEFAULT]


def test_a_thousand_connections_leave_none_active(
    pliant: Pliant,
    pair: Pair,
    ends: Ends,
    knowledge: Knowledge,
    make_policy: MakePolicy,
    eventually: Eventually,
) -> None:
    service = pair.service(pair.server, "web.service")
    pliant.apply(make_policy("a", service, {"shared_window": 20}, localPorts=[90]))
    with TcpServer(pair.server, ["0.0.0.0:90"], service="web.service", mode="send", send_bytes=100_000):
        argv = [sys.executable, "-c", RECEIVE_AND_CLOSE, pair.server.address, "90", "1200", "100000"]
        pair.client.run(argv)
        assert sum(knowledge.read()["known"]["windows"]) > 0
        argv[-2] = "1"

        def is_none_active() -> bool:
            pair.client.run(argv)
            known = knowledge.read()["path"]
            return int(known["active"]) + int(known["active_before"]) <= 1

        eventually(is_none_active)


# -- on a long path

PER_ROUND = 100 * 1448 * 5  # bytes a second: 100 segments in 200 ms


@pytest.fixture(scope="module")
def far(mounts: PrivateMounts) -> Iterator[tuple[LabHost, LabHost]]:
    """A server and a client with a round trip of 200 ms between them, where each packet counts."""
    with Lab("far") as lab:
        server, client = lab.host("server"), lab.host("client")
        lab.link(server, client, delay="100ms")
        yield server, client


Connection = Callable[[LabHost, LabHost, int], AbstractContextManager[tuple[TcpServer, TcpClient]]]


@pytest.fixture
def connection(eventually: Eventually) -> Connection:
    """A connection that has not carried anything yet, accepted."""

    @contextmanager
    def opened(server: LabHost, client: LabHost, port: int) -> Iterator[tuple[TcpServer, TcpClient]]:
        with (
            TcpServer(server, [f"0.0.0.0:{port}"], service="web.service") as listening,
            TcpClient(client) as connecting,
        ):
            connecting.connect(server.address, port)
            eventually(lambda: bool(listening.connections()))
            yield listening, connecting

    return opened


def test_first_window_is_paced_on_the_wire_beside_a_queue_and_without_any_limit(
    pliant: Pliant,
    pair: Pair,
    far: tuple[LabHost, LabHost],
    knowledge: Knowledge,
    make_policy: MakePolicy,
    connection: Connection,
    capture: Captures,
) -> None:
    server, client = far
    service = pair.service(server, "web.service")
    cubic = {"congestion_control": "cubic"}
    pliant.apply(make_policy("a", service, {"shared_window": 500} | cubic, localPorts=[80]))
    with connection(server, client, 80):
        pass
    spread_s = {}
    for least_rtt_us in (100_000, 200_000):
        knowledge.plant(
            320, capacity=[PER_ROUND, 0], least_rtt_us=[least_rtt_us, 0], most_rtt_us=[220_000, 0]
        )
        listening = TcpServer(server, ["0.0.0.0:80"], service="web.service", mode="send", send_bytes=150_000)
        with listening, TcpClient(client) as receiver, capture(client) as arrived:
            receiver.connect(server.address, 80)
            receiver.receive(150_000)
            [state] = listening.connections()
            spread_s[least_rtt_us] = first_window_s(arrived.packets(), state.snd_mss)
        assert state.max_pacing_rate == NO_LIMIT
    assert spread_s[100_000] > 0.05  # 30 of 44 segments in half a round trip of 200 ms; ten go at once
    assert spread_s[200_000] < spread_s[100_000] / 2


def first_window_s(packets: list[Packet], mss: int) -> float:
    """The seconds between the first and the 40th segment."""
    data = [packet for packet in packets if packet.payload]
    size = 0
    for packet in data:
        size += packet.payload
        if size >= 40 * mss:
            return packet.at - data[0].at
    raise AssertionError(f"only {size} bytes came")


BEGINNINGS = (  # smallest and longest round trip of late, and the first window
    (200_000, 500_000, 100),  # the queue is empty, and has room for 600
    (200_000, 225_000, 49),  # for 50, less what the handshake took beyond 200 ms
    (200_000, 220_000, 100),  # for no more than 40: paced
    (150_000, 500_000, 50),  # the handshake has seen a queue: two thirds of the share, in half of the room
    (150_000, 220_000, 50),  # of which there is not enough: paced
    (100_000, 500_000, LEAST_OFFERED),  # the share is no more than 33
)


def test_burst_is_no_more_than_the_queue_has_room_for(
    pliant: Pliant,
    pair: Pair,
    far: tuple[LabHost, LabHost],
    knowledge: Knowledge,
    make_policy: MakePolicy,
    connection: Connection,
    eventually: Eventually,
) -> None:
    server, client = far
    pliant.apply(make_policy("a", pair.service(server, "web.service"), {"shared_window": 500}))
    with connection(server, client, 84) as (listening, connecting):
        for least_rtt_us, most_rtt_us, window in BEGINNINGS:
            connecting.disconnect()
            eventually(lambda: not listening.connections())
            knowledge.plant(
                320,
                capacity=[4 * PER_ROUND, 0],
                least_rtt_us=[least_rtt_us, 0],
                most_rtt_us=[most_rtt_us, 0],
                active=0,
                active_before=0,
                promised=0,
            )
            connecting.connect(server.address, 84)
            eventually(lambda: bool(listening.connections()))
            [state] = listening.connections()
            assert 0.8 * window <= state.snd_cwnd <= window


def test_connections_that_begin_at_once_do_not_all_burst(
    pliant: Pliant,
    pair: Pair,
    far: tuple[LabHost, LabHost],
    knowledge: Knowledge,
    make_policy: MakePolicy,
    eventually: Eventually,
) -> None:
    server, client = far
    pliant.apply(make_policy("a", pair.service(server, "web.service"), {"shared_window": 500}))
    with (
        TcpServer(server, ["0.0.0.0:88"], service="web.service") as listening,
        TcpClient(client) as one,
        TcpClient(client) as other,
    ):
        one.connect(server.address, 88)
        eventually(lambda: bool(listening.connections()))
        one.disconnect()
        eventually(lambda: not listening.connections())
        knowledge.plant(
            320,
            capacity=[4 * PER_ROUND, 0],
            least_rtt_us=[200_000, 0],
            most_rtt_us=[250_000, 0],
            active=0,
            active_before=0,
        )
        with ThreadPoolExecutor() as both:
            list(both.map(lambda connecting: connecting.connect(server.address, 88), (one, other)))
        eventually(lambda: len(listening.connections()) == 2)
        burst, paced = sorted(state.snd_cwnd for state in listening.connections())
        assert burst < 100 == paced  # the queue had room for 100, less what the handshake took beyond 200 ms


Transfer = Callable[[str, int, int], AbstractContextManager[tuple[LabHost, LabHost, int]]]


@pytest.fixture
def transfer(
    pliant: Pliant,
    pair: Pair,
    mounts: PrivateMounts,
    knowledge: Knowledge,
    make_policy: MakePolicy,
    connection: Connection,
) -> Transfer:
    """One of so many bytes, past a queue, where a window is known: the server, the client, segments sent again."""

    @contextmanager
    def made(queue: str, window: int, size: int) -> Iterator[tuple[LabHost, LabHost, int]]:
        with Lab("narrow") as lab:
            server, client = lab.host("server"), lab.host("client")
            lab.link(server, client, rate="5Mbit", delay="20ms", queue=queue)
            tune = {"shared_window": 500, "congestion_control": "cubic"}
            pliant.apply(make_policy("a", pair.service(server, "web.service"), tune))
            with connection(server, client, 80):
                knowledge.plant(window)
            sender = TcpServer(server, ["0.0.0.0:81"], service="web.service", mode="send", send_bytes=size)
            with sender, TcpClient(client) as receiver:
                receiver.connect(server.address, 81)
                receiver.receive(size)
                [state] = sender.connections()
            yield server, client, state.total_retrans

    return made


def test_early_loss_halves_the_window_of_the_group(
    transfer: Transfer, knowledge: Knowledge, connection: Connection
) -> None:
    with transfer("10 packets", 128, 150_000) as (server, client, again):
        assert again > 0
        known = knowledge.read()
        assert (known["losses"], known["allowed"]) == (1, 32)
        knowledge.plant(128)
        with connection(server, client, 82) as (listening, _):
            assert [state.snd_cwnd for state in listening.connections()] == [32]
        knowledge.plant(128, allowed=0)
        with connection(server, client, 83) as (listening, _):
            assert [state.snd_cwnd for state in listening.connections()] == [64]


def test_what_slow_start_loses_later_is_not_held_against_the_first_window(
    transfer: Transfer, knowledge: Knowledge
) -> None:
    with transfer("70 packets", 80, 1_000_000) as (_, _, again):
        assert again > LEAST_OFFERED / 4
        known = knowledge.read()
        assert (known["losses"], known["allowed"]) == (0, 0)


def test_windows_that_do_well_let_the_group_recover(ends: Ends, first: Any, knowledge: Knowledge) -> None:
    first()
    knowledge.plant(128, allowed=20)
    assert ends.connect("ipv4", 80)["server"].snd_cwnd == 20
    ends.client.send(1_000_000)
    ends.client.receive(1_000_000)
    assert knowledge.read()["allowed"] == 31
