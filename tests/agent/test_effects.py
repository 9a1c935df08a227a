# SPDX-License-Identifier: Apache-2.0
"""What is measured of real connections: each once, in the arm it belongs to, with the numbers it had.

PLIANT_REPETITIONS sets how often arms that are alike are compared; `make effect-aa` does it often.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from pliant.agent.effects import policy_effects
from pliant.agent.host import Host
from pliant.errors import PliantError
from pliant.lab import Host as LabHost
from pliant.lab import Lab, Link, Nginx, PrivateMounts, fetch
from pliant.observe.effects import ArmEffect, Effect, Metric
from pliant.observe.lift import FAILURES, Verdict, compare

if TYPE_CHECKING:
    from tests.conftest import Eventually, MakePolicy, Pliant

pytestmark = pytest.mark.root

FILES = {"10k": 10_000, "100k": 100_000}
SERVICE = "measured.service"
Measured = Callable[[int], Effect]
REPETITIONS = int(os.environ.get("PLIANT_REPETITIONS", "20"))
HALF = "50%"
KERNELS_OWN_WINDOW = 10


@dataclass(frozen=True)
class World:
    server: LabHost
    client: LabHost
    link: Link
    nginx: Nginx
    service: str


@pytest.fixture(scope="module")
def world(mounts: PrivateMounts) -> Iterator[World]:
    from tests.conftest import Pair

    with Lab("effects") as lab:
        server, client = lab.host("server"), lab.host("client")
        link = lab.link(client, server, delay="2ms", medium="relay")
        with Nginx(server, files=FILES, service=SERVICE) as nginx:
            yield World(server, client, link, nginx, Pair.service(server, SERVICE))


@pytest.fixture
def measured(pliant: Pliant, eventually: Eventually) -> Callable[[int], Effect]:
    """Wait until so many connections have ended, and read what was measured of them."""

    def effect() -> Effect:
        with Host(pliant.places) as host:
            return policy_effects(host, 0.95, ["web"])[0].effect

    def after(connections: int) -> Effect:
        eventually(lambda: sum(_ended(arm) for arm in effect()) >= connections)
        return effect()

    return after


def _ended(arm: ArmEffect) -> int:
    return arm.failures + arm[Metric.COMPLETION_TIME].count


def test_every_connection_is_one_sample_of_its_arm(
    pliant: Pliant, make_policy: MakePolicy, world: World, measured: Measured
) -> None:
    pliant.apply(make_policy("web", world.service, {"initial_cwnd": 20}, role="server", holdout=HALF))
    count = 80
    got = fetch(world.client, [world.nginx.url("10k")], count=count, parallel=10)
    effect = measured(count)
    treated, held_out = effect
    assert (treated.connections, held_out.connections) == pliant.arms("web")
    assert treated.connections + held_out.connections == count
    assert min(treated.connections, held_out.connections) >= 15
    for metric in Metric:
        for arm in effect:
            assert arm[metric].count == arm.connections, metric
            assert sum(arm[metric].buckets) == arm.connections
    assert treated.failures == held_out.failures == 0
    whole = treated + held_out
    request_and_answer = whole[Metric.BYTES].mean
    assert 10_000 < request_and_answer < 11_000
    longest_us = max(one.total_s for one in got) * 1e6
    assert 4_000 <= whole[Metric.MINIMUM_RTT].mean <= whole[Metric.SMOOTHED_RTT].mean
    assert whole[Metric.COMPLETION_TIME].mean >= 4_000
    assert whole[Metric.COMPLETION_TIME].mean <= 2 * longest_us
    assert whole[Metric.RETRANSMISSION_RATIO].total <= 1e6 * count


def test_what_is_not_measured_has_no_effect(pliant: Pliant, make_policy: MakePolicy, world: World) -> None:
    pliant.apply(make_policy("web", world.service, {"initial_cwnd": 20}, role="server"))
    with Host(pliant.places) as host:
        assert policy_effects(host, 0.95) == []
        with pytest.raises(PliantError, match="holds no connections out"):
            policy_effects(host, 0.95, ["web"])
        with pytest.raises(PliantError, match="there is no policy 'wed'"):
            policy_effects(host, 0.95, ["wed"])


def test_connections_that_are_refused_are_failures_and_no_samples(
    pliant: Pliant, make_policy: MakePolicy, world: World, measured: Measured
) -> None:
    from tests.conftest import Pair

    service = Pair.service(world.client, "caller.service")
    pliant.apply(make_policy("web", service, {"initial_cwnd": 20}, role="client", holdout=HALF))
    knock = (
        "import socket, sys\n"
        "for _ in range(60):\n"
        "    with socket.socket() as sock:\n"
        "        assert sock.connect_ex((sys.argv[1], 9)) != 0\n"
    )
    world.client.run(["python3", "-c", knock, world.server.address], service="caller.service")
    fetch(world.client, [world.nginx.url("10k")], count=20, parallel=5, service="caller.service")
    effect = measured(80)
    assert sum(arm.connections for arm in effect) == 80
    assert sum(arm.failures for arm in effect) == 60
    assert sum(arm[Metric.COMPLETION_TIME].count for arm in effect) == 20
    failures = next(c for c in compare(effect) if c.question.metric == FAILURES)
    assert failures.treated == effect.treated.failures / effect.treated.connections


def test_a_policy_that_changes_nothing_is_not_said_to_change_something(
    pliant: Pliant, make_policy: MakePolicy, world: World, measured: Measured
) -> None:
    tune = {"initial_cwnd": KERNELS_OWN_WINDOW}
    pliant.apply(make_policy("web", world.service, tune, role="server", holdout=HALF))
    first, others, before = 0, 0, Effect()
    for number in range(REPETITIONS):
        fetch(world.client, [world.nginx.url("10k")], count=200, parallel=10)
        now = measured(200 * (number + 1))
        decides, *rest = compare(now.since(before))
        before = now
        assert decides.effect
        first += decides.verdict is not Verdict.NO_DIFFERENCE
        others += any(c.verdict not in (Verdict.NO_DIFFERENCE, Verdict.NOT_ENOUGH_DATA) for c in rest)
    print(f"\n{first} and {others} of {REPETITIONS} comparisons of arms that are alike were false alarms")
    for alarms in (first, others):
        assert alarms <= 0.05 * REPETITIONS + 3.3 * (0.05 * 0.95 * REPETITIONS) ** 0.5


def test_a_larger_initial_window_on_a_long_path_saves_the_round_trip_it_must(
    pliant: Pliant, make_policy: MakePolicy, world: World, measured: Measured
) -> None:
    """100 KB are 70 segments: 10, 20 and 40 in three round trips, or 40 and 30 in two; one of each ends the rest."""
    world.link.change(delay="25ms")
    try:
        pliant.apply(make_policy("web", world.service, {"initial_cwnd": 40}, role="server", holdout=HALF))
        fetch(world.client, [world.nginx.url("100k")], count=160, parallel=8)
        comparisons = compare(measured(160))
    finally:
        world.link.change(delay="2ms")
    first = comparisons[0]
    assert first.verdict is Verdict.BETTER
    assert first.effect
    assert first.treated is not None
    assert first.held_out is not None
    saved_round_trips = (first.held_out - first.treated) / 50_000
    assert 0.5 < saved_round_trips < 2.5
    goodput = next(c for c in comparisons if (c.question.metric, c.question.statistic) == ("goodput", "p50"))
    assert goodput.verdict is Verdict.BETTER
