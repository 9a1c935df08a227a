# SPDX-License-Identifier: Apache-2.0
"""``pliant on``."""

from __future__ import annotations

import click

from pliant.cli.changes import make
from pliant.cli.context import dry_run_option, open_host, output_option, reason_option
from pliant.cli.off import switch_options


@click.command()
@switch_options
@reason_option()
@dry_run_option()
@output_option()
@click.pass_context
def on(
    ctx: click.Context,
    names: tuple[str, ...],
    services: tuple[str, ...],
    reason: str,
    dry_run: bool,
    output: str,
) -> None:
    """Put in force again what 'pliant off' has taken off, with the policies as they are by now.

    Policies and services that were switched off by name stay off until they are switched on by name.
    """
    names = tuple(name.removeprefix("policy/") for name in names)
    services = tuple(service.removeprefix("service/") for service in services)
    with open_host(ctx) as host:
        make(
            host,
            lambda: host.change_to_on(names, services, reason=reason),
            output=output,
            dry_run=dry_run,
        )
