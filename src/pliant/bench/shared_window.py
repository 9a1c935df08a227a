# SPDX-License-Identifier: Apache-2.0
"""What shared_window is worth to short transfers, against static initial windows of 10, 40 and 100 segments.

A service answers short transfers, which come at random, and a long one now and then, over a path with a bottleneck
whose queue holds one bandwidth-delay product. On the idle path nothing else happens; on the congested one two endless
transfers of another service, which no policy matches, keep the queue full. All use cubic. Each setting is given the
same transfers at the same times. The first seconds of each are left out: a service that has just begun knows nothing.

Sizes differ, so a transfer's completion time counts in multiples of what it would take at best, in one round trip
after the handshake and at the rate of the path: its slowdown. Ratios are of the medians and the 90th and 99th
percentiles of slowdowns with shared_window to those with a static window: below 1, shared_window is faster.
"""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import quantiles
from typing import Any

from pliant.agent.host import Host
from pliant.bench.bench import Bench, Options, Sample
from pliant.bench.place import apply, clear, policy, private_places, service_path
from pliant.errors import PliantError
from pliant.lab import Host as LabHost
from pliant.lab import Lab
from pliant.lab.host import Process

SERVICE, OTHER, PORT, OTHER_PORT = "web.service", "bulk.service", 80, 81
CUBIC: dict[str, object] = {"congestion_control": "cubic"}
SHARED, STATIC = "shared", (10, 40, 100)
ENDLESS = 1 << 40  # bytes
FEWEST = 3
SHORT_BYTES = (15_000, 50_000, 150_000)
WARM_UP_S = 3.0
MEASURED_S = 20.0
DELAY_S = 0.040  # one way
RMEM = "4096 1048576 6291456"  # the client's: its window is not to be what limits the first round trip
PERCENTILES = (50, 90, 99)
Work = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Path:
    """A path and what goes on on it: megabits a second, short transfers a second, long transfers, competitors."""

    name: str
    rate_mbit: int
    short_per_s: float
    long_bytes: int
    pause_s: float
    competitors: int = 0

    def best_s(self, size: int) -> float:
        """The least time that a transfer can take: the handshake, the request and its answer, and the bytes."""
        return 4 * DELAY_S + size * 8 / (self.rate_mbit * 1e6)


