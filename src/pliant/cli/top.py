# SPDX-License-Identifier: Apache-2.0
"""``pliant top``."""

from __future__ import annotations

import sys
from typing import Any

import click

from pliant.agent.documents import policy_document, service_document
from pliant.agent.places import Places
from pliant.cli import output as out
from pliant.cli.connections import connection_data, limit_option
from pliant.cli.context import open_host
from pliant.errors import PliantError
from pliant.top.frame import ArmLine, Frame, PolicyLine, Watch
from pliant.top.tables import TABLES, caveats, summary


@click.command()
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(min=0.1),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="How often to look; less often where a look takes long.",
)
@click.option("--once", is_flag=True, help="Print one look and end: for scripts, and where no screen is.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(("table", "json", "yaml")),
    help="How to print one look.  [default: table]",
)
@limit_option()
@click.pass_context
def top(ctx: click.Context, interval_s: float, once: bool, output: str | None, limit: int) -> None:
    """Watch policies, services, open connections and arms, live. Nothing is changed.

    \b
    1 2 3 4   the tables                enter   explain the row
    s r       sort by the next column, the other way round
    /         show only rows that contain a text; escape shows all
    p q       pause, quit
    """
    with open_host(ctx) as host:
        places: Places = host.places
    watch = Watch(places, at_most=limit)
    if once or output:
        show(watch.look(), output or "table")
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise PliantError("top needs a terminal", remedy="use --once, with -o json for programs")
    try:
        from pliant.top.app import TopApp
    except ModuleNotFoundError as missing:
        raise PliantError(
            f"the screen of top needs the Python package {(missing.name or '').partition('.')[0]}",
            remedy="pip install 'pliant[top]'; --once works without it",
        ) from missing
    TopApp(watch, watch.look(), interval_s=interval_s).run()


def show(frame: Frame, output: str) -> None:
    """Print one look at a host."""
    if output != "table":
        out.data(frame_data(frame), output)
        return
    click.echo(summary(frame))
    for table in TABLES:
        click.echo()
        out.table(
            [column.head for column in table.columns],
            [[column.cell(row) for column in table.columns] for row in table.rows(frame)],
            nothing=table.nothing,
        )
    for sentence in caveats(frame):
        click.echo(f"\n{sentence}", err=True)


def frame_data(frame: Frame) -> dict[str, Any]:
    """One look at a host as plain data."""
    return {
        "at": frame.at,
        "tookSeconds": frame.took_s,
        "host": frame.hostname,
        "generation": frame.generation,
        "driftSteps": frame.drift,
        "policies": [_policy(line) for line in frame.policies],
        "services": [
            service_document(line.status) | {"openConnections": line.connections} for line in frame.services
        ],
        "connections": [connection_data(seen) for seen in frame.connections],
        "connectionsInAll": frame.survey.total,
        "connectionsCountedWhole": frame.survey.is_complete,
        "arms": [_arm(line) for line in frame.arms],
        "caveats": caveats(frame),
    }


def _policy(line: PolicyLine) -> dict[str, Any]:
    return policy_document(line.status) | {
        "rates": {"treatedPerSecond": line.rates.treated, "heldOutPerSecond": line.rates.held_out},
        "openConnections": line.winning,
    }


def _arm(line: ArmLine) -> dict[str, Any]:
    found, asked = line.comparison, line.comparison.question
    return {
        "policy": line.policy,
        "metric": asked.metric,
        "statistic": asked.statistic,
        "unit": asked.unit,
        "treated": found.treated,
        "heldOut": found.held_out,
        "treatedSamples": found.treated_count,
        "heldOutSamples": found.held_out_count,
        "confidence": found.confidence,
        "lift": found.effect._asdict() if found.effect else None,
        "verdict": found.verdict.value,
    }
