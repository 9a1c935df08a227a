# SPDX-License-Identifier: Apache-2.0
"""The same packets from pod to pod, with the fast path and without: what arrives is the same, byte by byte."""

from __future__ import annotations

import random
import select
import shutil
import socket
import struct
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from pliant.lab import Lab, PrivateMounts
from pliant.lab.flannel import TUNNEL, Flannel, Pod
from pliant.lab.frames import internet_checksum, udp_frame
from pliant.lab.packets import interface
from tests.conftest import Eventually
from tests.fastpath.cluster import Cluster, cluster, mac, round_trip

PACKETS = 400
ETH_P_IP = 0x0800
QUIET_S, PATIENCE_S = 0.02, 10.0
LAST = b"the last of them"
SEED = 20_261_121


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "strict"])
def pods(mounts: PrivateMounts, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with Lab("same") as lab:
        is_strict = request.param and shutil.which("iptables-nft") is not None
        network = Flannel(lab, rules="iptables-nft" if is_strict else "nftables")
        for node in network.nodes:
            for name in ("be_liberal", "ignore_invalid_rst"):
                node.host.sysctl(f"net.netfilter.nf_conntrack_tcp_{name}", "1")
            if (
                is_strict
            ):  # what is not between pods is dropped, and so is what comes another way than it would go
                node.host.sysctl("net.ipv4.conf.all.rp_filter", "1")
                node.host.run(["iptables-nft", "-P", "FORWARD", "DROP"])
        with cluster(network, mounts.bpffs, mounts.state) as made:
            yield made


class Flow(NamedTuple):
    """UDP between two pods that conntrack knows, and raw sockets at both ends."""

    one: socket.socket
    two: socket.socket
    sender: socket.socket
    receiver: socket.socket
    frame: bytes


@pytest.mark.parametrize("place", ["node", "wire"])
def test_what_arrives_is_the_same(pods: Cluster, place: str, eventually: Eventually) -> None:
    flow = made_flow(pods, pods.other if place == "node" else pods.far, place)
    for fast in pods.fast:
        fast.start()

    def goes() -> bool:
        before = accelerated(pods)
        round_trip(flow.one, flow.two)
        return accelerated(pods) >= before + (2 if place == "node" else 4)

    eventually(goes)
    packets = list(random_packets(flow.frame, random.Random(SEED)))
    before = accelerated(pods)
    with_it = arrived(flow, packets)
    assert accelerated(pods) > before + PACKETS // 10
    for fast in pods.fast:
        fast.stop()
    without = arrived(flow, packets)
    assert len(without) > PACKETS // 10
    assert with_it == without


def accelerated(pods: Cluster) -> int:
    return sum(
        fast.counted(name).get("FORWARDED", 0)
        for fast, node in zip(pods.fast, pods.network.nodes, strict=True)
        for name in [*(pod.interface for pod in node.pods), TUNNEL]
    )


def made_flow(pods: Cluster, peer: Pod, place: str) -> Flow:
    one, two = pods.udp(pods.near), pods.udp(peer)
    to_mac = mac(peer) if place == "node" else interface(pods.node.host, "cni0").address
    frame = udp_frame(
        to_mac, mac(pods.near), pods.near.address, peer.address,
        ports=(one.getsockname()[1], two.getsockname()[1]), length=100,
    )  # fmt: skip
    return Flow(one, two, raw(pods, pods.near), raw(pods, peer), frame)


def raw(pods: Cluster, pod: Pod) -> socket.socket:
    with pod.host.inside():
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_IP))
        made.setsockopt(263, 23, 1)  # PACKET_IGNORE_OUTGOING
        made.bind(("eth0", ETH_P_IP))
    made.setblocking(False)
    pods.sockets.append(made)
    return made


def random_packets(frame: bytes, chance: random.Random) -> Iterator[bytes]:
    """Packets of the flow with something about them that a check is for, or nothing."""
    for number in range(PACKETS):
        packet = bytearray(frame[:42] + struct.pack("!I", number) + frame[46:])
        packet[22:24] = (chance.choice((64, 64, 2, 1, 0, 255)), 17)  # TTL
        kind = chance.randrange(12)
        if kind == 0:
            packet[15] = chance.randrange(256)  # DSCP and ECN
        elif kind == 1:
            struct.pack_into("!H", packet, 20, chance.choice((0x4000, 0x2000, 0x2001, 0x1FFF)))  # fragments
        elif kind == 2:
            struct.pack_into("!H", packet, 16, chance.choice((20, 27, 28, 60, 86, 87, 1000)))  # length
        elif kind == 3:
            packet[14] = chance.choice((0x44, 0x46, 0x4F, 0x55, 0x65))  # version, header length
        elif kind == 4:
            packet[26:30] = socket.inet_aton(
                chance.choice(("127.0.0.1", "224.0.0.1", "0.0.0.0", "10.244.1.1"))
            )
        elif kind == 5:
            packet = packet[: chance.randrange(14, len(packet))]
        elif kind == 6:
            packet += bytes(chance.randrange(1, 64))  # padding
        elif kind == 7:
            packet[12:14] = chance.choice((b"\x81\x00", b"\x08\x06", b"\x86\xdd"))
        checksum_right = kind != 8
        if len(packet) >= 34:
            packet[24:26] = b"\0\0"
            packet[24:26] = struct.pack(
                "!H", internet_checksum(packet[14:34]) ^ (0 if checksum_right else 0x101)
            )
        yield bytes(packet)


def arrived(flow: Flow, packets: list[bytes]) -> list[bytes]:
    """What comes out at the other end, sorted: order is not promised."""
    list(received(flow.receiver, 0))  # of what was before
    found: list[bytes] = []
    for packet in packets:
        flow.sender.send(packet)
        found += received(flow.receiver, 0)
    flow.one.sendto(LAST, flow.two.getsockname())
    deadline = time.monotonic() + PATIENCE_S
    while not any(LAST in packet for packet in found):
        assert time.monotonic() < deadline, "the last packet has not come"
        found += received(flow.receiver, QUIET_S)
    found += received(flow.receiver, QUIET_S)
    return sorted(packet for packet in found if LAST not in packet)


def received(sock: socket.socket, patience_s: float) -> Iterator[bytes]:
    """What has come, until nothing more comes for a while."""
    while select.select([sock], [], [], patience_s)[0]:
        yield sock.recv(1 << 16)
