# SPDX-License-Identifier: Apache-2.0
"""``pliant delete``."""

from __future__ import annotations

import click

from pliant.cli.changes import make
from pliant.cli.context import (
    complete_policy,
    dry_run_option,
    files_option,
    open_host,
    output_option,
    read_files,
    reason_option,
)


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete_policy)
@files_option(required=False)
@click.option("--all", "everything", is_flag=True, help="Take away every policy.")
@reason_option()
@dry_run_option()
@output_option()
@click.pass_context
def delete(
    ctx: click.Context,
    names: tuple[str, ...],
    files: tuple[str, ...],
    everything: bool,
    reason: str,
    dry_run: bool,
    output: str,
) -> None:
    """Take policies away, by name or by the files they were applied from.

    New connections are then left to the kernel; open ones keep what they were given.
    """
    if sum(map(bool, (names, files, everything))) != 1:
        raise click.UsageError("say which policies: by NAME, with -f FILE, or --all")
    listed = [name.removeprefix("policy/") for name in names] or [policy.name for policy in read_files(files)]
    with open_host(ctx) as host:
        make(
            host,
            lambda: host.change_to_delete(host.names() if everything else listed, reason=reason),
            output=output,
            dry_run=dry_run,
        )
