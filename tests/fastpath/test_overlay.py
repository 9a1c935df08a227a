# SPDX-License-Identifier: Apache-2.0
"""Pod to pod under Flannel, accelerated: what goes, what is the kernel's, and that neither is harmed."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from pliant.cli.explain_packets import explain_fields, read_fields
from pliant.fastpath.capture import Capture
from pliant.fastpath.counters import ACCELERATED
from pliant.fastpath.packet_explanation import Judge
from pliant.fastpath.topology import topology
from pliant.fastpath.trial import Trial
from pliant.kernel.nftables_rules import read_rules
from pliant.lab import Lab, PrivateMounts
from pliant.lab.flannel import BRIDGE, TUNNEL, Flannel, Pod, give_rules
from pliant.lab.frames import tcp_frame, udp_frame
from pliant.lab.packets import interface
from pliant.observe.fastpath import Mode, Port, own_programs, read_counts, running_build
from pliant.observe.network_reader import read_facts
from tests.conftest import Eventually
from tests.fastpath.cluster import NUMBERS, Cluster, Connection, cluster, mac, round_trip

BULK = 3_000_000
TCP_RST, TCP_ACK = 0x04, 0x10
TCP_CHECKSUM_AT = 50
LIBERAL = "net.netfilter.nf_conntrack_tcp_be_liberal"


@pytest.fixture(scope="module")
def network(mounts: PrivateMounts) -> Iterator[Flannel]:
    del mounts
    with Lab("overlay") as lab:
        made = Flannel(lab)
        for node in made.nodes:
            for name in (LIBERAL, "net.netfilter.nf_conntrack_tcp_ignore_invalid_rst"):
                node.host.sysctl(name, "1")
        yield made


@pytest.fixture
def pods(network: Flannel, mounts: PrivateMounts) -> Iterator[Cluster]:
    with cluster(network, mounts.bpffs, mounts.state) as made:
        for one in made.fast:
            one.start()
        yield made


def peer_of(pods: Cluster, place: str) -> Pod:
    return pods.other if place == "node" else pods.far


def accelerated(pods: Cluster, connection: Connection, eventually: Eventually) -> None:
    """Wait until what a connection sends is accelerated at every interface that it passes."""

    def goes() -> bool:
        before = total(pods, "FORWARDED")
        connection.exchange()
        return total(pods, "FORWARDED") >= before + 2

    eventually(goes)


def total(pods: Cluster, reason: str) -> int:
    """Packets counted for a reason, at all interfaces of both nodes."""
    return sum(
        fast.counted(name).get(reason, 0)
        for fast, node in zip(pods.fast, pods.network.nodes, strict=True)
        for name in [*(pod.interface for pod in node.pods), TUNNEL]
    )


@pytest.mark.parametrize("place", ["node", "wire"])
def test_tcp_arrives_whole_both_ways_in_large_segments(
    pods: Cluster, place: str, eventually: Eventually
) -> None:
    connection = pods.tcp(pods.near, peer_of(pods, place))
    accelerated(pods, connection, eventually)
    before = total(pods, "FORWARDED")
    connection.exchange(BULK)
    packets = total(pods, "FORWARDED") - before
    assert packets > BULK // 65536
    if place == "node":
        assert packets < BULK // 1400  # not one packet for each segment


@pytest.mark.parametrize("place", ["node", "wire"])
def test_udp_goes_once_both_ends_have_spoken(pods: Cluster, place: str, eventually: Eventually) -> None:
    one, two = pods.udp(pods.near), pods.udp(peer_of(pods, place))

    def goes() -> bool:
        before = total(pods, "FORWARDED")
        round_trip(one, two)
        return total(pods, "FORWARDED") >= before + (2 if place == "node" else 4)

    eventually(goes)
    before = total(pods, "FRAGMENT")
    round_trip(one, two, bytes(range(256)) * 16)
    assert total(pods, "FRAGMENT") > before


def test_a_connection_lives_as_long_in_conntrack_as_the_kernel_has_it(
    pods: Cluster, eventually: Eventually
) -> None:
    connection = pods.tcp(pods.near, pods.far)
    accelerated(pods, connection, eventually)
    name = "net.netfilter.nf_conntrack_tcp_timeout_established"
    usual = pods.node.host.sysctl(name)
    pods.node.host.sysctl(name, "5000")

    def lives() -> bool:
        connection.exchange()
        return 4990 <= remaining_s(pods, connection) <= 5000

    try:
        eventually(lives)
    finally:
        pods.node.host.sysctl(name, usual)


def remaining_s(pods: Cluster, connection: Connection) -> int:
    port = connection.client.getsockname()[1]
    table = Path(f"/proc/{pods.node.host.pid}/net/nf_conntrack").read_text().splitlines()
    return next(int(line.split()[4]) for line in table if f"sport={port} " in line)


def test_a_peer_that_is_gone_is_not_waited_for_longer_than_by_the_kernel(
    pods: Cluster, eventually: Eventually
) -> None:
    connection = pods.tcp(pods.near, pods.far)
    accelerated(pods, connection, eventually)
    most = int(pods.node.host.sysctl("net.netfilter.nf_conntrack_tcp_timeout_unacknowledged"))
    gone = "add table ip gone; add chain ip gone in { type filter hook input priority 0; policy drop; }"
    pods.far.host.run(["nft", gone])
    try:
        connection.client.send(b"is there anyone?")
        eventually(lambda: remaining_s(pods, connection) <= most)
    finally:
        pods.far.host.run(["nft", "delete table ip gone"])
    assert connection.server.recv(100) == b"is there anyone?"
    eventually(lambda: remaining_s(pods, connection) > most)


def test_what_follows_a_reset_is_the_kernels_for_a_while(pods: Cluster, eventually: Eventually) -> None:
    """Also where conntrack still has the connection as established: it may not have seen the packet yet."""
    connection = pods.tcp(pods.near, pods.far)
    accelerated(pods, connection, eventually)
    ends = connection.client.getsockname(), connection.server.getsockname()
    frame = bytearray(
        tcp_frame(
            interface(pods.node.host, BRIDGE).address,
            mac(pods.near),
            pods.near.address,
            pods.far.address,
            ports=(ends[0][1], ends[1][1]),
            flags=TCP_RST | TCP_ACK,
        )
    )
    frame[TCP_CHECKSUM_AT] ^= 1  # neither conntrack nor the peer takes it for one
    with pods.near.host.inside():
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)

    def is_left() -> bool:  # a machine that is busy may take longer than the kernel is given
        before = pods.fast[0].counted(pods.near.interface)["SIGNALLING"]
        raw.sendto(frame, ("eth0", 0))
        connection.exchange()
        return pods.fast[0].counted(pods.near.interface)["SIGNALLING"] >= before + 2

    with contextlib.closing(raw):
        eventually(is_left)
    accelerated(pods, connection, eventually)


def test_the_end_of_a_connection_is_the_kernels(pods: Cluster, eventually: Eventually) -> None:
    connection = pods.tcp(pods.near, pods.far)
    accelerated(pods, connection, eventually)
    port = connection.client.getsockname()[1]
    connection.client.close()
    assert connection.server.recv(1) == b""
    connection.server.close()
    pid = pods.node.host.pid

    def is_over() -> bool:
        table = Path(f"/proc/{pid}/net/nf_conntrack").read_text().splitlines()
        return any(f"sport={port} " in line and "TIME_WAIT" in line for line in table)

    eventually(is_over)


class Case(NamedTuple):
    """Something that makes packets the kernel's: what is done on the first node, undone, and counted."""

    says: str
    place: str
    done: tuple[str, ...]
    undone: tuple[str, ...]
    reason: str


