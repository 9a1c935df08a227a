# SPDX-License-Identifier: Apache-2.0
"""When a policy is said to have passed a limit: almost never by mistake, and soon where it hurts."""

from __future__ import annotations

import math
import os
from dataclasses import replace

import numpy as np
import pytest

from pliant.agent import guard as guarding
from pliant.agent.guard import EPOCH_CONNECTIONS, ERROR, FIRST_LOOK, Breach, Watch
from pliant.lab.arms import Traffic, arm
from pliant.observe.effects import Effect, Metric
from pliant.policy.guard import Guard

REPETITIONS = int(os.environ.get("PLIANT_REPETITIONS", "200"))
MANY = EPOCH_CONNECTIONS * 5 // 4 if REPETITIONS > 200 else EPOCH_CONNECTIONS * 2 // 5
ALIKE = Traffic()
HELD_OUT_SHARE = 2
LIMITS = Guard(retransmissionRatio="2pp", connectionFailures="1pp", completionTime="10%")


def watch(
    random: np.random.Generator, treated: Traffic, guard: Guard, connections: int
) -> tuple[Breach | None, int, int]:
    """Watch a policy until it is taken off or so many connections are held out; also the looks and the number then."""
    reading, state, looks, held_out = Effect(), Watch(), 0, 0
    while held_out < connections:
        step = max(20, held_out // 8)  # the agent looks again and again, whatever the guard does with it
        held_out += step
        more = Effect(arm(random, HELD_OUT_SHARE * step, treated), arm(random, step, ALIKE))
        reading = reading.merged(more)
        before = state
        state, breach = state.look(guard, reading)
        looks += state != before
        if breach:
            return breach, looks, held_out
    return None, looks, held_out


def at_the_limit() -> tuple[Traffic, Guard]:
    """A policy that does exactly as much harm as its guard allows, in every respect."""
    random = np.random.default_rng(3)
    harm = Traffic(slowness=1.1, loss=0.02, failure=0.013)
    many = (arm(random, 2_000_000, traffic)[Metric.RETRANSMISSION_RATIO].mean for traffic in (harm, ALIKE))
    ratio_ppm = next(many) - next(many)
    median = (arm(random, 2_000_000, t)[Metric.COMPLETION_TIME].quantile(0.5) for t in (harm, ALIKE))
    slower = next(median) / next(median) - 1
    return harm, Guard(
        retransmissionRatio=f"{ratio_ppm / 10_000:.3f}pp",
        connectionFailures="1pp",
        completionTime=f"{100 * slower:.2f}%",
    )


def false_alarms(treated: Traffic, guard: Guard, tries: int, connections: int) -> tuple[int, int]:
    random = np.random.default_rng(17)
    found = [watch(random, treated, guard, connections) for _ in range(tries)]
    return sum(breach is not None for breach, _, _ in found), min(looks for _, looks, _ in found)


def most_misses(probability: float, tries: int) -> float:
    return probability * tries + 3.3 * math.sqrt(probability * (1 - probability) * tries)


def test_a_policy_at_its_limits_is_taken_off_by_mistake_no_more_often_than_stated_over_many_looks() -> None:
    alarms, looks = false_alarms(*at_the_limit(), REPETITIONS, MANY)
    assert alarms <= most_misses(ERROR, REPETITIONS)
    assert looks >= 15 or alarms


def test_looking_often_without_accounting_for_it_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above would fail if every look had the error to itself and approximations were used."""
    harm, limits = at_the_limit()
    monkeypatch.setattr(guarding, "mean_at_least", lambda mean, count, error: mean - _normal(mean, count))
    monkeypatch.setattr(guarding, "mean_at_most", lambda mean, count, error: mean + _normal(mean, count))
    alarms, _ = false_alarms(harm, limits, 40, MANY)
    assert alarms > most_misses(ERROR, 40)


def _normal(mean: float, count: int) -> float:
    """Half of a usual 95 % interval."""
    return 0.5 * 1.96 * math.sqrt(mean * (1 - mean) / count) if count else 1.0


@pytest.mark.parametrize(
    ("harm", "limit", "most_held_out"),
    [
        ({"slowness": 3.0}, "completionTime", 100),
        ({"slowness": 1.5}, "completionTime", 600),
        ({"loss": 0.2}, "retransmissionRatio", 400),
        ({"failure": 0.2}, "connectionFailures", 400),
        ({"failure": 0.04}, "connectionFailures", 5_000),
    ],
)
def test_a_harmful_policy_is_taken_off_soon_and_the_sentence_says_why(
    harm: dict[str, float], limit: str, most_held_out: int
) -> None:
    random = np.random.default_rng(23)
    for _ in range(20):
        breach, _, held_out = watch(random, replace(ALIKE, **harm), LIMITS, 2 * most_held_out)  # type: ignore[arg-type]
        assert breach
        assert breach.limit == limit or limit == "retransmissionRatio"  # losses cost time as well
        assert held_out <= most_held_out
        assert breach.increase > breach.allowed
        assert breach.limit in str(breach)
        assert "held out" in str(breach)


def test_no_look_is_taken_before_there_are_enough_connections_nor_twice_at_the_same() -> None:
    random = np.random.default_rng(1)
    bad = replace(ALIKE, slowness=100.0)
    few = Effect(arm(random, 500, bad), arm(random, FIRST_LOOK - 1, ALIKE))
    assert Watch().look(LIMITS, few) == (Watch(), None)
    enough = Effect(arm(random, 500, ALIKE), arm(random, FIRST_LOOK, ALIKE))
    state, breach = Watch().look(LIMITS, enough)
    assert (state.looks, breach) == (1, None)
    assert state.look(LIMITS, enough) == (state, None)


def test_evidence_is_begun_anew_so_that_late_harm_is_not_diluted() -> None:
    random = np.random.default_rng(2)
    reading = Effect(arm(random, 300_000, ALIKE), arm(random, EPOCH_CONNECTIONS, ALIKE))
    state, breach = Watch().look(LIMITS, reading)
    assert breach is None
    assert (state.since, state.epoch, state.looks) == (reading, 2, 0)
    harmed = reading.merged(Effect(arm(random, 3_000, replace(ALIKE, slowness=2)), arm(random, 200, ALIKE)))
    _, breach = state.look(LIMITS, harmed)
    assert breach
    assert breach.limit == "completionTime"
    assert breach.held_out_count <= 200
    assert Watch().look(LIMITS, harmed)[1] is None  # over all there ever was, it is lost


def test_a_guard_that_comes_back_goes_on_as_if_every_look_had_been_taken() -> None:
    random = np.random.default_rng(4)
    reading = Effect(arm(random, 50_000, ALIKE), arm(random, 2_500, ALIKE))
    state = Watch.resumed(reading)
    assert state.looks == 1 + math.floor(math.log(50) / math.log(1.25))
    assert state.look(LIMITS, reading) == (state, None)
    assert Watch.resumed(Effect()) == Watch()


def test_the_errors_of_all_looks_and_epochs_add_up_to_the_stated_one() -> None:
    spent = sum(ERROR / (k * (k + 1) * e * (e + 1)) for k in range(1, 1_000) for e in range(1, 1_000))
    assert spent == pytest.approx(ERROR, rel=0.01)
    assert spent < ERROR


def test_a_breach_reads_as_a_sentence_with_numbers() -> None:
    slow = Breach("completionTime", 0.1, 0.231, 250_000.0, 180_000.0, 4_000, 210)
    assert str(slow) == (
        "completionTime: a median of 250 ms against 180 ms held out, over 4,000 treated and 210 held-out connections: "
        "at least 23.1% longer, where 10% is the limit"
    )
    lossy = Breach("retransmissionRatio", 0.02, 0.0312, 0.05, 0.004, 4_000, 210)
    assert str(lossy) == (
        "retransmissionRatio: 5.00% against 0.40% held out, over 4,000 treated and 210 held-out connections: "
        "at least 3.1pp more, where 2pp is the limit"
    )
