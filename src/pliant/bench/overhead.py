# SPDX-License-Identifier: Apache-2.0
"""What each feature costs a connection, and each of its round trips and packets, in the kernel's run-time statistics.

**Per connection.** nginx and wrk as in ``connect``; the policy is for one of the two. Scope is charged with the
features it calls, so a feature is what scope runs for with a policy that sets only that option, less what it runs for
when it has a plain option to decide and finds no feature to call (``scope_<role>_ns``), in neighbouring windows. So a
feature has its program, what the kernel does at its word, and whatever scope does because of it: callbacks that it asks
for, a verdict that must be kept. The round trips of the one request are in it. Options are set to what connections do
not have anyway. ``measuring_<role>_ns`` is likewise what a holdout adds, of which effects are measured.

**Per round trip.** A connection exchanges single bytes with an echo; the policy is for the echo. Everything that scope
runs for then is the feature's, and ``<feature>_round_trip_runs`` says how often it ran: never, for most.

Pliant's congestion controls run for acknowledgements and for packets that come in, as all of TCP does: of each, the
time that its functions take at one end in one of these round trips, while both ends run it.

**Per packet.** For features with a program on the packets' path: that program's own time for each packet it sees, which
may be one that is cut up later, while the echo sends many of full size.

All include reading the clock, some 20 ns a run; differences have that only of runs that are more.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext, suppress
from typing import Any, NamedTuple

from pliant.agent.host import Host
from pliant.bench.bench import Bench, Options, Sample
from pliant.bench.connect import Cost, Counters, nothing_called
from pliant.bench.load import Load
from pliant.bench.place import apply, clear, private_places, service_path
from pliant.errors import PliantError
from pliant.features import catalogue, features
from pliant.features.controls import OPTION, shipped_controls
from pliant.features.feature import Reach
from pliant.kernel.errors import KernelError
from pliant.kernel.programs import Program, ProgramType, RunTime, program_ids
from pliant.kernel.run_time import run_time_statistics
from pliant.lab import Host as LabHost
from pliant.lab import Lab, Nginx, TcpClient, TcpServer
from pliant.policy.documents import policy_from_document
from pliant.policy.model import Policy

SERVER, CLIENT, ECHO = "nginx.service", "load.service", "echo.service"
SERVICES = {"server": SERVER, "client": CLIENT}
URL = "http://127.0.0.1/byte"
ECHO_PORT = 7
MEASURING = "measuring"  # no feature: a policy that holds connections out, and measures all
REFERENCE = "notsent_lowat"  # an option that asks scope for nothing but its decision
OTHER_CONTROL = "reno"
PACKETS_BYTES = 1 << 20
SETTLE_S = 0.1  # after a policy came
PARTS, PART_S = 5, 0.05  # of a window, so that a moment in which something else ran does not count
MOST_S = 600.0  # no load runs for longer
ROUND_TRIPS, FIRST_ROUND_TRIPS = 1000, 20


class Case(NamedTuple):
    """One feature, at one end of connections, for new ones only or with what it takes to restore them (``live``)."""

    feature: str
    role: str
    is_live: bool = False

    @property
    def metric(self) -> str:
        """The name of what it costs a connection."""
        return f"{self.feature}_{self.role}{'_live' if self.is_live else ''}_ns"


def cases(name: str, role: str) -> list[Case]:
    """The ways in which a feature can be asked for at one end."""
    if name == MEASURING:
        return [Case(name, role)]
    ways = {Reach.NEW_ONLY: (False,), Reach.LIVE: (False, True)}.get(features()[name].reach, (True,))
    return [Case(name, role, is_live) for is_live in ways]


def run(options: Options) -> Iterator[Sample]:
    """Yield what each feature costs a connection, then what it costs a round trip and a packet."""
    with Lab("bench-overhead") as lab, Host(private_places("overhead")) as host, ExitStack() as stack:
        lab_host = lab.host("server")
        stack.enter_context(Nginx(lab_host, files={"byte": 1}, service=SERVER))
        stack.callback(clear, host)
        apply(host, [tuned(lab_host, Case(REFERENCE, "server"), SERVER)])  # brings scope
        stack.enter_context(run_time_statistics())
        counters = stack.enter_context(Counters(host))
        for number in range(options.runs):
            for role in SERVICES:
                options.progress(f"connections, {role}s, {number + 1} of {options.runs}")
                with Load(lab_host, URL, server=SERVER, client=CLIENT, most_s=MOST_S) as load:
                    measure = Window(options, load, lab_host, host, counters)
                    yield from per_connection(measure, role, backwards=bool(number % 2))
        with TcpServer(lab_host, [f"127.0.0.1:{ECHO_PORT}"], service=ECHO) as server:
            yield from later(options, server, lab_host, host, counters)
            yield from controls(options, server, lab_host, host)


def setting(lab_host: LabHost, name: str) -> Any:
    """A value that is not what a connection has anyway."""
    if name == "congestion_control" and lab_host.sysctl("net.ipv4.tcp_congestion_control") != OTHER_CONTROL:
        return OTHER_CONTROL
    return features()[name].option.example


def tuned(
    lab_host: LabHost, case: Case, service: str, *, value: Any = None, name: str = "bench-overhead"
) -> Policy:
    """The policy of a case, with this or the usual value; those of one name take each other's place."""
    option = REFERENCE if case.feature == MEASURING else case.feature
    spec = {
        "match": {"service": service_path(lab_host, service), "role": case.role},
        "tune": {option: setting(lab_host, option) if value is None else value},
        "applyTo": "live" if case.is_live else "new",
        "holdout": "1%" if case.feature == MEASURING else "0%",
    }
    document = {
        "apiVersion": "pliant/v1",
        "kind": "TransportPolicy",
        "metadata": {"name": name},
        "spec": spec,
    }
    return policy_from_document(document, "benchmark policy", catalogue())


