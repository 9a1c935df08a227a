# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.features.conftest import CWR, ECE, MATCHED, OTHER

if TYPE_CHECKING:
    from tests.conftest import MakePolicy, Pair, Pliant
    from tests.features.conftest import Captures, Ends, Tune

pytestmark = pytest.mark.root

ECT_0 = 2


@pytest.fixture(params=["0", "2"])
def ecn_of_hosts(request: pytest.FixtureRequest, pair: Pair) -> Iterator[None]:
    """Have both hosts refuse ECN, or (the kernel's default) only accept it."""
    before = pair.client.sysctl("net.ipv4.tcp_ecn")
    for host in (pair.client, pair.server):
        host.sysctl("net.ipv4.tcp_ecn", request.param)
    yield
    for host in (pair.client, pair.server):
        host.sysctl("net.ipv4.tcp_ecn", before)


def test_syn_of_a_client_asks_for_it_and_a_server_left_alone_does_not_agree(
    ecn_of_hosts: None,
    pliant: Pliant,
    pair: Pair,
    ends: Ends,
    make_policy: MakePolicy,
    capture: Captures,
    family: str,
) -> None:
    pliant.apply(make_policy("a", tune={"ecn": True}, **ends.match("client")))
    with capture(pair.server) as arrived:
        unmatched = ends.connect(family, OTHER[family])["client"]
        found = ends.connect(family, MATCHED[family])
        packets = arrived.packets()
    [syn] = [p for p in packets if p.is_syn and p.source_port == found["client"].local_port]
    [other] = [p for p in packets if p.is_syn and p.source_port == unmatched.local_port]
    assert syn.flags & (ECE | CWR) == ECE | CWR
    assert syn.ecn == ECT_0  # why the server does not agree
    assert not other.flags & (ECE | CWR)
    assert (found["client"].ecn, found["server"].ecn) == (False, False)
    outcomes = pliant.outcomes("ecn")
    assert (outcomes.applied, outcomes.unchanged) == (0, 1)


def test_server_agrees_where_it_would_not(
    pliant: Pliant, pair: Pair, ends: Ends, tune: Tune, family: str
) -> None:
    before = [host.sysctl("net.ipv4.tcp_ecn") for host in (pair.client, pair.server)]
    try:
        pair.client.sysctl("net.ipv4.tcp_ecn", "1")
        pair.server.sysctl("net.ipv4.tcp_ecn", "0")
        found = tune({"ecn": True}, "server", family)
    finally:
        for host, value in zip((pair.client, pair.server), before, strict=True):
            host.sysctl("net.ipv4.tcp_ecn", value)
    assert (found.state.ecn, found.peer.ecn) == (True, True)
    assert not found.unmatched.ecn


def test_packets_are_ecn_capable_where_both_ends_have_the_policy(
    ecn_of_hosts: None,
    pliant: Pliant,
    pair: Pair,
    ends: Ends,
    make_policy: MakePolicy,
    capture: Captures,
    family: str,
) -> None:
    pliant.apply(
        *(make_policy(role, tune={"ecn": True}, **ends.match(role)) for role in ("server", "client"))
    )
    with capture(pair.server) as arrived:
        found = ends.connect(family, MATCHED[family])
        ends.client.send(50_000)
        ends.client.receive(50_000)
        packets = [p for p in arrived.packets() if p.source_port == found["client"].local_port]
    assert (found["client"].ecn, found["server"].ecn) == (True, True)
    assert sum(packet.payload for packet in packets if packet.ecn == ECT_0) == 50_000
    assert pliant.outcomes("ecn").applied == 2