CASES = [
    Case(
        "windows are followed", "wire",
        (f"sysctl -qw {LIBERAL}=0",), (f"sysctl -qw {LIBERAL}=1",), "STRICT",
    ),
    Case(
        "a queueing discipline of the pod", "node",
        ("tc qdisc add dev veth3 root pfifo",), ("tc qdisc del dev veth3 root",), "NO_PORT",
    ),
    Case(
        "a queueing discipline of the tunnel", "wire",
        (f"tc qdisc add dev {TUNNEL} root pfifo",), (f"tc qdisc del dev {TUNNEL} root",), "NO_PORT",
    ),
    Case(
        "the bridge listens to everything", "node",
        (f"ip link set {BRIDGE} promisc on",), (f"ip link set {BRIDGE} promisc off",), "NOT_BRIDGED",
    ),
    Case(
        "routes have a smaller MTU", "wire",
        (f"ip link set {TUNNEL} mtu 1000",), (f"ip link set {TUNNEL} mtu 1450",), "TOO_BIG",
    ),
    Case(
        "the way back is another one", "wire",
        ("sysctl -qw net.ipv4.conf.flannel/1.rp_filter=1", "ip route add 10.244.2.2 dev to-node2"),
        ("sysctl -qw net.ipv4.conf.flannel/1.rp_filter=0", "ip route del 10.244.2.2 dev to-node2"),
        "REVERSE_PATH",
    ),
    Case(
        "nothing is forwarded", "wire",
        ("sysctl -qw net.ipv4.ip_forward=0",), ("sysctl -qw net.ipv4.ip_forward=1",), "NO_ROUTE",
    ),
    Case(
        "both ports are isolated", "node",
        ("bridge link set dev veth2 isolated on", "bridge link set dev veth3 isolated on"),
        ("bridge link set dev veth2 isolated off", "bridge link set dev veth3 isolated off"), "PORT_CLOSED",
    ),
    Case(
        "a station is not known", "node",
        ("bridge link set dev veth3 learning off", "bridge fdb del {other} dev veth3 master"),
        ("bridge link set dev veth3 learning on",), "NO_STATION",
    ),
    Case(
        "connections are accounted for", "wire",
        (
            "sysctl -qw net.netfilter.nf_conntrack_acct=1",
        ),
        ("sysctl -qw net.netfilter.nf_conntrack_acct=0",), "UNTRACKED",
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[case.says for case in CASES])
def test_the_kernel_gets_what_is_not_understood(pods: Cluster, case: Case, eventually: Eventually) -> None:
    """A flow is accelerated, then something changes that the program itself has to notice."""
    connection = pods.tcp(pods.near, peer_of(pods, case.place))
    accelerated(pods, connection, eventually)
    run = commands(pods)
    try:
        run(case.done)
        if case.reason == "UNTRACKED":  # connections made from now on
            connection = pods.tcp(pods.near, peer_of(pods, case.place))
        before = total(pods, case.reason)

        def is_left() -> bool:
            for end in (connection.client, connection.server):
                with contextlib.suppress(BlockingIOError):  # nothing of it arrives
                    end.send(bytes(1200), socket.MSG_DONTWAIT)
            return total(pods, case.reason) > before

        eventually(is_left)
    finally:
        run(case.undone)
    connection = pods.tcp(pods.near, peer_of(pods, case.place))
    accelerated(pods, connection, eventually)


def commands(pods: Cluster) -> Callable[[tuple[str, ...]], None]:
    def run(lines: tuple[str, ...]) -> None:
        for line in lines:
            pods.node.host.run(line.format(other=mac(pods.other).hex(":")).split())

    return run


def test_the_last_hop_of_a_packet_is_the_kernels(pods: Cluster, eventually: Eventually) -> None:
    one, two = pods.udp(pods.near), pods.udp(pods.far)

    def goes() -> bool:
        before = total(pods, "FORWARDED")
        round_trip(one, two)
        return total(pods, "FORWARDED") >= before + 4

    eventually(goes)
    one.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 1)
    before = total(pods, "EXPIRING")

    def expires() -> bool:
        one.sendto(b"ping", two.getsockname())  # the one that confirms a neighbour is not counted so
        return total(pods, "EXPIRING") > before

    eventually(expires)


