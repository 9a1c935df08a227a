# SPDX-License-Identifier: Apache-2.0
"""How long policies take from the call to the kernel enforcing them, and how much memory: one, a hundred, ten thousand.

The ten thousand are applied by a process of their own, whose clock starts before it does: Python, imports, reading
the file, checking, compiling, observing, planning, applying and reading back are all in it. Smaller changes are made
by a process that runs already, except where the metric says cold, which is the command ``pliant apply``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from pliant.agent.host import Host
from pliant.agent.places import Places
from pliant.bench.bench import Bench, Options, Sample
from pliant.bench.place import apply, clear, private_places, service_path
from pliant.bench.policies import initial_cwnd, policies_text, policy_text
from pliant.bench.startup import elapsed_ms
from pliant.errors import PliantError
from pliant.features import catalogue
from pliant.lab import Host as LabHost
from pliant.lab import Lab, TcpClient, TcpServer
from pliant.policy.documents import load_policies

SERVICES = 10
HANDFUL = 5
HUNDRED = 100
THOUSANDS = 10_000
THOUSANDS_RUNS = 3  # each takes seconds
PEER = "10.0.0.1"  # within the first prefix
PORT = 80


def run(options: Options) -> Iterator[Sample]:
    """Yield times and memory for each number of policies."""
    with Lab("bench-apply") as lab:
        lab_host = lab.host("server")
        lab_host.add_address(f"{PEER}/32")
        services = [service_path(lab_host, f"bench-{number}.service") for number in range(SERVICES)]
        yield from one_among_few(options, lab_host, services)
        yield from many_at_once(options, services)
        yield from thousands(options, lab_host, services)


def one_among_few(options: Options, lab_host: LabHost, services: Sequence[str]) -> Iterator[Sample]:
    """Yield the time to change one policy, in this process and with the command; each change is seen to work."""
    places = private_places("apply-1")
    with (
        Host(places) as host,
        TcpServer(lab_host, service="bench-0.service", listen=[f"0.0.0.0:{PORT}"]) as server,
    ):
        apply(host, load_policies(policies_text(HANDFUL, services), "bench", catalogue()))
        try:
            with TcpClient(lab_host) as client:
                for variant in range(1, options.runs + 1):
                    options.progress(f"one policy among {HANDFUL}, run {variant} of {options.runs}")
                    changed = load_policies(policy_text(0, services, variant=variant), "bench", catalogue())
                    started = time.perf_counter()
                    apply(host, changed)
                    yield Sample("apply_1_ms", "ms", (time.perf_counter() - started) * 1000)
                    expect_window(client, server, initial_cwnd(0, variant))
                for variant in range(1, options.runs + 1):
                    text = policy_text(0, services, variant=40 + variant)
                    yield Sample(
                        "apply_1_cold_ms", "ms", apply_with_command(lab_host.directory, places, text)
                    )
                    expect_window(client, server, initial_cwnd(0, 40 + variant))
        finally:
            clear(host)


def expect_window(client: TcpClient, server: TcpServer, segments: int) -> None:
    """Open a connection and raise PliantError unless it starts with this window."""
    port = client.connect(PEER, PORT, source=PEER)[-1].local_port
    found = next(c.snd_cwnd for c in server.connections() if c.remote_port == port)
    if found != segments:
        raise PliantError(
            f"a connection made after applying has a window of {found} segments, not {segments}"
        )


def apply_with_command(directory: Path, places: Places, text: str) -> float:
    """Run ``pliant apply`` on a file; the milliseconds it took, as a whole process."""
    file = directory / "policy.yaml"
    file.write_text(text)
    where = ("--state", str(places.state), "--pins", str(places.pins))
    return elapsed_ms(*where, "apply", "-f", str(file))


def many_at_once(options: Options, services: Sequence[str]) -> Iterator[Sample]:
    """Yield the time to apply a hundred policies to a host that has none, loading the programs included."""
    count = options.scaled(HUNDRED)
    policies = load_policies(policies_text(count, services), "bench", catalogue())
    with Host(private_places("apply-100")) as host:
        try:
            for number in range(options.runs):
                options.progress(f"{count} policies at once, run {number + 1} of {options.runs}")
                started = time.perf_counter()
                apply(host, policies)
                yield Sample(f"apply_{count}_ms", "ms", (time.perf_counter() - started) * 1000)
                clear(host)
        finally:
            clear(host)


def thousands(options: Options, lab_host: LabHost, services: Sequence[str]) -> Iterator[Sample]:
    """Yield what a process of its own reports of applying thousands of policies from a file, then of changing one."""
    count = options.scaled(THOUSANDS)
    file = lab_host.directory / "policies.yaml"
    file.write_text(policies_text(count, services))
    change = lab_host.directory / "change.yaml"
    change.write_text(policy_text(count // 2, services, variant=1))
    runs = min(options.runs, THOUSANDS_RUNS)
    for number in range(runs):
        options.progress(f"{count:,} policies, run {number + 1} of {runs}")
        places = private_places(f"apply-{count}-{number}")
        try:
            taken = in_own_process(places, file, change)
        finally:
            with Host(places) as host:
                clear(host)
        yield Sample(f"apply_{count}_s", "s", taken["total_s"])
        yield Sample(f"apply_{count}_rss_mb", "MB", taken["peak_bytes"] / 1e6)
        for phase in ("cpu", "start", "read", "plan", "carry_out"):
            yield Sample(f"apply_{count}_{phase}_s", "s", taken[f"{phase}_s"])
        yield Sample(f"apply_1_of_{count}_ms", "ms", taken["change_s"] * 1000)


def in_own_process(places: Places, file: Path, change: Path) -> dict[str, float]:
    """Apply a file in a new process, then another one in the same process; what it reports."""
    argv = [sys.executable, "-m", "pliant.bench.apply_process"]
    argv += [str(places.state), str(places.pins), str(file), str(change)]
    environment = os.environ | {"PLIANT_BENCH_STARTED": repr(time.monotonic())}
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        raise PliantError(f"applying {file.name} failed: {done.stderr.strip()}")
    report: dict[str, float] = json.loads(done.stdout)
    return report


BENCH = Bench(
    name="apply",
    summary="From the call to the kernel enforcing: one policy, 100, and 10,000 with their memory.",
    run=run,
    runs=10,
)
