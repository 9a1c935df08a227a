# SPDX-License-Identifier: Apache-2.0
"""What pods get out of the fast path under Flannel's rules: on one node, and across two.

Client and server have one core between them, and rates are by the time they have it, so that others on the machine
change little. Kernel and fast path take turns on the same topology. The nodes take connections whose sequence numbers
are not followed (net.netfilter.nf_conntrack_tcp_be_liberal and its like), with the fast path and without.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

from pliant.bench.acceleration import Acceleration
from pliant.bench.bench import Bench, Options, Sample
from pliant.bench.exchanges import KINDS
from pliant.bench.place import private_mounts
from pliant.errors import PliantError
from pliant.lab import Lab
from pliant.lab.flannel import Flannel, Pod
from pliant.lab.host import Process
from pliant.observe.fastpath import Mode

PORT = 5000
WINDOW_S = 0.5
LIBERAL = tuple(f"net.netfilter.nf_conntrack_tcp_{name}" for name in ("be_liberal", "ignore_invalid_rst"))
UNITS = {
    "requests": ("requests_per_s", "requests a second of processor time", 1.0),
    "turns": ("turns_per_s", "requests a second of processor time", 1.0),
    "messages": ("messages_mbit", "Mbit a second of processor time", 8e-6),
    "bulk": ("bulk_mbit", "Mbit a second of processor time", 8e-6),
}


class Served(NamedTuple):
    """A pod with a server, and the server's process."""

    pod: Pod
    process: Process


def run(options: Options) -> Iterator[Sample]:
    """Yield rates by the kernel and by the fast path, and the second in terms of the first."""
    private_mounts()
    with Lab("bench") as lab, ExitStack() as stack:
        network = Flannel(lab, pods=(2, 1))
        client, near = network.nodes[0].pods
        [far] = network.nodes[1].pods
        servers = {"node": started(near, stack), "wire": started(far, stack)}
        for node in network.nodes:
            for name in LIBERAL:
                node.host.sysctl(name, "1")
        fast = [Acceleration(node.host, mode=Mode.TC) for node in network.nodes]
        for one in fast:
            one.look()
        for number in range(options.runs):
            found: dict[tuple[str, str, bool], float] = {}
            for is_fast in (False, True) if number % 2 else (True, False):
                with ExitStack() as running:
                    for one in fast if is_fast else ():
                        running.enter_context(one.on())
                    for place, served in servers.items():
                        for kind in KINDS:
                            found[place, kind, is_fast] = rate(client, served, kind, WINDOW_S * options.scale)
            options.progress(f"run {number + 1} of {options.runs}: {', '.join(told(found))}")
            yield from samples(found)


def started(pod: Pod, stack: ExitStack) -> Served:
    """Start a server in a pod, on the core that the client has."""
    argv = [sys.executable, "-m", "pliant.bench.exchanges", "server", pod.address, str(PORT)]
    process = pod.host.spawn(on_core(argv))
    stack.callback(process.stop)
    return Served(pod, process)


def on_core(argv: list[str]) -> list[str]:
    """A command on the core that both ends share."""
    return ["taskset", "-c", str(max(os.sched_getaffinity(0))), *argv]


def rate(client: Pod, served: Served, kind: str, seconds: float) -> float:
    """Keep a connection to a server busy; what went in a second of processor time."""
    argv = [sys.executable, "-m", "pliant.bench.exchanges", "client", served.pod.address, str(PORT), kind]
    done = client.host.run(on_core([*argv, str(seconds), str(served.process.pid)]))
    found = json.loads(done.stdout)
    if not found["done"]:
        raise PliantError(f"nothing went from pod to pod: {kind} to {served.pod.address}")
    return float(found["done"] / found["processor_seconds"])


def samples(found: dict[tuple[str, str, bool], float]) -> Iterator[Sample]:
    """Yield what a run says. ``overlay_bulk_ratio`` is the lower of the two places'."""
    ratios = {}
    for (place, kind, is_fast), value in found.items():
        name, unit, scale = UNITS[kind]
        yield Sample(f"overlay_{place}_{'pliant' if is_fast else 'kernel'}_{name}", unit, value * scale)
        if is_fast:
            ratios[place, kind] = value / found[place, kind, False]
    for place in dict.fromkeys(place for place, _ in ratios):
        yield Sample(f"overlay_{place}_ratio", "ratio", ratios[place, "requests"])
        yield Sample(f"overlay_{place}_turns_ratio", "ratio", ratios[place, "turns"])
        yield Sample(f"overlay_{place}_messages_ratio", "ratio", ratios[place, "messages"])
        yield Sample(f"overlay_{place}_bulk_ratio", "ratio", ratios[place, "bulk"])
    yield Sample("overlay_bulk_ratio", "ratio", min(r for (_, kind), r in ratios.items() if kind == "bulk"))


def told(found: dict[tuple[str, str, bool], float]) -> Iterator[str]:
    """A run in words."""
    for place, kind, is_fast in found:
        if is_fast:
            yield f"{place} {kind} {found[place, kind, True] / found[place, kind, False]:.2f}"


BENCH = Bench(
    name="overlay",
    summary="Pod to pod under Flannel's rules, on a node and across nodes, against the kernel alone.",
    run=run,
    runs=10,
)
