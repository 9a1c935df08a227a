# SPDX-License-Identifier: Apache-2.0
"""``pliant off``."""

from __future__ import annotations

import sqlite3
import time

import click

from pliant.agent.host import Host
from pliant.cli import output as out
from pliant.cli.changes import make, tell_applied
from pliant.cli.context import (
    actor,
    complete_policy,
    dry_run_option,
    open_host,
    output_option,
    reason_option,
)
from pliant.errors import PliantError

FORCE = "'pliant off --force' takes everything off all the same"


def switch_options(function: click.decorators.FC) -> click.decorators.FC:
    """``--policy`` and ``--service``: what is switched."""
    service = click.option(
        "--service",
        "services",
        multiple=True,
        metavar="SERVICE",
        help="Only this service and the cgroups below it, named as in spec.match.service. Can be given more than once.",
    )
    policy = click.option(
        "--policy",
        "names",
        multiple=True,
        metavar="NAME",
        shell_complete=complete_policy,
        help="Only this policy. Can be given more than once.",
    )
    return policy(service(function))


@click.command()
@switch_options
@click.option(
    "--force",
    is_flag=True,
    help="Whatever is in the way: end a process that holds the host for longer than --timeout, and go without a "
    "journal that cannot be used.",
)
@reason_option()
@dry_run_option()
@output_option()
@click.pass_context
def off(
    ctx: click.Context,
    names: tuple[str, ...],
    services: tuple[str, ...],
    force: bool,
    reason: str,
    dry_run: bool,
    output: str,
) -> None:
    """Take everything of Pliant off this host, or switch off some policies or services.

    Programs are detached and unloaded, and open connections that a policy has changed are given back what they had.
    Policies are kept, and can be applied and deleted meanwhile; nothing of them is in force before 'pliant on', over
    restarts, reboots and rollbacks.
    """
    names = tuple(name.removeprefix("policy/") for name in names)
    services = tuple(service.removeprefix("service/") for service in services)
    everything = not (names or services)
    if force and not (everything and not dry_run):
        raise click.UsageError("--force is for taking everything off")
    with open_host(ctx) as host:
        if force:
            _force(ctx, host, reason, output)
            return
        try:
            make(
                host,
                lambda: host.change_to_off(names, services, reason=reason, actor=actor()),
                output=output,
                dry_run=dry_run,
                to_switch_off=everything,
            )
        except PliantError as error:
            if not everything or dry_run:
                raise
            raise PliantError(error.message, remedy="; ".join(filter(None, (error.remedy, FORCE)))) from error
        except sqlite3.Error as error:
            raise PliantError(f"the journal cannot be used: {error}", remedy=FORCE) from error


def _force(ctx: click.Context, host: Host, reason: str, output: str) -> None:
    from pliant.agent.emergency import force_off

    started = time.monotonic()
    done = force_off(host, reason=reason, actor=actor())
    if done.killed:
        click.echo(f"process {done.killed} held the host and was killed", err=True)
    if done.applied:
        tell_applied(done.applied, time.monotonic() - started, output)
        return
    for problem in done.problems:
        click.echo(problem, err=True)
    if done.left:
        raise PliantError(
            f"not everything could be taken off; still there: {', '.join(done.left)}",
            remedy="remove these directories by hand: what is pinned in them ends with them",
        )
    out.show(
        output,
        plain=lambda: {"off": True, "forced": True, "problems": list(done.problems)},
        names=list,
        people=lambda: click.echo("everything is off, by force; nothing of it is in the journal"),
    )
