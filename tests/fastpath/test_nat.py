# SPDX-License-Identifier: Apache-2.0
"""Connections that are translated: what both ends see, what takes the fast path, and what conntrack is left with."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import closing
from typing import NamedTuple

import pytest

from pliant.lab import Host, Link
from tests.fastpath.fastpath_row import Fastpath, Row
from tests.fastpath.gateway import AGED_S, Datagrams, Gateway, Stream, gateway, until

UDP, TCP = socket.IPPROTO_UDP, socket.IPPROTO_TCP
MANY = 300
ESTABLISHED, TIME_WAIT = 3, 7
BULK = bytes(range(251)) * 20_000  # 5 MB


class Nat(NamedTuple):
    """A ruleset; whom the client asks, and whom the server thinks it answers."""

    rules: str
    asked: str
    port: int
    family: int
    seen: str


def address(link: Link, host: Host, version: int) -> str:
    return link.address_of(host) if version == 4 else link.address6_of(host)


def _nat(kind: str, version: int, row: Row) -> Nat:
    near, far = row.sender.links[0], row.receiver.links[0]
    client, server = address(near, row.sender, version), address(far, row.receiver, version)
    inside, outside = address(near, row.router, version), address(far, row.router, version)
    family, number = ("ip", socket.AF_INET) if version == 4 else ("ip6", socket.AF_INET6)
    table = f"table {family} t {{ chain c {{ type nat hook %s; meta l4proto {{ tcp, udp }} %s; }}; }}"
    if kind == "masquerade":
        rules = table % ("postrouting priority srcnat", f"oifname {row.right} masquerade")
        return Nat(rules, server, 5000, number, outside)
    if kind == "snat":
        shown = outside.removesuffix("1") + "77"
        rules = table % (
            "postrouting priority srcnat",
            f"oifname {row.right} snat to {_with_port(shown, '4000-4100')}",
        )
        return Nat(rules, server, 5000, number, shown)
    chosen = f"{family} daddr {inside} th dport 7000 dnat to {_with_port(server, '5000')}"
    return Nat(table % ("prerouting priority dstnat", chosen), inside, 7000, number, client)


def _with_port(name: str, port: str) -> str:
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


@pytest.fixture(params=[(k, v) for k in ("masquerade", "snat", "dnat") for v in (4, 6)], ids=str)
def nat(request: pytest.FixtureRequest, fastpath: Fastpath) -> Iterator[tuple[Nat, Gateway]]:
    kind, version = request.param
    made = _nat(kind, version, fastpath.row)
    if kind == "snat":
        nodad = " nodad" if version == 6 else ""
        fastpath.row.router.ip(f"address add {made.seen} dev {fastpath.row.right}{nodad}")
    try:
        with gateway(fastpath, made.rules) as there:
            there.accelerate()
            yield made, there
    finally:
        if kind == "snat":
            fastpath.row.router.ip(f"address del {made.seen} dev {fastpath.row.right}")


def test_datagrams_are_translated_both_ways(nat: tuple[Nat, Gateway]) -> None:
    made, there = nat
    with closing(Datagrams(there.row.sender, there.row.receiver, made.family)) as ends:
        ends.assure(there, made.asked, made.port)
        assert not there.counted()["FORWARDED"]
        for number in range(MANY):
            assert ends.exchange(made.asked, made.port, number) == (made.seen, made.asked)
    counted = there.counted()
    assert counted["FORWARDED"] > 1.8 * MANY, str(counted)
    assert there.connection(UDP).timeout_s >= there.setting("nf_conntrack_udp_timeout_stream") - 1


def test_streams_are_translated_and_end_as_the_kernel_has_it(nat: tuple[Nat, Gateway]) -> None:
    made, there = nat
    with closing(Stream(there.row.sender, there.row.receiver, (made.asked, made.port))) as stream:
        assert stream.seen == made.seen
        for back in (False, True, False):
            stream.carry(BULK, back=back)
        counted = there.counted()
        assert counted["FORWARDED"] > 0.9 * 3 * len(BULK) / 1460, str(counted)
        assert there.connection(TCP).tcp_state == ESTABLISHED
        stream.client.shutdown(socket.SHUT_WR)
        assert stream.server.recv(1) == b""
        stream.carry(b"last", back=True)  # half closed, all is the kernel's
    until(lambda: there.connection(TCP).tcp_state == TIME_WAIT)
    assert there.connection(TCP).timeout_s <= there.setting("nf_conntrack_tcp_timeout_time_wait")


def test_a_stream_is_kept_for_as_long_as_the_kernel_keeps_it(nat: tuple[Nat, Gateway]) -> None:
    made, there = nat
    with closing(Stream(there.row.sender, there.row.receiver, (made.asked, made.port))) as stream:
        stream.carry(BULK)
        for _ in range(3):  # slow enough for ways to become void
            stream.carry(b"question")
            stream.carry(b"answer", back=True)
            time.sleep(AGED_S)
        most = there.setting("nf_conntrack_tcp_timeout_established")
        assert most - 5 <= there.connection(TCP).timeout_s <= most
        stream.server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        stream.server.close()  # RST: the connection has as long to live as one that is closed
        until(lambda: there.connection(TCP).timeout_s <= there.setting("nf_conntrack_tcp_timeout_close"))
