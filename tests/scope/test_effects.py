# SPDX-License-Identifier: Apache-2.0
"""What is recorded of connections of a measured policy, against what the applications saw."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from pliant.agent.host import Host
from pliant.features.layout import shipped_layout
from pliant.lab import TcpClient
from pliant.observe.effects import ArmEffect, Metric, read_effects

if TYPE_CHECKING:
    from tests.conftest import Eventually, MakePolicy, OpenAndClose, Pair, Pliant

pytestmark = pytest.mark.root

TUNE = {"initial_cwnd": 20}
NOBODY = 9


def arms(pliant: Pliant, name: str) -> tuple[ArmEffect, ArmEffect]:
    with Host(pliant.places) as host:
        number = host.journal.policies(host.journal.current())[name].number
        found = read_effects(host.pins, shipped_layout().scope["effect"])
    return found[number].treated, found[number].held_out


@pytest.mark.parametrize("role", ["client", "server"])
def test_each_connection_that_ends_gives_one_sample_in_its_arm(
    pliant: Pliant,
    pair: Pair,
    port: int,
    make_policy: MakePolicy,
    open_and_close: OpenAndClose,
    eventually: Eventually,
    role: str,
) -> None:
    host, service = (pair.client, "app.service") if role == "client" else (pair.server, "plain.service")
    pliant.apply(make_policy("a", pair.service(host, service), TUNE, holdout="30%", role=role))
    open_and_close(pair.client, "app.service", pair.server.address, port, 400)

    def ended(arm: ArmEffect) -> bool:
        return arm[Metric.COMPLETION_TIME].count == arm.connections

    eventually(lambda: all(map(ended, arms(pliant, "a"))))
    treated, held_out = arms(pliant, "a")
    assert (treated.connections, held_out.connections) == pliant.arms("a")
    assert treated.connections + held_out.connections == 400
    assert 0 < held_out.connections < treated.connections
    for arm in (treated, held_out):
        assert arm.failures == 0
        assert arm[Metric.SMOOTHED_RTT].count == arm.connections
        assert 0 < arm[Metric.MINIMUM_RTT].mean < arm[Metric.COMPLETION_TIME].mean < 10_000_000


def test_bytes_are_those_that_went_both_ways(
    pliant: Pliant, pair: Pair, port: int, make_policy: MakePolicy, eventually: Eventually
) -> None:
    pliant.apply(make_policy("a", pair.service(pair.client, "app.service"), TUNE, holdout="0.0001%"))
    with TcpClient(pair.client, service="app.service") as client:
        client.connect(pair.server.address, port)
        client.send(100_000)
        client.receive(100_000)
        client.disconnect()
    eventually(lambda: arms(pliant, "a")[0][Metric.BYTES].count == 1)
    treated, held_out = arms(pliant, "a")
    assert 200_000 <= treated[Metric.BYTES].total <= 200_004  # and the SYNs and FINs
    assert treated[Metric.RETRANSMISSION_RATIO].count == 1
    assert held_out.connections == 0


def test_connections_that_were_never_established_are_failures(
    pliant: Pliant, pair: Pair, make_policy: MakePolicy
) -> None:
    pliant.apply(make_policy("a", pair.service(pair.client, "app.service"), TUNE, holdout="0.0001%"))
    script = (
        "import socket, sys\n"
        "for _ in range(5):\n"
        "    assert socket.socket().connect_ex((sys.argv[1], int(sys.argv[2])))\n"
    )
    pair.client.run([sys.executable, "-c", script, pair.server.address, str(NOBODY)], service="app.service")
    treated, _ = arms(pliant, "a")
    assert (treated.connections, treated.failures) == (5, 5)
    assert treated[Metric.COMPLETION_TIME].count == 0


def test_nothing_is_recorded_without_a_holdout_or_for_other_connections(
    pliant: Pliant, pair: Pair, port: int, make_policy: MakePolicy, open_and_close: OpenAndClose
) -> None:
    service = pair.service(pair.client, "app.service")
    pliant.apply(
        make_policy("plain", service, TUNE, remotePorts=[port]),
        make_policy("elsewhere", service, {"dscp": 8}, holdout="50%", remotePorts=[port + 1]),
    )
    open_and_close(pair.client, "app.service", pair.server.address, port, 20)
    with Host(pliant.places) as host:
        numbers = {n: p.number for n, p in host.journal.policies(host.journal.current()).items()}
        found = read_effects(host.pins, shipped_layout().scope["effect"])
    assert found.keys() == {numbers["elsewhere"]}
    effect = found[numbers["elsewhere"]]
    assert (effect.treated.connections, effect.held_out.connections) == (0, 0)


def test_a_connection_that_stays_open_is_sampled_once_and_completed_when_it_ends(
    pliant: Pliant,
    pair: Pair,
    port: int,
    make_policy: MakePolicy,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pliant.agent.actuator.objects.LONG_NS", 1)
    pliant.apply(make_policy("a", pair.service(pair.client, "app.service"), TUNE, holdout="0.0001%"))
    with TcpClient(pair.client, service="app.service") as client:
        client.connect(pair.server.address, port)
        client.send(1000)
        client.receive(1000)
        for _ in range(2):
            with Host(pliant.places) as host:
                host.sample_long_connections()
        [sampled, _] = arms(pliant, "a")
        assert sampled[Metric.BYTES].count == sampled[Metric.SMOOTHED_RTT].count == 1
        assert sampled[Metric.COMPLETION_TIME].count == 0
        client.disconnect()
    eventually(lambda: arms(pliant, "a")[0][Metric.COMPLETION_TIME].count == 1)
    assert arms(pliant, "a")[0][Metric.BYTES].count == 1
