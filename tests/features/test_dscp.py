# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Pair
    from tests.features.conftest import Captures, Ends, Tune

pytestmark = pytest.mark.root

ECT_0 = 2


def traffic_class(state: object, family: str) -> int:
    value = getattr(state, "tclass" if family == "ipv6" else "tos")
    assert isinstance(value, int)
    return value


@pytest.fixture
def ecn(pair: Pair) -> Iterator[None]:
    """Have both hosts ask for ECN."""
    before = pair.client.sysctl("net.ipv4.tcp_ecn")
    for host in (pair.client, pair.server):
        host.sysctl("net.ipv4.tcp_ecn", "1")
    yield
    for host in (pair.client, pair.server):
        host.sysctl("net.ipv4.tcp_ecn", before)


def test_socket_has_the_code_point(tune: Tune, role: str, family: str) -> None:
    found = tune({"dscp": "AF41"}, role, family)
    assert traffic_class(found.state, family) == 34 << 2
    assert traffic_class(found.peer, family) == 0
    assert traffic_class(found.unmatched, family) == 0


@pytest.mark.parametrize("code_point", [0, 63])
def test_bounds_are_taken_by_the_kernel(tune: Tune, code_point: int, family: str) -> None:
    assert traffic_class(tune({"dscp": code_point}, "server", family).state, family) == code_point << 2


def test_packets_of_a_client_carry_it_from_the_syn_on(
    tune: Tune, pair: Pair, ends: Ends, capture: Captures, family: str
) -> None:
    with capture(pair.server) as arrived:
        found = tune({"dscp": "EF"}, "client", family)
        ends.client.send(50_000)
        ends.client.receive(50_000)
        packets = [p for p in arrived.packets() if p.source_port == found.state.local_port]
    assert packets[0].is_syn
    assert sum(packet.payload for packet in packets) >= 50_000
    assert {packet.dscp for packet in packets} == {46}


def test_packets_of_a_server_carry_it_from_the_end_of_the_handshake(
    tune: Tune, pair: Pair, ends: Ends, capture: Captures, family: str
) -> None:
    with capture(pair.client) as arrived:
        found = tune({"dscp": "EF"}, "server", family)
        ends.client.send(50_000)
        ends.client.receive(50_000)
        packets = [p for p in arrived.packets() if p.port == found.state.remote_port]
    assert [packet.dscp for packet in packets if packet.is_syn] == [0]
    assert sum(packet.payload for packet in packets) >= 50_000
    assert {packet.dscp for packet in packets if not packet.is_syn} == {46}


def test_ecn_bits_stay_as_they_are(
    ecn: None, tune: Tune, pair: Pair, ends: Ends, capture: Captures, role: str, family: str
) -> None:
    receiver = pair.client if role == "server" else pair.server
    with capture(receiver) as arrived:
        found = tune({"dscp": "EF"}, role, family)
        ends.client.send(50_000)
        ends.client.receive(50_000)
        packets = [p for p in arrived.packets() if p.source_port == found.state.local_port and p.payload]
    assert found.state.ecn
    assert {packet.dscp for packet in packets} == {46}
    # What is sent a second time is never ECN-capable (RFC 3168, 6.1.5); all else is.
    assert sum(packet.payload for packet in packets if packet.ecn == ECT_0) == 50_000
