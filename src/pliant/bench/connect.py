# SPDX-License-Identifier: Apache-2.0
"""What policies cost a service that makes many connections: nginx, a new connection for every request of one byte.

With and without a policy take turns under one load that never stops; only the policy comes and goes, so nothing else
differs. The policy sets every option there is to what the connection would have had anyway, as far as there is such a
value. What cannot be had without effect: a pacing rate turns TCP's pacing on where the congestion control has not
done so (BBR has); it is set so high that it never holds anything back.

``scope_ns`` and so on are what the kernel says each program ran for, per connection and over all the callbacks it
was called for; ``program_runs`` is how many calls that is. They include reading the clock, 20 to 60 ns a call, and
leave out what it takes to get to the program and to free the socket's storage; ``connect_ratio`` is the whole truth,
and is measured while the kernel does not count.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator

from pliant.agent.host import Host
from pliant.bench.bench import Bench, Options, Sample
from pliant.bench.load import Load
from pliant.bench.place import apply, clear, policy, private_places, service_path
from pliant.errors import PliantError
from pliant.features import features
from pliant.kernel.maps import Map
from pliant.kernel.programs import Program, RunTime
from pliant.kernel.run_time import run_time_statistics
from pliant.lab import Host as LabHost
from pliant.lab import Lab, Nginx
from pliant.observe.tables import Table
from pliant.policy.desired import SCOPE
from pliant.policy.model import Policy

TUNED, OTHER = "tuned.service", "other.service"
OTHER_PORT = 8080
WARM_UP_S = 1.0
SETTLE_S = 0.2  # after the policy came or went
WINDOW_S = 2.0
COUNTED_S = 1.0

# What a connection has anyway, or what does not matter to one that carries a single byte.
NEUTRAL: dict[str, object] = {
    "initial_cwnd": 10,
    "pacing_rate": "34Gbit",
    "min_rto": "200ms",
    "receive_window_max": "256KiB",
    "dscp": 0,
}


def run(options: Options) -> Iterator[Sample]:
    """Yield costs for a service with a policy, and for one without beside it."""
    places = private_places("connect")
    with Lab("bench-connect") as lab, Host(places) as host:
        lab_host = lab.host("server")
        with (
            Nginx(lab_host, files={"byte": 1}, service=TUNED),
            Nginx(lab_host, files={"byte": 1}, service=OTHER, listen=(OTHER_PORT,)),
        ):
            tuning = everything(lab_host)
            with contextlib.ExitStack() as undo:
                undo.callback(clear, host)
                yield from unmatched(options, lab_host, host, tuning)
                with Load(lab_host, "http://127.0.0.1/byte", server=TUNED) as load:
                    time.sleep(WARM_UP_S * options.scale)
                    yield from ratios(options, load, host, tuning)
                    yield from costs(options, host, tuning)


def everything(lab_host: LabHost) -> Policy:
    """A policy that sets every option, and changes nothing."""
    in_force = lab_host.sysctl("net.ipv4.tcp_congestion_control")
    values = {"congestion_control": in_force} | NEUTRAL
    tune = {name: values.get(name, feature.option.example) for name, feature in features().items()}
    return policy("bench-connect", service_path(lab_host, TUNED), tune)


def ratios(options: Options, load: Load, host: Host, tuning: Policy) -> Iterator[Sample]:
    """Yield rates with and without, in pairs whose order changes every time."""
    window_s = WINDOW_S * options.scale
    for number in range(options.runs):
        rates = {}
        for treated in (True, False) if number % 2 else (False, True):
            if treated:
                apply(host, [tuning])
            else:
                clear(host)
            time.sleep(SETTLE_S * options.scale)
            rates[treated] = load.rate(window_s)
        ratio = rates[True] / rates[False]
        options.progress(f"alternation {number + 1} of {options.runs}: ratio {ratio:.4f}")
        yield Sample("connect_ratio", "ratio", ratio)
        yield Sample("connections_with_per_s", "per processor second", rates[True])
        yield Sample("connections_without_per_s", "per processor second", rates[False])


def costs(options: Options, host: Host, tuning: Policy) -> Iterator[Sample]:
    """Yield what each program runs for, per connection."""
    options.progress("counting nanoseconds of each program")
    apply(host, [tuning])
    with Counters(host) as counters, run_time_statistics():
        for _ in range(options.runs):
            before, judged = counters.run_times(), counters.judged()
            time.sleep(COUNTED_S * options.scale)
            after, judged = counters.run_times(), counters.judged() - judged
            if not judged:
                raise PliantError("no connection was judged while the policy was in force")
            spent = {name: after[name].nanoseconds - before[name].nanoseconds for name in after}
            for name, nanoseconds in spent.items():
                yield Sample(f"{name}_ns", "ns per connection", nanoseconds / judged)
            yield Sample("total_ns", "ns per connection", sum(spent.values()) / judged)
            calls = sum(after[name].runs - before[name].runs for name in after)
            yield Sample("program_runs", "runs per connection", calls / judged)


def unmatched(options: Options, lab_host: LabHost, host: Host, tuning: Policy) -> Iterable[Sample]:
    """Yield how often our programs ran for a service without a policy: nothing else has traffic meanwhile."""
    options.progress("a service without a policy, beside one with")
    apply(host, [tuning])
    with Counters(host) as counters, run_time_statistics():
        before = counters.run_times()
        with Load(lab_host, f"http://127.0.0.1:{OTHER_PORT}/byte", server=OTHER) as load:
            load.rate(COUNTED_S * options.scale)
        after = counters.run_times()
    yield Sample("unmatched_runs", "runs", sum(after[name].runs - before[name].runs for name in after))


class Counters:
    """The run times of our programs in the kernel, and how many connections were judged."""

    def __init__(self, host: Host) -> None:
        with contextlib.ExitStack() as stack:
            builds = sorted(host.observe().builds.items(), key=lambda item: (item[0] != SCOPE, item))
            self._programs = {
                name: stack.enter_context(Program.pinned(host.pins.program(name, build)))
                for name, build in builds
            }
            self._outcomes = stack.enter_context(Map.pinned(host.pins.map(Table(SCOPE, "scope_outcomes"))))
            self._opened = stack.pop_all()

    def __enter__(self) -> Counters:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def run_times(self) -> dict[str, RunTime]:
        """The run time of each program so far."""
        return {name: program.run_time() for name, program in self._programs.items()}

    def judged(self) -> int:
        """Connections judged so far, whatever the outcome."""
        values = (value for _, value in self._outcomes.items())
        return sum(int.from_bytes(one, "little") for value in values for one in self._outcomes.percpu(value))


BENCH = Bench(
    name="connect",
    summary="Connections a second through nginx with all features attached, against none; ns of each program.",
    run=run,
    runs=10,
)
