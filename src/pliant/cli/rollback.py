# SPDX-License-Identifier: Apache-2.0
"""``pliant rollback``."""

from __future__ import annotations

import click

from pliant.cli.changes import make
from pliant.cli.context import dry_run_option, open_host, output_option, reason_option


@click.command()
@click.argument("generation", type=click.IntRange(min=0), required=False)
@reason_option()
@dry_run_option()
@output_option()
@click.pass_context
def rollback(ctx: click.Context, generation: int | None, reason: str, dry_run: bool, output: str) -> None:
    """Go back to the policies of GENERATION, or of the generation before the one in force.

    Generation 0 is the host without policies. Going back makes a generation of its own, so that it can be taken back
    too.
    """
    with open_host(ctx) as host:
        make(
            host,
            lambda: host.change_to_rollback(generation, reason=reason),
            output=output,
            dry_run=dry_run,
        )