def test_it_can_be_asked_about_a_packet(pods: Cluster, eventually: Eventually) -> None:
    """Without a trace in what is counted, or in what becomes of others."""
    one, two = pods.udp(pods.near), pods.udp(pods.other)
    ports = (one.getsockname()[1], two.getsockname()[1])
    frame = udp_frame(
        mac(pods.other),
        mac(pods.near),
        pods.near.address,
        pods.other.address,
        ports=ports,
        checksum=True,
    )
    fast = pods.fast[0]
    port = Port(interface(fast.host, "veth2").number, Mode.TC)
    with fast.host.inside(), Trial(fast.pins, port, running_build(fast.pins, port) or "") as trial:
        before = fast.counted("veth2")
        first = trial.run(frame)
        assert first is not None
        assert (first.is_forwarded, first.reason) == (False, "untracked")
        assert fast.counted("veth2") == before

        def is_forwarded() -> bool:
            round_trip(one, two)
            said = trial.run(frame)
            return said is not None and said.is_forwarded and said.frame == frame

        eventually(is_forwarded)


def test_rules_that_change_end_it_at_once(pods: Cluster, eventually: Eventually) -> None:
    """Until user space has looked at them, even if they say nothing about pods."""
    connection = pods.tcp(pods.near, pods.other)
    accelerated(pods, connection, eventually)
    pods.node.host.run(["nft", "add", "table", "ip", "another"])
    try:
        before, changing = total(pods, "FORWARDED"), total(pods, "CHANGING")
        connection.exchange(1000, 5)
        assert total(pods, "FORWARDED") == before
        assert total(pods, "CHANGING") > changing
        pods.fast[0].start()
        accelerated(pods, connection, eventually)
    finally:
        pods.node.host.run(["nft", "delete", "table", "ip", "another"])


