# SPDX-License-Identifier: Apache-2.0
"""What policies cost a service that makes many connections: nginx, a new connection for every request of one byte.

With and without a policy take turns under one load that never stops; only the policy comes and goes, so nothing else
differs. The policy sets six options (``connect_all_ratio``: every option there is) to what the connection would have
had anyway, as far as there is such a value. What cannot be had without effect: a pacing rate turns TCP's pacing on
where the congestion control has not done so (BBR has); it is set so high that it never holds anything back. Keepalive
starts a timer.

Only scope is attached; the kernel charges it with all that runs behind it, for the features are tail-called and have
no run-time statistics of their own. So they are told apart by what is missing without them, in neighbouring windows of
time under the same load:

- ``total_ns``: scope with all features behind it, per connection, over all the callbacks it was called for
  (``program_runs`` of them).
- ``<feature>_ns``: how much less that is with a policy that sets all other options. Besides the feature's program
  it has the call to it, and what scope does for one option more.
- ``scope_ns``: the same policy with all options, but with the slots emptied through which scope calls the features:
  everything scope does, its attempts to call included.

Each is measured directly, so ``scope_ns`` and the rest need not add up to ``total_ns``. All include reading the clock
(20 to 60 ns for each run of scope; a difference has none of it), and leave out what it takes to get to scope.
``connect_ratio`` is the whole truth, and is measured while the kernel does not count.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pliant.agent.host import Host
from pliant.bench.bench import Bench, Options, Sample
from pliant.bench.load import Load
from pliant.bench.place import apply, clear, policy, private_places, service_path
from pliant.errors import PliantError
from pliant.features import features
from pliant.features.feature import Feature, Reach
from pliant.kernel.maps import Map
from pliant.kernel.programs import Program, RunTime
from pliant.kernel.run_time import run_time_statistics
from pliant.lab import Host as LabHost
from pliant.lab import Lab, Nginx
from pliant.observe.reader import FEATURES
from pliant.observe.tables import Table
from pliant.policy.desired import SCOPE
from pliant.policy.model import Policy

TUNED, OTHER = "tuned.service", "other.service"
OTHER_PORT = 8080
WARM_UP_S = 1.0
SETTLE_S = 0.2  # after the policy came or went
WINDOW_S = 2.0
COUNTED_S = 0.4
UNMATCHED_S = 1.0
CHANGE_S = 0.3  # what a change of policy is allowed to take, on the average
SPARE_S = 60.0  # for the warm-up, and where changes take longer after all
MOST_SILENCE_S = 10.0  # a busy machine may have no time for the load in a short window
MOST_S = 900.0  # no load runs for longer

# What a connection has anyway, or what does not matter to one that carries a single byte.
NEUTRAL: dict[str, object] = {
    "cwnd_clamp": 1_000_000,
    "delayed_ack_max": "200ms",
    "dscp": 0,
    "ecn": True,
    "flow_rehash": 1,
    "initial_cwnd": 10,
    "initial_rwnd": 45,
    "keepalive": "32767s",
    "max_rto": "120s",
    "min_rto": "200ms",
    "mss": 32767,
    "notsent_lowat": "1GiB",
    "pacing_rate": "34Gbit",
    "receive_window_max": "256KiB",
    "send_buffer": "256KiB",
    "shared_window": 10,
    "syn_timeout": "1s",
    "user_timeout": "1440m",
}


SIX = ("initial_cwnd", "congestion_control", "pacing_rate", "receive_window_max", "min_rto", "dscp")
"""What a policy of many options sets; `pliant bench overhead` has every option by itself."""


def run(options: Options) -> Iterator[Sample]:
    """Yield costs for a service with a policy, and for one without beside it."""
    most_s = longest_s(options)
    places = private_places("connect")
    with Lab("bench-connect") as lab, Host(places) as host:
        lab_host = lab.host("server")
        with (
            Nginx(lab_host, files={"byte": 1}, service=TUNED),
            Nginx(lab_host, files={"byte": 1}, service=OTHER, listen=(OTHER_PORT,)),
        ):
            tuning, everything = setting(lab_host, SIX), setting(lab_host, per_connection())
            with contextlib.ExitStack() as undo:
                undo.callback(clear, host)
                yield from unmatched(options, lab_host, host, tuning)
                with Load(lab_host, "http://127.0.0.1/byte", server=TUNED, most_s=most_s) as load:
                    time.sleep(WARM_UP_S * options.scale)
                    yield from ratios(options, load, host, tuning, "connect_ratio")
                    yield from ratios(options, load, host, everything, "connect_all_ratio")
                    yield from costs(options, load, lab_host, host)


def longest_s(options: Options) -> float:
    """The time that the load may be needed for; raise PliantError when that is longer than a load may run."""
    windows = 2 * (len(SIX) + 1)  # in pairs: for each feature, and for scope by itself
    fixed = 4 * (SETTLE_S + WINDOW_S) + windows * (SETTLE_S + COUNTED_S)
    run_s = fixed * options.scale + (4 + windows) * CHANGE_S
    if options.runs * run_s + SPARE_S > MOST_S:
        raise PliantError(
            f"{options.runs} runs may take longer than {MOST_S / 60:g} minutes, which is the most the load runs",
            remedy=f"ask for at most {int((MOST_S - SPARE_S) / run_s)}",
        )
    return options.runs * run_s + SPARE_S


def per_connection() -> dict[str, Feature]:
    """The features that act on a connection by itself; those that all connections share run for packets."""
    return {name: feature for name, feature in features().items() if feature.reach is not Reach.LIVE_ONLY}


def setting(lab_host: LabHost, names: Iterable[str], *, without: str | None = None) -> Policy:
    """A policy that sets these options (but one, if so asked), and changes nothing."""
    in_force = lab_host.sysctl("net.ipv4.tcp_congestion_control")
    values = {"congestion_control": in_force} | NEUTRAL
    tune = {name: values.get(name, features()[name].option.example) for name in names if name != without}
    return policy("bench-connect", service_path(lab_host, TUNED), tune)


def ratios(options: Options, load: Load, host: Host, tuning: Policy, metric: str) -> Iterator[Sample]:
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
        yield Sample(metric, "ratio", ratio)
        if metric == "connect_ratio":
            yield Sample("connections_with_per_s", "per processor second", rates[True])
            yield Sample("connections_without_per_s", "per processor second", rates[False])


def costs(options: Options, load: Load, lab_host: LabHost, host: Host) -> Iterator[Sample]:
    """Yield what scope runs for, per connection: with all features, without each of them, and without any."""
    complete = setting(lab_host, SIX)
    others = {name: setting(lab_host, SIX, without=name) for name in SIX}
    apply(host, [complete])  # brings scope
    with Counters(host) as counters, run_time_statistics():

        def window() -> Cost:
            time.sleep(SETTLE_S * options.scale)
            return counters.cost(load, COUNTED_S * options.scale)

        for number in range(options.runs):
            options.progress(f"counting nanoseconds of each program, {number + 1} of {options.runs}")
            apply(host, [complete])
            with nothing_called(host):
                yield Sample("scope_ns", "ns per connection", window().ns)
            whole = []
            for name, other in others.items():
                spent = {}
                for is_complete in (True, False) if number % 2 else (False, True):
                    apply(host, [complete if is_complete else other])
                    spent[is_complete] = window()
                yield Sample(f"{name}_ns", "ns per connection", spent[True].ns - spent[False].ns)
                whole.append(spent[True])
            for cost in whole:
                yield Sample("total_ns", "ns per connection", cost.ns)
                yield Sample("program_runs", "runs per connection", cost.runs)


@contextlib.contextmanager
def nothing_called(host: Host) -> Iterator[None]:
    """Have scope find no feature to call, for the block."""
    with Map.pinned(host.pins.map(FEATURES)) as slots, contextlib.ExitStack() as stack:
        programs = {
            slot: stack.enter_context(Program.by_id(int.from_bytes(number, sys.byteorder)))
            for slot, number in list(slots.items())
        }
        try:
            for slot in programs:
                slots.delete(slot)
            yield
        finally:
            for slot, program in programs.items():
                slots.put(slot, program.fileno().to_bytes(4, sys.byteorder))


def unmatched(options: Options, lab_host: LabHost, host: Host, tuning: Policy) -> Iterable[Sample]:
    """Yield how often scope ran for a service without a policy: nothing else has traffic meanwhile."""
    options.progress("a service without a policy, beside one with")
    apply(host, [tuning])
    with Counters(host) as counters, run_time_statistics():
        before = counters.run_time().runs
        url = f"http://127.0.0.1:{OTHER_PORT}/byte"
        with Load(lab_host, url, server=OTHER, most_s=UNMATCHED_S + SPARE_S) as load:
            load.rate(UNMATCHED_S * options.scale)
        yield Sample("unmatched_runs", "runs", counters.run_time().runs - before)


class Cost(NamedTuple):
    """What scope, and all that it called, took for one connection."""

    ns: float
    runs: float


class Counters:
    """Scope's run time in the kernel, and how many connections it has judged."""

    def __init__(self, host: Host) -> None:
        with contextlib.ExitStack() as stack:
            scope = host.pins.program(SCOPE, host.observe().builds[SCOPE])
            self._scope = stack.enter_context(Program.pinned(scope))
            self._outcomes = stack.enter_context(Map.pinned(host.pins.map(Table(SCOPE, "scope_outcomes"))))
            self._opened = stack.pop_all()

    def __enter__(self) -> Counters:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def run_time(self) -> RunTime:
        """The run time so far, of scope and what it called."""
        return self._scope.run_time()

    def judged(self) -> int:
        """Connections judged so far, whatever the outcome."""
        values = (value for _, value in self._outcomes.items())
        return sum(
            int.from_bytes(one, sys.byteorder) for value in values for one in self._outcomes.percpu(value)
        )

    def cost(self, load: Load, window_s: float) -> Cost:
        """The cost of one connection, over a window of the clock in seconds, in which there must be one."""
        before, first = self.run_time(), self.judged()
        deadline = time.monotonic() + window_s + MOST_SILENCE_S
        judged = 0
        while not judged:
            if time.monotonic() > deadline:
                raise PliantError("no connection was judged while the policy was in force")
            time.sleep(window_s)
            after, judged = self.run_time(), self.judged() - first
            load.check()
        return Cost((after.nanoseconds - before.nanoseconds) / judged, (after.runs - before.runs) / judged)


BENCH = Bench(
    name="connect",
    summary="Connections a second through nginx with all features in force, against none; ns of each program.",
    run=run,
    runs=10,
)
