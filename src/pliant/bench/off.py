# SPDX-License-Identifier: Apache-2.0
"""How long the off switch takes with 10,000 open connections, each of them tuned by a live policy.

What is timed is the whole command ``pliant off``, from its start to its end: Python, imports, the journal and the
audit log with their syncs, observing, planning, giving every open socket back what it had, and taking everything away.
Both ends are on this host, so that it has 20,000 sockets to restore. After each command every one of them is read back
by the processes that own them.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from pliant.agent.host import Host
from pliant.agent.places import Places
from pliant.bench.bench import Bench, Options, Sample
from pliant.bench.place import apply, clear, private_places, service_path
from pliant.bench.startup import elapsed_ms
from pliant.errors import PliantError
from pliant.features import catalogue
from pliant.lab import Host as LabHost
from pliant.lab import Lab
from pliant.lab.host import Process
from pliant.policy.documents import policy_from_document
from pliant.policy.model import Policy

CONNECTIONS = 10_000
SERVICES = ("bench-server.service", "bench-client.service")
TUNED = (125_000_000, 46)  # 1 Gbit/s, EF
Values = tuple[int, int]


def run(options: Options) -> Iterator[Sample]:
    """Yield the times of ``pliant off`` and ``pliant on``, taking turns."""
    count = options.scaled(CONNECTIONS)
    places = private_places("off")
    where = ("--state", str(places.state), "--pins", str(places.pins))
    with Lab("bench-off") as lab, Host(places) as host:
        lab_host = lab.host("host")
        with open_connections(lab_host, count) as owners:
            untuned = told(owners)
            if len(untuned) != 1:
                raise PliantError(f"connections differ before anything was done to them: {untuned}")
            try:
                apply(host, [live_policy(service_path(lab_host, name)) for name in SERVICES])
                expect(owners, {TUNED: 2 * count}, "a live policy was applied")
                for number in range(1, options.runs + 1):
                    options.progress(f"{count:,} connections, run {number} of {options.runs}")
                    yield Sample("off_ms", "ms", elapsed_ms(*where, "off", "--reason", "bench"))
                    expect(owners, untuned, "everything was switched off")
                    expect_nothing(places)
                    yield Sample("on_ms", "ms", elapsed_ms(*where, "on"))
                    expect(owners, {TUNED: 2 * count}, "everything was switched on")
                yield Sample("connections", "connections", count)
                yield Sample("sockets_restored", "sockets", sum(untuned.values()))
            finally:
                clear(host)


def live_policy(service: str) -> Policy:
    """A policy for the open connections of a service, too."""
    document = {
        "apiVersion": "pliant/v1",
        "kind": "TransportPolicy",
        "metadata": {"name": service.rpartition("/")[2].removesuffix(".service")},
        "spec": {
            "match": {"service": service},
            "tune": {"pacing_rate": "1Gbit", "dscp": "EF"},
            "applyTo": "live",
        },
    }
    return policy_from_document(document, "benchmark policy", catalogue())


@contextlib.contextmanager
def open_connections(lab_host: LabHost, count: int) -> Iterator[tuple[Process, Process]]:
    """Two processes that hold both ends of so many connections over loopback."""
    server = start(lab_host, SERVICES[0], "server", str(count))
    try:
        client = start(lab_host, SERVICES[1], "client", str(count), answer(server).strip())
        try:
            for process in (client, server):
                answer(process)
            yield server, client
        finally:
            client.stop()
    finally:
        server.stop()


def start(lab_host: LabHost, service: str, *arguments: str) -> Process:
    """Start one of the two processes in its service."""
    argv = [sys.executable, "-P", "-m", "pliant.bench.off_process", *arguments]
    return lab_host.spawn(argv, service=service, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def answer(process: Process) -> str:
    """The next line of a process. Raises PliantError when it has ended."""
    assert process.popen.stdout is not None
    line = process.popen.stdout.readline().decode()
    if not line:
        raise PliantError(f"a process with connections has ended: {process.output.strip()}")
    return line


def told(owners: tuple[Process, Process]) -> dict[Values, int]:
    """What the sockets of both processes have now, and how many have it."""
    found: dict[Values, int] = {}
    for process in owners:
        assert process.popen.stdin is not None
        process.popen.stdin.write(b"\n")
        process.popen.stdin.flush()
        values: list[Any] = json.loads(answer(process))
        for rate, dscp, number in values:
            found[rate, dscp] = found.get((rate, dscp), 0) + number
    return found


def expect(owners: tuple[Process, Process], wanted: dict[Values, int], when: str) -> None:
    """Raise PliantError unless the sockets have this."""
    found = told(owners)
    if found != wanted:
        raise PliantError(f"after {when}, sockets have {found}, not {wanted}")


def expect_nothing(places: Places) -> None:
    """Raise PliantError when anything is still pinned."""
    left = list(places.pins.rglob("*"))
    if left:
        raise PliantError(f"{len(left)} pins are left after everything was switched off, as {left[0]}")


BENCH = Bench(
    name="off",
    summary="From 'pliant off' to its end, with 10,000 open connections restored; and 'pliant on'.",
    run=run,
    runs=10,
)
