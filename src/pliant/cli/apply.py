# SPDX-License-Identifier: Apache-2.0
"""``pliant apply``."""

from __future__ import annotations

import click

from pliant.cli.changes import make
from pliant.cli.context import (
    dry_run_option,
    files_option,
    open_host,
    output_option,
    read_files,
    reason_option,
)


@click.command()
@files_option(required=True)
@click.option("--prune", is_flag=True, help="Take away every policy that is not in the files.")
@click.option("--allow-waiting", is_flag=True, help="Accept policies whose service is not on this host yet.")
@reason_option()
@dry_run_option()
@output_option()
@click.pass_context
def apply(
    ctx: click.Context,
    files: tuple[str, ...],
    prune: bool,
    allow_waiting: bool,
    reason: str,
    dry_run: bool,
    output: str,
) -> None:
    """Put policies in force on this host.

    Policies of the same name are replaced; all others stay as they are. Everything is checked before anything is
    changed, and a failure half-way is taken back.
    """
    policies = read_files(files)
    with open_host(ctx) as host:
        make(
            host,
            lambda: host.change_to_apply(policies, reason=reason, allow_waiting=allow_waiting, prune=prune),
            output=output,
            dry_run=dry_run,
        )