def test_what_is_translated_is_the_kernels(pods: Cluster, eventually: Eventually) -> None:
    """A service's address is not a pod's: the connection works, and nothing of it is accelerated."""
    rules = f"""
    table ip services {{
      chain pre {{
        type nat hook prerouting priority dstnat
        ip daddr 10.96.0.1 dnat to {pods.far.address}
      }}
    }}
    """
    pods.node.host.run(["nft", "-f", "-"], given=rules)
    try:
        pods.fast[0].start()
        accelerated(pods, pods.tcp(pods.near, pods.far), eventually)
        connection = pods.tcp(pods.near, pods.far, address="10.96.0.1")
        before = pods.fast[0].counted("veth2")["FORWARDED"]
        connection.exchange(1000, 20)
        assert pods.fast[0].counted("veth2")["FORWARDED"] == before
    finally:
        pods.node.host.run(["nft", "delete", "table", "ip", "services"])


def test_pods_come_and_go(pods: Cluster, eventually: Eventually) -> None:
    """A pod that comes under the address of one that has gone gets its packets, and none of them is lost on the way."""
    node, gone = pods.network.nodes[1], pods.far
    connection = pods.tcp(pods.near, gone)
    accelerated(pods, connection, eventually)
    pods.close()
    pods.network.remove_pod(node, gone)
    new = pods.network.add_pod(node)
    assert new.address == gone.address
    connection = pods.tcp(pods.near, new)
    connection.exchange(1000, 10)  # by the kernel at the new pod's end, for nothing runs there yet
    pods.fast[1].start()
    accelerated(pods, connection, eventually)
    connection.exchange(BULK)


def test_pods_whose_interfaces_have_moved_are_left_to_the_namespace_they_are_in(
    pods: Cluster, eventually: Eventually
) -> None:
    """A bridge of the same index, with the same rules as far as a generation tells, would do for all else."""
    node, fast = pods.node, pods.fast[0]
    moved = [pods.network.add_pod(node) for _ in range(2)]
    fast.start()
    ports = [Port(interface(node.host, pod.interface).number, Mode.TC) for pod in moved]

    def counted(reason: str) -> int:
        return sum(read_counts(fast.pins, port)[NUMBERS[reason]].packets for port in ports)

    connection = pods.tcp(moved[0], moved[1])

    def goes() -> bool:
        connection.exchange()
        return counted("FORWARDED") > 0

    eventually(goes)
    with Lab("elsewhere") as lab:
        host = lab.host("elsewhere")
        for setting in (LIBERAL, "net.netfilter.nf_conntrack_tcp_ignore_invalid_rst"):
            host.sysctl(setting, "1")
        give_rules(host, node.prefix, "nftables")
        while read_rules(host.netns_path).generation < read_rules(node.host.netns_path).generation:
            host.run(["nft", "-f", "-"], given="add table ip more\ndelete table ip more\n")
        host.ip(f"link add {BRIDGE} index {interface(node.host, BRIDGE).number} type bridge")
        host.sysctl("net.bridge.bridge-nf-call-iptables", "1")
        node.host.ip(*(f"link set {pod.interface} netns {host.pid}" for pod in moved))
        host.ip(f"link set {BRIDGE} up", *(f"link set {pod.interface} master {BRIDGE} up" for pod in moved))
        before = counted("FORWARDED")
        pods.tcp(moved[0], moved[1]).exchange(times=100)
        assert counted("FORWARDED") == before
        assert counted("MOVED_AWAY") > 0
        host.ip(*(f"link set {pod.interface} netns {node.host.pid}" for pod in moved))
    for pod in moved:
        pods.network.remove_pod(node, pod)


def test_explaining_and_capturing_say_what_is_done(pods: Cluster, eventually: Eventually) -> None:
    connection = pods.tcp(pods.near, pods.other)
    accelerated(pods, connection, eventually)
    ends = connection.client.getsockname(), connection.server.getsockname()
    pins, name = pods.fast[0].pins, pods.near.interface
    source, to = (interface(pod.host, "eth0").address.hex(":") for pod in (pods.near, pods.other))
    fields = f"in={name} src={ends[0][0]} sport={ends[0][1]} dst={ends[1][0]} dport={ends[1][1]}"
    fields += f" smac={source} dmac={to}"
    with pods.node.host.inside():
        found = topology(read_facts(), own=own_programs(pins))
        with Judge(pins, found, read_rules()) as judge:
            told = explain_fields(judge, read_fields(fields))
            assert (told.path, told.module, told.out) == ("fast", "overlay", pods.other.interface)
            told = explain_fields(judge, read_fields(f"{fields} flags=syn"))
            assert (told.path, told.reason) == ("kernel", "signalling")
        with Capture(pins, [name]) as capture:
            connection.exchange()
            seen = next(one for batch in capture.packets(10) for one in batch if one.verdict == ACCELERATED)
            assert seen.packet.interface == name
