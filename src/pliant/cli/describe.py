# SPDX-License-Identifier: Apache-2.0
"""``pliant describe``."""

from __future__ import annotations

import time
from typing import Any

import click

from pliant.agent.documents import policy_document
from pliant.agent.host import Host
from pliant.agent.status import PolicyStatus, all_policy_statuses
from pliant.agent.sysctls import sysctl_statuses
from pliant.cli import output as out
from pliant.cli.changes import spelled
from pliant.cli.context import complete_policy, open_host, output_option
from pliant.errors import PliantError
from pliant.features import features
from pliant.observe.counters import read_outcomes
from pliant.policy.fastpath import FastpathPolicy
from pliant.policy.sysctls import SysctlPolicy


@click.command()
@click.argument("name", shell_complete=complete_policy)
@output_option("table", "json", "yaml")
@click.pass_context
def describe(ctx: click.Context, name: str, output: str) -> None:
    """Show everything about one policy: what it says, where it is in force, and what came of it."""
    name = name.removeprefix("policy/")
    with open_host(ctx) as host:
        status = next((s for s in all_policy_statuses(host) if s.policy.name == name), None)
        if status is None:
            raise PliantError(f"there is no policy '{name}'", remedy="'pliant get' lists those there are")
        outcomes = {option: read_outcomes(host.pins, option) for option in status.policy.tune_values}
        if output == "table":
            _tell(host, status, outcomes)
        else:
            out.data(policy_document(status) | {"outcomes": outcomes}, output)


def _tell(host: Host, status: PolicyStatus, outcomes: dict[str, dict[str, int]]) -> None:
    document = status.policy.to_document()
    metadata, spec = document["metadata"], document["spec"]
    since = host.journal.since(status.policy.name)
    out.fields(
        {
            "Name": metadata["name"],
            "Owner": metadata.get("owner", "-"),
            "Reason": metadata.get("reason", "-"),
            "State": status.state + (f": {spelled(status.off)}" if status.off else ""),
            "In force since": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(since.started))
            + f" (generation {since.number}, {since.verb} by {since.actor})",
            "Priority": str(spec["priority"]),
        }
        | _where(status, spec)
    )
    click.echo()
    if isinstance(status.policy, SysctlPolicy):
        _tell_sysctls(host, status.policy)
        return
    if isinstance(status.policy, FastpathPolicy):
        click.echo("'pliant fastpath status' says what has come of it on each interface")
        return
    out.table(
        ("option", "value", "reach", "applied", "refused"),
        [
            (
                option,
                str(value),
                features()[option].reach.value,
                str(outcomes[option].get("applied", 0)),
                str(outcomes[option].get("refused", 0)),
            )
            for option, value in spec["tune"].items()
        ],
        nothing="it sets no option",
    )
    click.echo("\napplied and refused count the connections of all policies that set the option")


def _where(status: PolicyStatus, spec: dict[str, Any]) -> dict[str, str]:
    if isinstance(status.policy, FastpathPolicy):
        return {
            "Applies to": f"packets that come in by {_spelled(spec['interfaces'])}",
            "Mode": spec["mode"],
            "Modules": _spelled(spec.get("modules", "all that can be")),
            "Accelerated": "\n".join(status.services) or "none",
        }
    return _of_sysctls(status) if isinstance(status.policy, SysctlPolicy) else _of_connections(status, spec)


def _of_connections(status: PolicyStatus, spec: dict[str, Any]) -> dict[str, str]:
    return {
        "Applies to": f"{spec['applyTo']} connections",
        "Match": "\n".join(f"{field}: {_spelled(value)}" for field, value in spec["match"].items()),
        "Services here": "\n".join(status.services) or "none",
        "Connections": f"{status.arms.treated} treated, {status.arms.held_out} held out ({spec['holdout']})",
    }


def _of_sysctls(status: PolicyStatus) -> dict[str, str]:
    spec = status.policy.spec
    if not spec.match:
        return {"Applies to": "the network namespace of this host"}
    return {
        "Applies to": f"the network namespaces of {spec.match.service}",
        "Services here": "\n".join(status.services) or "none",
    }


def _tell_sysctls(host: Host, policy: SysctlPolicy) -> None:
    out.table(
        ("sysctl", "of", "state", "wanted", "found", "before"),
        [
            (s.name, s.place.removeprefix("of "), s.state, s.wanted or "-", s.found or "-", s.before or "-")
            for s in sysctl_statuses(host)
            if s.policy == policy.name
        ],
        nothing="no network namespace of its services is here",
    )


def _spelled(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
