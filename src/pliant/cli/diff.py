# SPDX-License-Identifier: Apache-2.0
"""``pliant diff``."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator

import click

from pliant.agent.change import Change
from pliant.cli import output as out
from pliant.cli.changes import as_data
from pliant.cli.context import files_option, open_host, output_option, read_files
from pliant.store.generations import StoredPolicy

DIFFERS = 1


@click.command()
@files_option(required=True)
@click.option("--prune", is_flag=True, help="As if apply --prune were used.")
@output_option("table", "json", "yaml")
@click.pass_context
def diff(ctx: click.Context, files: tuple[str, ...], prune: bool, output: str) -> None:
    """Show what apply would change: in the policies, and on the host.

    Exits with 0 when nothing differs, 1 when something does, 2 on an error.
    """
    policies = read_files(files)
    with open_host(ctx) as host:
        change = host.change_to_apply(policies, allow_waiting=True, prune=prune)
    if output != "table":
        out.data(as_data(change) | {"differs": not change.is_empty}, output)
    else:
        for line in _differences(change):
            click.echo(line)
    ctx.exit(0 if change.is_empty else DIFFERS)


def _differences(change: Change) -> Iterator[str]:
    for name in change.fates:
        before, after = _lines(change.before.get(name)), _lines(change.after.get(name))
        for line in difflib.unified_diff(before, after, f"{name} (in force)", f"{name} (file)", lineterm=""):
            colour = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
            yield click.style(line, fg=colour) if colour else line
    for step in change.plan:
        yield f"host: {step.sentence}"


def _lines(policy: StoredPolicy | None) -> list[str]:
    if policy is None:
        return []
    import yaml

    return str(yaml.safe_dump(json.loads(policy.document), sort_keys=False)).splitlines()
