# SPDX-License-Identifier: Apache-2.0
"""``pliant doctor``."""

from __future__ import annotations

import click

from pliant.agent.health import Finding, Level, examine
from pliant.cli import output as out
from pliant.cli.context import open_host, output_option

EXIT = {Level.OK: 0, Level.ABSENT: 0, Level.DEGRADED: 1, Level.BROKEN: 2}
COLOURS = {Level.OK: "green", Level.ABSENT: "white", Level.DEGRADED: "yellow", Level.BROKEN: "red"}


@click.command()
@output_option("table", "json", "yaml")
@click.pass_context
def doctor(ctx: click.Context, output: str) -> None:
    """Check what this host can do, and whether all is well. Changes nothing.

    Exits with 0 when policies can be put in force and all is as it should be, 1 when something is degraded, 2 when
    something that is needed is missing.
    """
    status = out.Status()
    status.say("trying what this kernel can do")
    with open_host(ctx) as host:
        findings = examine(host)
    status.clear()
    if output == "table":
        _tell(findings)
    else:
        out.data(
            [
                {"name": f.name, "level": f.level.value, "sentence": f.sentence, "remedy": f.remedy}
                for f in findings
            ],
            output,
        )
    ctx.exit(max(EXIT[finding.level] for finding in findings))


def _tell(findings: list[Finding]) -> None:
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        level = click.style(finding.level.value.ljust(9), fg=COLOURS[finding.level])
        click.echo(f"{level} {finding.name.ljust(width)}  {finding.sentence}")
        if finding.remedy:
            click.echo(f"{' ' * (width + 12)}{finding.remedy}")
    worst = max(findings, key=lambda finding: EXIT[finding.level]).level
    click.echo()
    click.echo(
        {
            Level.DEGRADED: "Policies can be put in force, but something is not as it should be.",
            Level.BROKEN: "Policies cannot be put in force on this host as it is.",
        }.get(worst, "Policies can be put in force on this host.")
    )
