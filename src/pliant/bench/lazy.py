# SPDX-License-Identifier: Apache-2.0
"""What attaching only where a policy asks for it saves: a host with 50 services, of which 3 have policies.

The same connections, one after the other, so many to each service, once with our program on the three services (as it
always is) and once with it on the root of the host, in the same tables and under the same policies. What is compared is
the time that the kernel counts for our programs, all that they call included; what runs nowhere costs nothing.

- ``lazy_cpu_saved_ratio``: the share of that time which is saved.
- ``lazy_ns``, ``always_ns``: per connection, of all services. ``lazy_runs``, ``always_runs``: runs of the program.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pliant.agent.host import Host
from pliant.bench.bench import Bench, Options, Sample
from pliant.bench.place import apply, clear, policy, private_places
from pliant.errors import PliantError
from pliant.kernel.links import AttachType, Link, attach_cgroup
from pliant.kernel.programs import Program
from pliant.kernel.run_time import run_time_statistics
from pliant.lab import Host as LabHost
from pliant.lab import Lab, Process
from pliant.policy.desired import SCOPE

SERVICES, WITH_POLICIES, CONNECTIONS = 50, 3, 10_000


class Cost(NamedTuple):
    """What our programs took, per connection."""

    ns: float
    runs: float


def run(options: Options) -> Iterator[Sample]:
    """Yield costs in pairs whose order changes every time."""
    with Lab("bench-lazy") as lab:
        server, client = lab.host("server"), lab.host("client")
        names = [f"s{number:02}.service" for number in range(SERVICES)]
        cgroups = [server.service(name) for name in names]
        places = private_places("lazy", cgroup_root=server.cgroup)
        tune = {"initial_cwnd": 40, "pacing_rate": "34Gbit", "min_rto": "100ms"}
        with Host(places) as host:
            apply(
                host,
                [policy(f"lazy-{number}", name, tune) for number, name in enumerate(names[:WITH_POLICIES])],
            )
            try:
                with Load(server, [*cgroups, client.service("load.service")]) as load:
                    yield from _pairs(options, host, server.cgroup, load)
            finally:
                clear(host)


def _pairs(options: Options, host: Host, root: Path, load: Load) -> Iterator[Sample]:
    count = SERVICES * options.scaled(CONNECTIONS // SERVICES)
    with scope(host) as program, run_time_statistics():
        load.connect(SERVICES)  # for nothing: caches
        for number in range(options.runs):
            costs = {}
            for lazy in (True, False) if number % 2 else (False, True):
                with contextlib.nullcontext() if lazy else at_the_root(host, program, root):
                    costs[lazy] = _cost(program, load, count)
            saved = 1 - costs[True].ns / costs[False].ns
            options.progress(f"pair {number + 1} of {options.runs}: {saved:.1%} saved")
            yield Sample("lazy_cpu_saved_ratio", "ratio", saved)
            for name, cost in (("lazy", costs[True]), ("always", costs[False])):
                yield Sample(f"{name}_ns", "ns per connection", cost.ns)
                yield Sample(f"{name}_runs", "runs per connection", cost.runs)


def _cost(program: Program, load: Load, count: int) -> Cost:
    before = program.run_time()
    load.connect(count)
    after = program.run_time()
    return Cost((after.nanoseconds - before.nanoseconds) / count, (after.runs - before.runs) / count)


def scope(host: Host) -> Program:
    """The program that is attached."""
    return Program.pinned(host.pins.program(SCOPE, host.observe().builds[SCOPE]))


@contextlib.contextmanager
def at_the_root(host: Host, program: Program, root: Path) -> Iterator[None]:
    """Have the program on the root of the host instead of on its services."""
    with contextlib.ExitStack() as stack:
        for hook in host.pins.attached():
            with Link.pinned(host.pins.link(hook)) as link:
                link.detach()
        with attach_cgroup(program, root, AttachType.CGROUP_SOCK_OPS) as link:
            stack.callback(_repair, host)
            yield
            link.detach()


def _repair(host: Host) -> None:
    with host.exclusively():
        host.carry_out(host.change_to_repair(), actor="bench")


class Load:
    """One process that is all services and their client; see :mod:`pliant.bench.many_services`."""

    def __init__(self, server: LabHost, cgroups: list[Path]) -> None:
        self._server = server
        self._cgroups = cgroups
        self._process: Process | None = None

    def __enter__(self) -> Load:
        argv = [sys.executable, "-m", "pliant.bench.many_services", *map(str, self._cgroups)]
        self._process = self._server.spawn(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._expect(b"ready\n")
        return self

    def __exit__(self, *_: object) -> None:
        if self._process:
            self._process.stop()

    def connect(self, count: int) -> None:
        """Make so many connections, and wait until they are closed."""
        assert self._process is not None
        stdin = self._process.popen.stdin
        assert stdin is not None
        stdin.write(b"%d\n" % count)
        stdin.flush()
        self._expect(b"done\n")

    def _expect(self, line: bytes) -> None:
        assert self._process is not None
        stdout = self._process.popen.stdout
        assert stdout is not None
        if stdout.readline() != line:
            raise PliantError(f"the load ended: {self._process.output.strip()}")


BENCH = Bench(
    name="lazy",
    summary="Time in our programs on a host with 50 services of which 3 have policies, against all having them.",
    run=run,
    runs=10,
)
