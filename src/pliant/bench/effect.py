# SPDX-License-Identifier: Apache-2.0
"""Whether what is said of effects is true: simulated arms that are alike, and effects of known size planted in them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from pliant.bench.bench import Bench, Options, Sample
from pliant.observe.effects import Effect
from pliant.observe.lift import Comparison, Verdict, compare

if TYPE_CHECKING:
    import numpy as np

    from pliant.lab.arms import Traffic

REPETITIONS = 200  # a run
TREATED, HELD_OUT = 19_000, 1_000
SLOWNESS = 0.9
GUARD_REPETITIONS = 40
GUARDED_CONNECTIONS = 12_000  # held out; past one epoch of the guard
SAID_NOTHING = (Verdict.NO_DIFFERENCE, Verdict.NOT_ENOUGH_DATA)


def run(options: Options) -> Iterator[Sample]:
    """Yield the rates at which statements were wrong; a run repeats each experiment 200 times (the guard's 40)."""
    import numpy as np

    from pliant.lab.arms import Traffic

    for number in range(options.runs):
        random = np.random.default_rng([number, 20])
        yield from _alike(random, Traffic(), options.scaled(REPETITIONS))
        yield from _planted(random, Traffic(), options.scaled(REPETITIONS))
        yield from _guarded(random, Traffic(), options.scaled(GUARD_REPETITIONS))
        options.progress(f"run {number + 1} of {options.runs}")


def _compared(random: np.random.Generator, treated: Traffic, alike: Traffic) -> tuple[Comparison, ...]:
    from pliant.lab.arms import arm

    return compare(Effect(arm(random, TREATED, treated), arm(random, HELD_OUT, alike)))


def _alike(random: np.random.Generator, alike: Traffic, tries: int) -> Iterator[Sample]:
    found = [_compared(random, alike, alike) for _ in range(tries)]
    first = sum(comparisons[0].verdict not in SAID_NOTHING for comparisons in found)
    others = sum(any(c.verdict not in SAID_NOTHING for c in comparisons[1:]) for comparisons in found)
    yield Sample("aa_first_false_alarm_ratio", "ratio", first / tries)
    yield Sample("aa_others_false_alarm_ratio", "ratio", others / tries)


def _planted(random: np.random.Generator, alike: Traffic, tries: int) -> Iterator[Sample]:
    """Completion times are a tenth shorter."""
    first = [_compared(random, replace(alike, slowness=SLOWNESS), alike)[0] for _ in range(tries)]
    limits = [comparison.effect for comparison in first if comparison.effect]
    missed = sum(not one.low <= SLOWNESS - 1 <= one.high for one in limits)
    yield Sample("planted_missed_ratio", "ratio", missed / len(limits))
    yield Sample("planted_seen_ratio", "ratio", sum(c.verdict is Verdict.BETTER for c in first) / len(first))


def _guarded(random: np.random.Generator, alike: Traffic, tries: int) -> Iterator[Sample]:
    """Completion times are as much longer as the guard allows (mistakes), and half as long again (harm)."""
    at_limit = replace(alike, slowness=1.1)
    mistakes = sum(_taken_off(random, at_limit, alike) is not None for _ in range(tries))
    yield Sample("guard_false_alarm_ratio", "ratio", mistakes / tries)
    for held_out in _found(_taken_off(random, replace(alike, slowness=1.5), alike) for _ in range(tries)):
        yield Sample("guard_harm_held_out_connections", "connections", held_out)


def _found(numbers: Iterable[int | None]) -> Iterator[int]:
    return (number for number in numbers if number is not None)


def _taken_off(random: np.random.Generator, treated: Traffic, alike: Traffic) -> int | None:
    """How many connections had been held out when the guard took the policy off, if it did."""
    from pliant.agent.guard import Watch
    from pliant.lab.arms import arm
    from pliant.policy.guard import Guard

    limits = Guard(completionTime="10%")
    reading, watch, held_out = Effect(), Watch(), 0
    while held_out < GUARDED_CONNECTIONS:
        step = max(20, held_out // 8)
        held_out += step
        reading = reading.merged(Effect(arm(random, 2 * step, treated), arm(random, step, alike)))
        watch, breach = watch.look(limits, reading)
        if breach:
            return held_out
    return None


BENCH = Bench(
    name="effect",
    summary="How often what is said of effects is wrong: arms that are alike, planted effects, guards.",
    run=run,
    runs=5,
    needs_root=False,
)