class Window(NamedTuple):
    """What it takes to measure a case under load."""

    options: Options
    load: Load
    lab_host: LabHost
    host: Host
    counters: Counters

    def cost(self, role: str, case: Case | None) -> Cost:
        """What scope runs for in a connection of the case; None: all that it does without a feature."""
        apply(self.host, [tuned(self.lab_host, case or Case(REFERENCE, role), SERVICES[role])])
        is_called = case is not None and case.feature != MEASURING
        with nullcontext() if is_called else nothing_called(self.host):
            time.sleep(SETTLE_S * self.options.scale)
            parts = [self.counters.cost(self.load, PART_S * self.options.scale) for _ in range(PARTS)]
        return sorted(parts)[PARTS // 2]  # the median of the times


def per_connection(window: Window, role: str, *, backwards: bool) -> Iterator[Sample]:
    """Yield what scope costs a connection, and what each feature adds to it."""
    unit = "ns per connection"
    for name in (*features(), MEASURING):
        costs: dict[Case | None, Cost] = {}
        wanted: list[Case | None] = [None, *cases(name, role)]
        for case in reversed(wanted) if backwards else wanted:
            costs[case] = window.cost(role, case)
        scope = costs.pop(None)
        yield Sample(f"scope_{role}_ns", unit, scope.ns)
        yield Sample(f"scope_{role}_runs", "runs per connection", scope.runs)
        yield from (Sample(case.metric, unit, cost.ns - scope.ns) for case, cost in costs.items() if case)


def later(
    options: Options, server: TcpServer, lab_host: LabHost, host: Host, counters: Counters
) -> Iterator[Sample]:
    """Yield what each feature costs while a connection is open: each round trip and, where it is about them, packet."""
    times = options.scaled(ROUND_TRIPS)
    for number in range(options.runs):
        options.progress(f"round trips, {number + 1} of {options.runs}")
        for name, feature in features().items():
            case = cases(name, "server")[0]
            apply(host, [tuned(lab_host, case, ECHO)])
            with TcpClient(lab_host, service=CLIENT) as client:
                judged = counters.judged()
                client.connect("127.0.0.1", server.port)
                client.exchange(1, FIRST_ROUND_TRIPS)
                if counters.judged() == judged:
                    raise PliantError(f"the policy that sets {name} has not seen the connection")
                before = counters.run_time()
                client.exchange(1, times)
                after = counters.run_time()
                ns, runs = after.nanoseconds - before.nanoseconds, after.runs - before.runs
                yield Sample(f"{name}_round_trip_ns", "ns per round trip", ns / times)
                yield Sample(f"{name}_round_trip_runs", "runs per round trip", runs / times)
                if feature.hook:
                    yield packets(host, name, client, options)


def controls(options: Options, server: TcpServer, lab_host: LabHost, host: Host) -> Iterator[Sample]:
    """Yield what each congestion control of ours takes in a round trip, at one end."""
    clear(host)
    times = options.scaled(ROUND_TRIPS)
    for number in range(options.runs):
        options.progress(f"congestion controls, {number + 1} of {options.runs}")
        for name in shipped_controls():
            ends = {"server": ECHO, "client": CLIENT}
            apply(
                host,
                [
                    tuned(lab_host, Case(OPTION, role), service, value=name, name=f"bench-overhead-{role}")
                    for role, service in ends.items()
                ],
            )
            with ExitStack() as stack:
                programs = [stack.enter_context(program) for program in programs_of(name)]
                client = stack.enter_context(TcpClient(lab_host, service=CLIENT))
                client.connect("127.0.0.1", server.port)
                client.exchange(1, FIRST_ROUND_TRIPS)
                before = total(programs)
                client.exchange(1, times)
                after = total(programs)
            if after.runs == before.runs:
                raise PliantError(f"the connection does not run {name}")
            ns, runs = after.nanoseconds - before.nanoseconds, after.runs - before.runs
            yield Sample(f"{name}_round_trip_ns", "ns per round trip", ns / times / len(ends))
            yield Sample(f"{name}_round_trip_runs", "runs per round trip", runs / times / len(ends))


def programs_of(control: str) -> Iterator[Program]:
    """The functions of a congestion control; the kernel cuts their names, which begin with its."""
    for number in list(program_ids()):
        with suppress(KernelError):  # somebody else's, and gone by now
            program = Program.by_id(number)
            if program.type is ProgramType.STRUCT_OPS and program.name.startswith(control):
                yield program
            else:
                program.close()


def total(programs: Sequence[Program]) -> RunTime:
    """The run time of several programs together."""
    each = [program.run_time() for program in programs]
    return RunTime(
        sum(one.runs for one in each),
        sum(one.nanoseconds for one in each),
        sum(one.recursion_misses for one in each),
    )


def packets(host: Host, name: str, client: TcpClient, options: Options) -> Sample:
    """What the feature's own program takes for a packet."""
    pin = host.pins.part(name, "packet", host.observe().builds[name])
    with Program.pinned(pin) as program:
        before = program.run_time()
        client.exchange(PACKETS_BYTES, options.scaled(10))
        after = program.run_time()
    if after.runs == before.runs:
        raise PliantError(f"no packet has come to {name}")
    return Sample(
        f"{name}_packet_ns",
        "ns per packet",
        (after.nanoseconds - before.nanoseconds) / (after.runs - before.runs),
    )


BENCH = Bench(
    name="overhead",
    summary="What each feature costs a connection, each of its round trips and packets, in ns of run time.",
    run=run,
    runs=5,
)
