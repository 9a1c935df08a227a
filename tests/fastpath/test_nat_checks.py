# SPDX-License-Identifier: Apache-2.0
"""What of a masqueraded connection is left to the kernel, and why; and how soon the fast path sees what has changed."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from pliant.kernel.conntrack import Status, forget_connections
from pliant.lab.frames import tcp_frame, udp_frame
from pliant.lab.interface import switch_aggregation, switch_checksums
from pliant.lab.packets import interface
from tests.fastpath.fastpath_row import Fastpath
from tests.fastpath.gateway import AGED_S, Datagrams, Gateway, Stream, gateway, until

UDP, TCP = socket.IPPROTO_UDP, socket.IPPROTO_TCP
PORT = 5000
MANY = 100
SIZE = 300_000
PUSH, ACK, URGENT, FIN, SYN, RST = 8, 16, 32, 1, 2, 4


@pytest.fixture
def masquerade(fastpath: Fastpath) -> Iterator[Gateway]:
    rule = f"type nat hook postrouting priority srcnat; oifname {fastpath.row.right} masquerade;"
    with gateway(fastpath, f"table ip t {{ chain c {{ {rule} }}; }}") as made:
        made.accelerate()
        yield made


def server(there: Gateway) -> str:
    return there.row.receiver.links[0].address_of(there.row.receiver)


@pytest.fixture
def datagrams(masquerade: Gateway) -> Iterator[Datagrams]:
    with closing(Datagrams(masquerade.row.sender, masquerade.row.receiver, socket.AF_INET, PORT)) as ends:
        ends.assure(masquerade, server(masquerade), PORT)
        yield ends


@pytest.fixture
def stream(masquerade: Gateway) -> Iterator[Stream]:
    with closing(Stream(masquerade.row.sender, masquerade.row.receiver, (server(masquerade), PORT))) as made:
        yield made


class Wire:
    """Frames to the router from where the sender is."""

    def __init__(self, there: Gateway) -> None:
        row = there.row
        self._name = row.sender.links[0].interface_of(row.sender)
        with row.sender.inside():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            self._socket.bind((self._name, 0))
        self.macs = (interface(row.router, row.left).address, interface(row.sender, self._name).address)

    def send(self, frame: bytes) -> None:
        self._socket.send(frame)

    def close(self) -> None:
        self._socket.close()


def test_checksums_that_are_not_filled_in_are_left_to_the_kernel(
    masquerade: Gateway, datagrams: Datagrams, stream: Stream
) -> None:
    row = masquerade.row
    for host in (row.sender, row.receiver):
        with host.inside():
            switch_checksums(host.links[0].interface_of(host), on=True)
    try:
        stream.carry(bytes(SIZE))
        stream.carry(bytes(SIZE), back=True)
        for size in range(MANY):
            datagrams.exchange(server(masquerade), PORT, size)
        counted = masquerade.counted()
        assert counted["UNFINISHED"] > 1.5 * MANY, str(counted)
        assert counted["FORWARDED"] < 10, str(counted)
        assert not counted["BAD_CHECKSUM"], str(counted)
    finally:
        for host in (row.sender, row.receiver):
            with host.inside():
                switch_checksums(host.links[0].interface_of(host), on=False)
    stream.carry(bytes(SIZE))
    datagrams.exchange(server(masquerade), PORT)
    assert masquerade.counted()["FORWARDED"] > SIZE / 1460


def test_a_connection_that_is_forgotten_is_the_kernels_within_a_tenth_of_a_second(
    masquerade: Gateway, datagrams: Datagrams
) -> None:
    before = masquerade.counted()["FORWARDED"]
    for _ in range(MANY):
        datagrams.exchange(server(masquerade), PORT)
    assert masquerade.counted()["FORWARDED"] > before + MANY
    forget_connections(masquerade.row.router.netns_path)
    time.sleep(AGED_S)
    before = masquerade.counted()["FORWARDED"]
    for _ in range(MANY):
        datagrams.exchange(server(masquerade), PORT)
    assert masquerade.counted()["FORWARDED"] == before
    assert masquerade.connection(UDP)


def test_windows_that_are_checked_leave_tcp_to_the_kernel(masquerade: Gateway, stream: Stream) -> None:
    for name in ("nf_conntrack_tcp_be_liberal", "nf_conntrack_tcp_ignore_invalid_rst"):
        masquerade.setting(name, "0")
        time.sleep(AGED_S)
        before = masquerade.counted()
        stream.carry(bytes(SIZE))
        after = masquerade.counted()
        assert after["FORWARDED"] == before["FORWARDED"]
        assert after["STRICT"] - before["STRICT"] > SIZE / 1460
        masquerade.setting(name, "1")
    time.sleep(AGED_S)
    stream.carry(bytes(SIZE))
    assert masquerade.counted()["FORWARDED"] > after["FORWARDED"]


def test_what_conntrack_would_not_take_for_the_connections_is_left_to_the_kernel(
    masquerade: Gateway, datagrams: Datagrams, stream: Stream
) -> None:
    to, client = server(masquerade), masquerade.row.sender.links[0].address_of(masquerade.row.sender)
    ports, tcp_ports = (datagrams.client.getsockname()[1], PORT), (stream.client.getsockname()[1], PORT)
    with closing(Wire(masquerade)) as wire:

        def reason(frame: bytes) -> str:
            before = masquerade.counted(masquerade.row.left)
            wire.send(frame)
            until(lambda: masquerade.counted(masquerade.row.left) != before)
            after = masquerade.counted(masquerade.row.left)
            [found] = [name for name, packets in after.items() if packets != before[name]]
            return reason(frame) if found == "CONFIRMING" else found  # one a second is to confirm a neighbour

        def udp(at: int = 0, value: bytes = b"", *, checksum: bool = True) -> bytes:
            frame = udp_frame(*wire.macs, client, to, ports=ports, length=80, checksum=checksum)
            return frame[:at] + value + frame[at + len(value) :]

        def tcp(flags: int, at: int = 0, value: bytes = b"") -> bytes:
            frame = tcp_frame(*wire.macs, client, to, ports=tcp_ports, flags=flags)
            return frame[:at] + value + frame[at + len(value) :]

        stream.carry(b"data")
        stream.carry(b"data", back=True)
        assert reason(udp()) == "FORWARDED"
        assert reason(udp(checksum=False)) == "FORWARDED"
        assert reason(udp(at=79, value=b"\1")) == "BAD_CHECKSUM"
        assert reason(udp(at=38, value=struct.pack("!H", 7))) == "MALFORMED"  # shorter than its header
        assert reason(udp(at=38, value=struct.pack("!H", 200))) == "MALFORMED"  # longer than the packet
        assert reason(tcp(ACK | PUSH | URGENT)) == "FORWARDED"
        assert reason(tcp(ACK, at=46, value=b"\xf0")) == "MALFORMED"  # its options are longer than it is
        for flags in (0, PUSH, SYN, SYN | ACK, SYN | FIN | ACK):
            assert reason(tcp(flags)) == "SIGNALLING"
        assert reason(tcp(ACK, at=50, value=b"\1\1")) == "BAD_CHECKSUM"
        masquerade.setting("nf_conntrack_checksum", "0")
        try:
            assert reason(udp(at=79, value=b"\1")) == "FORWARDED"
        finally:
            masquerade.setting("nf_conntrack_checksum", "1")
    stream.carry(b"more")


def test_accounting_leaves_new_connections_to_the_kernel(masquerade: Gateway) -> None:
    masquerade.setting("nf_conntrack_acct", "1")
    try:
        made = Stream(masquerade.row.sender, masquerade.row.receiver, (server(masquerade), PORT))
        with closing(made) as stream:
            stream.carry(bytes(SIZE))
            counted = masquerade.counted()
            assert not counted["FORWARDED"], str(counted)
            assert counted["UNTRACKED"] > SIZE / 1460, str(counted)
    finally:
        masquerade.setting("nf_conntrack_acct", "0")


def test_a_peer_that_is_gone_is_not_waited_for_longer_than_by_the_kernel(
    masquerade: Gateway, stream: Stream
) -> None:
    row = masquerade.row
    most = masquerade.setting("nf_conntrack_tcp_timeout_unacknowledged")
    stream.carry(bytes(SIZE))
    row.receiver.run(
        ["nft", "add table ip gone; add chain ip gone in { type filter hook input priority 0; policy drop; }"]
    )
    try:
        stream.client.send(b"is there anyone?")
        until(lambda: masquerade.connection(TCP).timeout_s <= most)
    finally:
        row.receiver.run(["nft", "delete table ip gone"])
    assert stream.server.recv(100) == b"is there anyone?"
    until(lambda: masquerade.connection(TCP).timeout_s > most)


def test_datagrams_keep_their_connection_alive(masquerade: Gateway, datagrams: Datagrams) -> None:
    name = "nf_conntrack_udp_timeout_stream"
    usual = masquerade.setting(name)
    masquerade.setting(name, "1")
    before = masquerade.counted()
    try:
        end = time.monotonic() + 1.6
        while time.monotonic() < end:
            datagrams.exchange(server(masquerade), PORT)
        assert masquerade.connection(UDP).status & Status.ASSURED  # a new one would not be, yet
    finally:
        masquerade.setting(name, str(usual))
    counted = masquerade.counted()
    assert counted["UNTRACKED"] == before["UNTRACKED"]
    assert counted["FORWARDED"] > before["FORWARDED"] + MANY


def test_what_leaves_where_it_came_in_is_the_kernels(fastpath: Fastpath) -> None:
    row = fastpath.row
    inside = row.sender.links[0].address_of(row.router)
    behind = inside.removesuffix("2") + "50"
    chosen = f"ip daddr {inside} udp dport 7000 dnat to {behind}:{PORT}"
    rules = (
        f"chain in {{ type nat hook prerouting priority dstnat; {chosen}; }}; "
        f"chain out {{ type nat hook postrouting priority srcnat; oifname {row.left} masquerade; }}"
    )
    row.sender.ip(f"address add {behind}/24 dev {row.sender.links[0].interface_of(row.sender)}")
    try:
        with gateway(fastpath, f"table ip t {{ {rules}; }}") as there:
            there.accelerate()
            with closing(Datagrams(row.sender, row.sender, socket.AF_INET, PORT, behind)) as ends:
                ends.assure(there, inside, 7000)
                for _ in range(MANY):
                    assert ends.exchange(inside, 7000) == (inside, inside)
            counted = there.counted()
            assert not counted["FORWARDED"], str(counted)
            assert counted["SAME_WAY_BACK"] > MANY, str(counted)
    finally:
        row.sender.ip(f"address del {behind}/24 dev {row.sender.links[0].interface_of(row.sender)}")


def test_errors_of_icmp_are_the_kernels(masquerade: Gateway, datagrams: Datagrams) -> None:
    datagrams.server.close()  # what comes now is answered by an ICMP error, which is about a translated packet
    datagrams.client.connect((server(masquerade), PORT))
    datagrams.client.send(b"question")
    with pytest.raises(ConnectionRefusedError):
        datagrams.client.recv(10)
    assert masquerade.counted()["QUOTING"] == 1


def test_a_masqueraded_connection_that_would_leave_elsewhere_is_ended_by_the_kernel(
    fastpath: Fastpath,
) -> None:
    row = fastpath.row
    to = row.receiver.links[0].address_of(row.receiver)
    rules = "chain c { type nat hook postrouting priority srcnat; masquerade; }"
    row.router.ip(
        "link add other type veth peer name beyond",
        "link set beyond up",
        "address add 198.51.100.1/24 dev other",
        "link set other up",
        "neigh replace 198.51.100.2 lladdr 02:00:00:00:00:99 dev other nud permanent",
    )
    try:
        with row.router.inside():
            switch_aggregation("beyond", on=True)
        with (
            gateway(fastpath, f"table ip t {{ {rules}; }}") as there,
            closing(Datagrams(row.sender, row.receiver, socket.AF_INET, PORT)) as ends,
        ):
            there.accelerate()
            ends.assure(there, to, PORT)
            ends.exchange(to, PORT)
            row.router.ip(f"route replace {to}/32 via 198.51.100.2 dev other")
            before = there.counted(row.left)
            ends.client.sendto(b"question", (to, PORT))
            until(lambda: there.counted(row.left) != before)
            after = there.counted(row.left)
            assert after["UNTRACKED"] == before["UNTRACKED"] + 1, str(after)
            assert after["FORWARDED"] == before["FORWARDED"]
            assert not there.connections(UDP)
            row.router.ip(f"route del {to}/32")
    finally:
        row.router.ip("link del other")


def test_rules_of_a_home_router_are_asked_beside(fastpath: Fastpath) -> None:
    row = fastpath.row
    rules = (
        "chain f { type filter hook forward priority filter; policy drop; ct state established,related accept; "
        f"iifname {row.left} accept; }}; "
        f"chain c {{ type nat hook postrouting priority srcnat; oifname {row.right} masquerade; }}"
    )
    with gateway(fastpath, f"table inet t {{ {rules}; }}") as there:
        there.accelerate()
        to = server(there)
        with closing(Stream(row.sender, row.receiver, (to, PORT))) as made:
            made.carry(bytes(SIZE))
            made.carry(bytes(SIZE), back=True)
        with closing(Datagrams(row.sender, row.receiver, socket.AF_INET, PORT)) as ends:
            ends.assure(there, to, PORT)
            for _ in range(MANY):
                ends.exchange(to, PORT)
        counted = there.counted()
        assert counted["FORWARDED"] > 1.8 * MANY + 1.8 * SIZE / 1460, str(counted)
        with row.receiver.inside(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.sendto(b"let me in", (row.sender.links[0].address_of(row.sender), PORT))
        until(lambda: there.counted()["UNTRACKED"] > counted["UNTRACKED"])
