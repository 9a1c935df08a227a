# SPDX-License-Identifier: Apache-2.0
"""``pliant fastpath on`` and ``off``: they write and remove a policy, as apply and delete do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from pliant.cli import output as out
from pliant.cli.changes import make
from pliant.cli.context import Decorator, dry_run_option, open_host, open_places, output_option, reason_option
from pliant.errors import PliantError
from pliant.policy.fastpath import KIND, MODULES

if TYPE_CHECKING:
    from pliant.agent.host import Host
    from pliant.policy.fastpath import FastpathPolicy
    from pliant.policy.model import Policy

NAME = "fastpath"
"""The policy that on writes."""
ALL = "*"


def complete_interface(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Complete the names of interfaces."""
    import socket

    del ctx, parameter
    return sorted(name for _, name in socket.if_nameindex() if name.startswith(incomplete) and name != "lo")


def _dev_option(text: str) -> Decorator:
    return click.option(
        "--dev", "devices", multiple=True, metavar="NAME", shell_complete=complete_interface, help=text
    )


@click.command()
@_dev_option("This interface, or those of a glob; added to those that are on. Can be given more than once.")
@click.option(
    "--mode",
    type=click.Choice(("auto", "native", "generic", "tc")),
    default=None,
    help="In the driver (native), without its help (generic), at tc, or whichever of native and tc makes nothing "
    "slower (auto).  [default: as it is, else auto]",
)
@click.option(
    "--module",
    "modules",
    multiple=True,
    type=click.Choice(MODULES),
    help="Only this. Can be given more than once.  [default: as it is, else all that can be]",
)
@click.option(
    "--rule-counters",
    type=click.Choice(("kernel", "combined")),
    default=None,
    help="Who counts for rules of nftables: the kernel alone, which then sees all that comes to such a rule, or the "
    "fast path as well: 'pliant fastpath counters' has the sums.  [default: as it is, else kernel]",
)
@click.option("--allow-waiting", is_flag=True, help="Accept interfaces that are not on this host yet.")
@reason_option()
@dry_run_option()
@output_option()
@click.pass_context
def on(
    ctx: click.Context,
    devices: tuple[str, ...],
    mode: str | None,
    modules: tuple[str, ...],
    rule_counters: str | None,
    allow_waiting: bool,
    reason: str,
    dry_run: bool,
    output: str,
) -> None:
    """Accelerate what comes in by all interfaces, or by some.

    Writes the policy 'fastpath', which says so until 'pliant fastpath off': over restarts and reboots, and, while an
    agent runs, through every change of the network's configuration.
    """
    with open_host(ctx) as host:

        def work_out() -> Any:
            policy = _policy(host.fastpath_policies().get(NAME), devices, mode, modules, rule_counters)
            return host.change_to_apply([policy], reason=reason, allow_waiting=allow_waiting)

        make(host, work_out, output=output, dry_run=dry_run)
        if output == "table":
            _tell_interfaces(host, work_out().compiled.desired.fastpath if dry_run else None)
    if output == "table" and not dry_run:
        _tell_of_agent(ctx)


def _policy(
    held: FastpathPolicy | None,
    devices: Sequence[str],
    mode: str | None,
    modules: Sequence[str],
    rule_counters: str | None,
) -> Policy:
    from pliant.features import catalogue
    from pliant.policy.documents import policy_from_document

    document: dict[str, Any] = (
        held.to_document()
        if held
        else {"apiVersion": "pliant/v1", "kind": KIND, "metadata": {"name": NAME}, "spec": {}}
    )
    spec = document["spec"]
    before = spec.get("interfaces", [ALL] if held else [])
    spec["interfaces"] = list(dict.fromkeys([*before, *devices])) if devices else [ALL]
    if ALL in before:
        spec["interfaces"] = [ALL]
    spec |= {"mode": mode} if mode else {}
    spec |= {"modules": list(modules)} if modules else {}
    spec |= {"ruleCounters": rule_counters} if rule_counters else {}
    return policy_from_document(document, "pliant fastpath on", catalogue())


@click.command()
@_dev_option("Only this interface, or glob, as it was given to on. Can be given more than once.")
@reason_option()
@dry_run_option()
@output_option()
@click.pass_context
def off(ctx: click.Context, devices: tuple[str, ...], reason: str, dry_run: bool, output: str) -> None:
    """Leave all packets to the kernel again, or those that come in by some interfaces.

    Removes every policy of the fast path. 'pliant off --policy NAME' keeps the policy, and switches it off.
    """
    with open_host(ctx) as host:

        def work_out() -> Any:
            held = host.fastpath_policies()
            if devices:
                return _narrowed(host, held.get(NAME), devices, reason)
            if not held:
                raise PliantError("the fast path is not on")
            return host.change_to_delete(list(held), reason=reason)

        make(host, work_out, output=output, dry_run=dry_run)


def _narrowed(host: Host, held: FastpathPolicy | None, devices: Sequence[str], reason: str) -> Any:
    named = held.spec.interfaces if held else ()
    unknown = [name for name in devices if name not in named]
    if held is None or unknown:
        remedy = f"it names {', '.join(named)}; 'pliant fastpath off' takes all away, 'on --dev' names others"
        raise PliantError(
            f"the policy '{NAME}' does not name {', '.join(unknown or devices)}"
            if held
            else f"there is no policy '{NAME}'",
            remedy=remedy if held else "'pliant get' lists those there are",
        )
    left = [name for name in named if name not in devices]
    if not left:
        return host.change_to_delete([NAME], reason=reason)
    spec = held.spec.model_copy(update={"interfaces": tuple(left)})
    return host.change_to_apply([held.model_copy(update={"spec": spec})], reason=reason, allow_waiting=True)


def _tell_interfaces(host: Host, wishes: Any) -> None:
    """What came of it, or would, an interface a line."""
    wanted = host.compile().desired.fastpath if wishes is None else wishes
    rows = []
    for arranged in host.fastpath.arrangements(wanted):
        if arranged.wish is None:
            continue
        modules = ", ".join(module.name for module in arranged.modules) or "-"
        why = arranged.reasons[0].sentence if arranged.reasons and not arranged.modules else ""
        rows.append((arranged.way.name, str(arranged.mode or "not accelerated"), modules, why))
    click.echo()
    out.table(("interface", "mode", "modules", "why not"), rows, nothing="there is no such interface yet")


def _tell_of_agent(ctx: click.Context) -> None:
    from pliant.agent.client import NoAgent, ask

    try:
        ask(open_places(ctx).socket, "status")
    except NoAgent:
        click.echo(
            "\nno agent runs: this holds for the network as it is configured now, and does not follow its changes; "
            "start the agent ('pliant agent', or the service pliant) to have them followed",
            err=True,
        )