PATHS = (
    Path("idle", rate_mbit=30, short_per_s=5, long_bytes=2_000_000, pause_s=2.0),
    Path("congested", rate_mbit=10, short_per_s=3, long_bytes=750_000, pause_s=2.0, competitors=2),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the transfers of one setting on one path: of all, the segments sent, and sent again."""

    slowdowns: list[float]
    segments: int
    again: int

    def percentile(self, percent: int) -> float:
        """A percentile of the slowdowns."""
        return quantiles(self.slowdowns, n=100, method="inclusive")[percent - 1]


def settings() -> dict[str, dict[str, object]]:
    """What is compared, by name: the options of a policy."""
    static = {f"static_{segments}": {"initial_cwnd": segments} | CUBIC for segments in STATIC}
    return {SHARED: {"shared_window": 1000} | CUBIC} | static


def run(options: Options) -> Iterator[Sample]:
    """Yield each run's figures: on each path the settings take turns."""
    with Lab("bench-window") as lab, Host(private_places("window")) as host, ExitStack() as undo:
        undo.callback(clear, host)
        ends = {path: linked(lab, path) for path in PATHS}
        for number in range(options.runs):
            for path in PATHS:
                found = {}
                for name, tune in settings().items():
                    options.progress(f"run {number + 1} of {options.runs}, {path.name} path, {name}")
                    given = work(path, options.scale, seed=number)
                    found[name] = measure(host, path, *ends[path], tune, given, WARM_UP_S * options.scale)
                yield from samples(path, found)


def linked(lab: Lab, path: Path) -> tuple[LabHost, LabHost]:
    """A server and a client with the path between them."""
    server, client = lab.host(f"{path.name}-server"), lab.host(f"{path.name}-client")
    lab.link(server, client, rate=f"{path.rate_mbit}Mbit", delay=f"{DELAY_S * 1000:g}ms", medium="relay")
    client.sysctl("net.ipv4.tcp_rmem", RMEM)
    return server, client


def samples(path: Path, found: Mapping[str, Outcome]) -> Iterator[Sample]:
    """What one run says of one path."""
    for name, outcome in found.items():
        for percent in PERCENTILES:
            yield Sample(f"{path.name}_{name}_slowdown_p{percent}", "ratio", outcome.percentile(percent))
        yield Sample(f"{path.name}_{name}_retransmitted_ratio", "ratio", outcome.again / outcome.segments)
    for name, outcome in found.items():
        if name != SHARED:
            for percent in PERCENTILES:
                ratio = found[SHARED].percentile(percent) / outcome.percentile(percent)
                yield Sample(f"{path.name}_to_{name}_p{percent}_ratio", "ratio", ratio)


def work(path: Path, scale: float, seed: int) -> Work:
    """The transfers of one run; a few short ones at least."""
    draw = random.Random(f"{path.name}/{seed}")
    short: list[tuple[float, int]] = []
    at = 0.0
    while at < (WARM_UP_S + MEASURED_S) * scale or len(short) < FEWEST:
        at += draw.expovariate(path.short_per_s)
        short.append((at, draw.choice(SHORT_BYTES)))
    turns = [(path.pause_s * draw.uniform(0.5, 1.5), path.long_bytes) for _ in range(math.ceil(at))]
    return {"short": short, "long": [turns]}


def measure(
    host: Host,
    path: Path,
    server: LabHost,
    client: LabHost,
    tune: Mapping[str, object],
    given: Work,
    warm_up_s: float,
) -> Outcome:
    """Make the transfers of one run with one setting; those that start in the warm-up do not count."""
    apply(
        host,
        [
            policy("window", service_path(server, SERVICE), tune),
            policy("other", service_path(server, OTHER), CUBIC),
        ],
    )
    with ExitStack() as stack:
        serving = stack.enter_context(running(server, "server", str(PORT), service=SERVICE))
        bulk = stack.enter_context(running(server, "server", str(OTHER_PORT), service=OTHER))
        for process in (serving, bulk):
            line(process)
        if path.competitors:
            competing = stack.enter_context(running(client, "client", server.address, str(OTHER_PORT)))
            give(competing, {"short": [], "long": [[(0.0, ENDLESS)]] * path.competitors})
        asking = stack.enter_context(running(client, "client", server.address, str(PORT)))
        give(asking, given)
        transfers = json.loads(line(asking))
        give(serving)
        costs = json.loads(line(serving))
    clear(host)  # what was learned goes with it
    late = [row for row in transfers if row[1] >= warm_up_s]
    slowdowns = [took_s / path.best_s(size) for kind, _, size, took_s in late if kind == "short"]
    return Outcome(slowdowns, sum(sent for _, sent, _ in costs), sum(again for _, _, again in costs))


@contextmanager
def running(host: LabHost, *arguments: str, service: str | None = None) -> Iterator[Process]:
    """One of the processes that make transfers."""
    argv = [sys.executable, "-P", "-m", "pliant.bench.transfers", *arguments]
    process = host.spawn(argv, service=service, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        process.stop()


def give(process: Process, given: Work | None = None) -> None:
    """Write a process its input, to its end."""
    assert process.popen.stdin is not None
    process.popen.stdin.write(json.dumps(given).encode() if given else b"")
    process.popen.stdin.close()


def line(process: Process) -> str:
    """The next line of a process. Raises PliantError when it has ended."""
    assert process.popen.stdout is not None
    found = process.popen.stdout.readline().decode()
    if not found:
        raise PliantError(f"a process that makes transfers has ended: {process.output.strip()}")
    return found


BENCH = Bench(
    name="shared-window",
    summary="Completion times of short transfers with shared_window, against static initial windows.",
    run=run,
    runs=10,
)
