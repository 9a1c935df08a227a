# SPDX-License-Identifier: Apache-2.0
"""``pliant agent``."""

from __future__ import annotations

import click

from pliant.cli.context import open_places


def _address(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, int] | None:
    """An IP address and a port: ``127.0.0.1:9477``, ``[::1]:9477``."""
    import ipaddress

    if value is None:
        return None
    address, _, port = value.rpartition(":")
    try:
        found = str(ipaddress.ip_address(address.removeprefix("[").removesuffix("]")))
        number = int(port)
    except ValueError:
        example = "127.0.0.1:9477 or [::1]:9477"
        raise click.BadParameter(f"{value!r} is no address and port, such as {example}") from None
    if not 0 <= number <= 65535:
        raise click.BadParameter(f"{number} is no port: 0 to 65535")
    return found, number


@click.command()
@click.option(
    "--check-every",
    type=click.FloatRange(min=0.1),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How often to look whether the kernel is still as it should be.",
)
@click.option(
    "--guard-every",
    type=click.FloatRange(min=0.1),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="How often to look whether a policy has passed a limit of its guard.",
)
@click.option(
    "--metrics",
    callback=_address,
    metavar="ADDRESS:PORT",
    help="Also serve the metrics over HTTP here; everybody who reaches the address may read them.",
)
@click.option(
    "--group", default="pliant", show_default=True, help="Members of this group may read from the socket."
)
@click.pass_context
def agent(
    ctx: click.Context,
    check_every: float,
    guard_every: float,
    metrics: tuple[str, int] | None,
    group: str,
) -> None:
    """Keep this host as its policies ask for, until told to end.

    Watches the policies, the services and the kernel. Ending it, however, changes nothing on the data path; the next
    one adopts what it finds. SIGTERM ends it, SIGHUP has it read everything again.
    """
    from pliant.agent.daemon.agent import Agent, Settings

    Agent(open_places(ctx), Settings(check_every, metrics, group, guard_every)).run()
