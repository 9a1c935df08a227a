# SPDX-License-Identifier: Apache-2.0
"""``pliant effect``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from pliant.agent.effects import PolicyEffect, policy_effects
from pliant.cli import output as out
from pliant.cli.context import complete_policy, open_host, output_option
from pliant.cli.effect_words import change, counts, interval, label, summary, value, verdict
from pliant.errors import PliantError
from pliant.observe.effects import ArmEffect, Effect, Metric
from pliant.observe.lift import Comparison, Verdict
from pliant.policy.units import WHOLE_SHARE_PPM, UnitError, parse_share

TERMINAL = "-"
LEAST_CONFIDENCE, MOST_CONFIDENCE = 0.5, 0.9999


def _confidence(ctx: click.Context, parameter: click.Parameter, text: str) -> float:
    try:
        confidence = parse_share(text) / WHOLE_SHARE_PPM
    except UnitError as error:
        raise PliantError(f"--confidence: {error.message}", remedy="write for example 95%") from None
    if not LEAST_CONFIDENCE <= confidence <= MOST_CONFIDENCE:
        raise PliantError(f"--confidence: '{text}' is not from 50% to 99.99%", remedy="write for example 95%")
    return confidence


@click.command()
@click.argument("name", required=False, metavar="[POLICY]", shell_complete=complete_policy)
@output_option("table", "json", "yaml")
@click.option(
    "--confidence",
    callback=_confidence,
    default="95%",
    show_default=True,
    metavar="SHARE",
    help="How sure a difference must be.",
)
@click.option(
    "--plot",
    is_flag=False,
    flag_value=TERMINAL,
    metavar="[FILE]",
    help="Draw the differences, here or into a file ending in .svg, .png or .pdf.",
)
@click.pass_context
def effect(ctx: click.Context, name: str | None, output: str, confidence: float, plot: str | None) -> None:
    """Say what policies are worth: their treated connections against those they hold out.

    Everything is counted since this version of the policy came into force. The first line decides, at the confidence
    asked for; all others share it: when nothing differs, one of them is said to differ as rarely as the first.
    """
    _check_plot(plot, name)
    with open_host(ctx) as host:
        found = policy_effects(host, confidence, [name.removeprefix("policy/")] if name else [])
    if plot and plot != TERMINAL:
        from pliant.cli.effect_picture import save

        save(Path(plot), found[0])
        click.echo(f"drew {plot}", err=True)
    if output != "table":
        out.data([effect_data(one) for one in found], output)
    elif name:
        _tell(found[0], confidence, draw=plot == TERMINAL)
    else:
        _list(found)


def _check_plot(plot: str | None, name: str | None) -> None:
    if plot and not name:
        raise PliantError("--plot draws one policy, and none is named", remedy="pliant effect POLICY --plot")
    if plot and plot != TERMINAL and Path(plot).suffix not in (".svg", ".png", ".pdf"):
        raise PliantError(
            f"--plot: '{plot}' does not end in .svg, .png or .pdf",
            remedy="name such a file, or put --plot last to draw here",
        )


def _list(found: Sequence[PolicyEffect]) -> None:
    out.table(
        ("policy", "treated", "held out", "completion time", "interval", "verdict", "beside that"),
        [
            (
                one.policy.name,
                f"{one.effect.treated.connections:,}",
                f"{one.effect.held_out.connections:,}",
                change(one.comparisons[0]),
                interval(one.comparisons[0]),
                one.comparisons[0].verdict.value,
                summary(one.comparisons[1:]) or "-",
            )
            for one in found
        ],
        nothing="no policy in force holds connections out; set spec.holdout to have its effect measured",
    )


def _tell(one: PolicyEffect, confidence: float, *, draw: bool) -> None:
    first, *others = one.comparisons
    treated, held_out = one.effect
    holdout = one.policy.to_document()["spec"]["holdout"]
    out.fields(
        {
            "Policy": one.policy.name,
            "Connections": f"{treated.connections:,} treated, {held_out.connections:,} held out ({holdout})",
            "Completion time": f"{change(first)} at the median: {verdict(first)}",
            "Beside that": summary(others) or "nothing is seen to differ",
        }
    )
    click.echo()
    if draw:
        from pliant.cli.effect_plot import draw_lines

        for line in draw_lines(one.comparisons):
            click.echo(line)
    else:
        out.table(
            ("metric", "treated", "held out", "effect", "interval", "samples", "verdict"),
            [_row(comparison) for comparison in one.comparisons],
            nothing="",
        )
    shared = f"{100 * others[0].confidence:.4g}%"
    click.echo(
        f"\nthe first line is at {100 * confidence:g}%; the other {len(others)} at {shared} each, which makes "
        f"{100 * confidence:g}% together"
    )


def _row(comparison: Comparison) -> tuple[str, ...]:
    why = f" ({comparison.why})" if comparison.verdict is Verdict.NOT_ENOUGH_DATA else ""
    return (
        label(comparison),
        value(comparison.treated, comparison.question.unit),
        value(comparison.held_out, comparison.question.unit),
        change(comparison),
        interval(comparison),
        counts(comparison),
        comparison.verdict.value + why,
    )


def effect_data(one: PolicyEffect) -> dict[str, Any]:
    """The effect of a policy as plain data; ``histograms`` can be added up over hosts."""
    return {
        "policy": one.policy.name,
        "holdoutPpm": one.policy.holdout_ppm,
        "arms": _arms(one.effect),
        "comparisons": [_comparison_data(comparison) for comparison in one.comparisons],
    }


def _arms(effect: Effect) -> dict[str, Any]:
    return {"treated": _arm(effect.treated), "heldOut": _arm(effect.held_out)}


def _arm(arm: ArmEffect) -> dict[str, Any]:
    return {
        "connections": arm.connections,
        "failures": arm.failures,
        "histograms": {
            metric.label: {
                "unit": metric.unit,
                "count": arm[metric].count,
                "sum": arm[metric].total,
                "buckets": {str(i): n for i, n in enumerate(arm[metric].buckets) if n},
            }
            for metric in Metric
        },
    }


def _comparison_data(comparison: Comparison) -> dict[str, Any]:
    question, limits = comparison.question, comparison.effect
    return {
        "metric": question.metric,
        "statistic": question.statistic,
        "unit": question.unit,
        "better": question.better.value,
        "treated": comparison.treated,
        "heldOut": comparison.held_out,
        "treatedCount": comparison.treated_count,
        "heldOutCount": comparison.held_out_count,
        "scale": question.scale.value,
        "confidence": comparison.confidence,
        "effect": limits and {"estimate": limits.estimate, "low": limits.low, "high": limits.high},
        "verdict": comparison.verdict.value,
        "why": comparison.why,
    }
