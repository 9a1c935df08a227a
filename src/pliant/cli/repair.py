# SPDX-License-Identifier: Apache-2.0
"""``pliant repair``."""

from __future__ import annotations

import click

from pliant.cli.changes import make
from pliant.cli.context import dry_run_option, open_host, output_option, reason_option


@click.command()
@reason_option()
@dry_run_option()
@output_option()
@click.pass_context
def repair(ctx: click.Context, reason: str, dry_run: bool, output: str) -> None:
    """Make the kernel what the policies in force ask for; change no policy.

    Needed after a boot, when services have come or gone, and after a change whose process was killed.
    """
    with open_host(ctx) as host:
        make(host, lambda: host.change_to_repair(reason=reason), output=output, dry_run=dry_run)
