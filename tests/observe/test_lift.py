# SPDX-License-Identifier: Apache-2.0
"""What is said of two arms: never more than the numbers allow. The long campaign is `make effect-aa`."""

from __future__ import annotations

import math
import os
from dataclasses import replace

import numpy as np
import pytest

from pliant.agent.guard import judge
from pliant.lab.arms import Traffic, arm
from pliant.observe.effects import ArmEffect, Effect, Metric
from pliant.observe.histogram import BUCKETS, Histogram
from pliant.observe.lift import FAILURES, Comparison, Scale, Verdict, compare, questions
from pliant.policy.guard import Guard

REPETITIONS = int(os.environ.get("PLIANT_REPETITIONS", "200"))
PLANTED = max(60, REPETITIONS // 4)
SEED = 20
ALIKE = Traffic()
SAID_NOTHING = (Verdict.NO_DIFFERENCE, Verdict.NOT_ENOUGH_DATA)


def most_misses(probability: float, tries: int) -> float:
    """What a count of misses at this probability exceeds once in 2000 times."""
    return probability * tries + 3.3 * math.sqrt(probability * (1 - probability) * tries)


def effects(treated: Traffic, counts: tuple[int, int], tries: int) -> list[tuple[Comparison, ...]]:
    random = np.random.default_rng(SEED)
    return [
        compare(Effect(arm(random, counts[0], treated), arm(random, counts[1], ALIKE))) for _ in range(tries)
    ]


def find(comparisons: tuple[Comparison, ...], metric: str, statistic: str) -> Comparison:
    return next(c for c in comparisons if (c.question.metric, c.question.statistic) == (metric, statistic))


@pytest.mark.parametrize("counts", [(400, 400), (9_500, 500)])
def test_arms_that_are_alike_are_said_to_differ_no_more_often_than_stated(counts: tuple[int, int]) -> None:
    found = effects(ALIKE, counts, REPETITIONS)
    first = sum(comparisons[0].verdict not in SAID_NOTHING for comparisons in found)
    others = sum(any(c.verdict not in SAID_NOTHING for c in comparisons[1:]) for comparisons in found)
    assert all(comparisons[0].effect for comparisons in found)
    assert first <= most_misses(0.05, REPETITIONS)
    assert others <= most_misses(0.05, REPETITIONS)
    assert first >= 0.01 * REPETITIONS  # intervals that never miss would be wider than they say


def test_false_alarms_are_noticed_when_intervals_are_too_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above would fail if intervals were a third narrower than they must be."""
    from pliant.observe import intervals

    honest = intervals.normal_quantile
    monkeypatch.setattr(intervals, "normal_quantile", lambda confidence: honest(confidence) * 2 / 3)
    found = effects(ALIKE, (9_500, 500), REPETITIONS)
    first = sum(comparisons[0].verdict not in SAID_NOTHING for comparisons in found)
    assert first > most_misses(0.05, REPETITIONS)


@pytest.mark.parametrize("slowness", [0.75, 0.9, 1.2])
def test_a_planted_effect_on_completion_times_is_covered_at_the_stated_rate_and_seen(slowness: float) -> None:
    found = effects(replace(ALIKE, slowness=slowness), (19_000, 1_000), PLANTED)
    for statistic in ("p50", "mean", "p90", "p99"):
        answers = [find(comparisons, "completion_time", statistic) for comparisons in found]
        limits = [answer.effect for answer in answers if answer.effect]
        missed = sum(not one.low <= slowness - 1 <= one.high for one in limits)
        assert len(limits) == PLANTED
        assert missed <= most_misses(1 - answers[0].confidence, PLANTED)
    wanted = Verdict.BETTER if slowness < 1 else Verdict.WORSE
    seen = sum(comparisons[0].verdict is wanted for comparisons in found)
    assert seen >= (0.99 if abs(slowness - 1) > 0.1 else 0.3) * PLANTED


def test_planted_losses_and_failures_are_covered_and_seen() -> None:
    harmed = replace(ALIKE, loss=0.02, failure=0.03)
    found = effects(harmed, (19_000, 1_000), PLANTED)
    random = np.random.default_rng(SEED + 1)
    many = {traffic: arm(random, 2_000_000, traffic) for traffic in (harmed, ALIKE)}
    shares = [many[t][Metric.RETRANSMISSION_RATIO].mean / 1e6 for t in (harmed, ALIKE)]
    for metric, statistic, planted in (
        ("retransmission_ratio", "mean", shares[0] - shares[1]),
        (FAILURES, "share", 0.027),
    ):
        answers = [find(comparisons, metric, statistic) for comparisons in found]
        limits = [answer.effect for answer in answers if answer.effect]
        missed = sum(not one.low <= planted <= one.high for one in limits)
        assert missed <= most_misses(1 - answers[0].confidence, len(limits))
        assert sum(answer.verdict is Verdict.WORSE for answer in answers) >= 0.95 * PLANTED


def test_too_few_connections_are_not_enough_data_and_say_what_is_needed() -> None:
    random = np.random.default_rng(SEED)
    comparisons = compare(Effect(arm(random, 1_000, ALIKE), arm(random, 8, ALIKE)))
    told = {c.verdict for c in comparisons if c.question.metric != FAILURES}
    assert told <= {Verdict.NOT_ENOUGH_DATA, Verdict.NO_DIFFERENCE}
    assert comparisons[0].verdict is Verdict.NOT_ENOUGH_DATA
    assert comparisons[0].why == "8 values, P50 needs 10"
    assert comparisons[0].held_out is not None


def test_nothing_measured_is_not_enough_data_everywhere() -> None:
    comparisons = compare(Effect())
    assert {c.verdict for c in comparisons} == {Verdict.NOT_ENOUGH_DATA}
    assert all(c.treated is None and c.held_out is None and c.why for c in comparisons)


SPOILED = Histogram(5_000, -(1 << 62), (0, 1 << 62, *[7] * (BUCKETS - 2)))


@pytest.mark.parametrize(
    ("failures", "histogram"), [(1 << 62, SPOILED), (0, SPOILED), (5, replace(SPOILED, count=-(1 << 62)))]
)
def test_what_cannot_have_been_counted_ends_nothing(failures: int, histogram: Histogram) -> None:
    """Anybody may write the tables."""
    spoiled = ArmEffect(1 << 63, failures, (histogram,) * len(Metric))
    comparisons = compare(Effect(spoiled, ArmEffect()))
    assert {c.verdict for c in comparisons} == {Verdict.NOT_ENOUGH_DATA}
    both = compare(Effect(spoiled, spoiled))
    assert {c.verdict for c in both} <= {Verdict.NOT_ENOUGH_DATA, Verdict.NO_DIFFERENCE}
    judge(Guard(connectionFailures="1pp", completionTime="1%"), Effect(spoiled, spoiled), 0.01)


def test_paths_that_lose_nothing_are_bounded_rather_than_unknown() -> None:
    clean = ArmEffect(5_000, 0, tuple(Histogram.of([0] * 5_000) for _ in Metric))
    answer = find(compare(Effect(clean, clean)), "retransmission_ratio", "mean")
    assert answer.verdict is Verdict.NO_DIFFERENCE
    assert answer.effect is not None
    assert 0.001 < answer.effect.high == -answer.effect.low < 0.003


def test_retransmissions_in_one_arm_only_are_seen() -> None:
    def losing(values: list[int]) -> ArmEffect:
        histograms = (
            Histogram.of(values if metric is Metric.RETRANSMISSION_RATIO else [5] * 100) for metric in Metric
        )
        return ArmEffect(len(values), 0, tuple(histograms))

    comparisons = compare(Effect(losing([0, 200_000] * 500), losing([0] * 1_000)))
    answer = find(comparisons, "retransmission_ratio", "mean")
    assert answer.verdict is Verdict.WORSE
    assert answer.effect is not None
    assert answer.effect.low <= 0.1 <= answer.effect.high


def test_better_is_less_time_and_more_throughput_and_sizes_only_differ() -> None:
    def shifted(factor: int) -> ArmEffect:
        values = [factor * value for value in range(1_000, 3_000)]
        return ArmEffect(2_000, 0, tuple(Histogram.of(values) for _ in Metric))

    comparisons = compare(Effect(shifted(2), shifted(1)))
    assert find(comparisons, "completion_time", "p50").verdict is Verdict.WORSE
    assert find(comparisons, "goodput", "p50").verdict is Verdict.BETTER
    assert find(comparisons, "bytes", "p50").verdict is Verdict.DIFFERS


def test_the_first_question_decides_alone_and_the_others_share_their_error() -> None:
    comparisons = compare(Effect(), 0.99)
    assert len(comparisons) == len(questions())
    assert (comparisons[0].question.metric, comparisons[0].question.statistic) == ("completion_time", "p50")
    assert comparisons[0].confidence == 0.99
    assert sum(1 - c.confidence for c in comparisons[1:]) == pytest.approx(0.01)
    assert {c.question.scale for c in comparisons} == set(Scale)
