# SPDX-License-Identifier: Apache-2.0
"""How long a service is without its policies when it appears: services that come and go ten times a second.

``attach_ms``: from before mkdir(2) of the service's cgroup to the moment when a connection would be given what the
policy says: our program is on the cgroup's hook, and the service is in the table that it looks in. The host has fifty
other services that stay, and a hundred policies for them. The agent is a process of its own; a second one, this,
looks at the kernel every 0.2 ms meanwhile.

- ``attach_ms``: every arrival by itself, two hundred a run; ``attach_ms_p99``: what 99 of 100 of a run do not exceed.
- ``detach_ms_p99``: from rmdir(2) to the removal of the last that was left, the link's pin and the entry.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pliant.agent.host import Host
from pliant.bench.agent_process import AgentProcess
from pliant.bench.bench import Bench, Options, Sample
from pliant.bench.place import apply, clear, policy, private_places
from pliant.bench.policies import policies_text
from pliant.errors import PliantError
from pliant.features import catalogue
from pliant.kernel.cgroup_query import attached
from pliant.kernel.cgroups import cgroup_id
from pliant.kernel.links import AttachType
from pliant.kernel.maps import Map
from pliant.lab import Lab
from pliant.observe.tables import Table
from pliant.policy.desired import SCOPE
from pliant.policy.documents import load_policies

POLICIES, SERVICES, ARRIVALS = 100, 50, 200
PERIOD_S = 0.1
LOOK_S = 0.0002
DEADLINE_S = 10.0
SERVICES_TABLE = Table(SCOPE, "services")


def run(options: Options) -> Iterator[Sample]:
    """Yield the times that services were without their policies."""
    with Lab("bench-attach") as lab:
        lab_host = lab.host("server")
        names = [f"s{number}.service" for number in range(options.scaled(SERVICES))]
        for name in names:
            lab_host.service(name)
        places = private_places("attach", cgroup_root=lab_host.cgroup)
        text = policies_text(options.scaled(POLICIES), names)
        coming = policy("coming", "coming-*.service", {"initial_cwnd": 40, "min_rto": "100ms"})
        with Host(places) as host:
            apply(host, [*load_policies(text, "benchmark", catalogue()), coming])
            try:
                with AgentProcess(places), Map.pinned(host.pins.map(SERVICES_TABLE)) as table:
                    for number in range(options.runs):
                        yield from _arrivals(options, lab_host.cgroup, host, table, number)
            finally:
                clear(host)


def _arrivals(options: Options, root: Path, host: Host, table: Map, run: int) -> Iterator[Sample]:
    arriving, leaving = [], []
    for number in range(options.scaled(ARRIVALS)):
        began = time.monotonic()
        cgroup = root / f"coming-{run}-{number}.service"
        cgroup.mkdir()
        key = cgroup_id(cgroup).to_bytes(8, sys.byteorder)
        try:
            arriving.append(_awaited(began, lambda: _is_tuned(table, key, cgroup)))  # noqa: B023
            _rest(began, PERIOD_S / 2)
        finally:
            left = time.monotonic()
            cgroup.rmdir()
        leaving.append(_awaited(left, lambda: _is_gone(table, host, key)))  # noqa: B023
        _rest(began, PERIOD_S)
    count = len(arriving)
    p99 = _quantile(arriving, 0.99)
    options.progress(f"run {run + 1} of {options.runs}, {count} arrivals: 99% within {p99:.1f} ms")
    yield from (Sample("attach_ms", "ms", milliseconds) for milliseconds in arriving)
    yield Sample("attach_ms_p99", "ms", p99)
    yield Sample("detach_ms_p99", "ms", _quantile(leaving, 0.99))


def _is_tuned(table: Map, key: bytes, cgroup: Path) -> bool:
    if table.get(key) is None:
        return False
    return any(program.name == SCOPE for program in attached(cgroup, AttachType.CGROUP_SOCK_OPS))


def _is_gone(table: Map, host: Host, key: bytes) -> bool:
    number = int.from_bytes(key, sys.byteorder)
    return table.get(key) is None and number not in {hook.cgroup_id for hook in host.pins.attached()}


def _awaited(since: float, condition: Callable[[], bool]) -> float:
    """Milliseconds from a time of the monotonic clock until a condition is seen to be true."""
    while not condition():
        if time.monotonic() - since > DEADLINE_S:
            raise PliantError(f"the agent did not follow within {DEADLINE_S:g} s")
        time.sleep(LOOK_S)
    return (time.monotonic() - since) * 1000


def _rest(since: float, seconds: float) -> None:
    time.sleep(max(0.0, since + seconds - time.monotonic()))


def _quantile(values: list[float], share: float) -> float:
    """The least value that this share of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered) + 0.5) - 1))]


BENCH = Bench(
    name="attach",
    summary="How long a service that appears is without its policies, ten services coming and going a second.",
    run=run,
    runs=5,
)
