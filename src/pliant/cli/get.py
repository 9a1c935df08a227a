# SPDX-License-Identifier: Apache-2.0
"""``pliant get``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from pliant.agent.documents import (
    control_document,
    feature_document,
    policy_document,
    service_document,
    sysctl_document,
)
from pliant.agent.host import Host
from pliant.agent.status import (
    PolicyStatus,
    all_policy_statuses,
    control_statuses,
    feature_statuses,
    service_statuses,
)
from pliant.agent.sysctls import sysctl_statuses
from pliant.cli import output as out
from pliant.cli.connections import get_connections, limit_option
from pliant.cli.context import complete_policy, open_host, output_option
from pliant.errors import PliantError

KINDS = ("policies", "services", "features", "controls", "sysctls", "connections")


@click.command()
@click.argument("kind", type=click.Choice(KINDS), default="policies")
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete_policy)
@click.option(
    "--policy", metavar="NAME", shell_complete=complete_policy, help="Of connections: those it matches."
)
@click.option("--service", metavar="NAME", help="Of connections: those of this unit or cgroup.")
@limit_option()
@output_option()
@click.pass_context
def get(
    ctx: click.Context,
    kind: str,
    names: tuple[str, ...],
    policy: str | None,
    service: str | None,
    limit: int,
    output: str,
) -> None:
    """List policies (the default), services, features, controls, sysctls or connections, as the kernel has them now.

    Controls are the congestion controls that Pliant brings, sysctls those that policies set. Connections are the open
    ones of services that have policies; a policy in parentheses holds the connection out.
    """
    if kind == "connections":
        if names:
            raise PliantError(
                f"connections have no names such as '{names[0]}'", remedy="choose by --policy and --service"
            )
        with open_host(ctx) as host:
            get_connections(host, output, policy and policy.removeprefix("policy/"), service, limit)
        return
    if policy or service:
        raise PliantError(
            f"--policy and --service choose connections, not {kind}", remedy="give the names themselves"
        )
    with open_host(ctx) as host:
        listed = {
            "policies": _policies,
            "services": _services,
            "features": _features,
            "controls": _controls,
            "sysctls": _sysctls,
        }
        listed[kind](host, names, output)


def _policies(host: Host, names: Sequence[str], output: str) -> None:
    found = {status.policy.name: status for status in all_policy_statuses(host)}
    chosen = [found[name] for name in _chosen("policy", list(found), names)]
    out.show(
        output,
        plain=lambda: [policy_document(status) for status in chosen],
        names=lambda: [f"policy/{status.policy.name}" for status in chosen],
        people=lambda: out.table(
            ("name", "state", "priority", "service", "role", "tune", "treated", "held out"),
            [_policy_row(status) for status in chosen],
            nothing="no policy is in force",
        ),
    )


def _policy_row(status: PolicyStatus) -> tuple[str, ...]:
    spec = status.policy.to_document()["spec"]
    match = spec.get("match", {})
    return (
        status.policy.name,
        status.state,
        str(status.policy.priority),
        match.get("service", "-"),
        match.get("role", "-"),
        ",".join(f"{name}={value}" for name, value in _set_by(spec).items()),
        str(status.arms.treated),
        str(status.arms.held_out),
    )


def _set_by(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a policy says, of whatever kind it is."""
    if "interfaces" not in spec:
        found: Mapping[str, Any] = spec.get("tune", spec.get("sysctls", {}))
        return found
    lists = {name: "+".join(spec[name]) for name in ("interfaces", "modules") if name in spec}
    return {**lists, "mode": spec["mode"]}


def _services(host: Host, names: Sequence[str], output: str) -> None:
    statuses = service_statuses(host)
    chosen = [s for s in statuses if s.name in names or s.cgroup in names] if names else statuses
    known = {name for status in statuses for name in (status.name, status.cgroup)}
    _chosen("service", list(known), names)
    out.show(
        output,
        plain=lambda: [service_document(status) for status in chosen],
        names=lambda: [f"service/{status.cgroup}" for status in chosen],
        people=lambda: out.table(
            ("service", "policies", "programs", "cgroup"),
            [(s.name, ",".join(s.policies) or "-", ",".join(s.programs) or "-", s.cgroup) for s in chosen],
            nothing="this host has no cgroups",
        ),
    )


def _features(host: Host, names: Sequence[str], output: str) -> None:
    found = {status.name: status for status in feature_statuses(host)}
    chosen = [found[name] for name in _chosen("feature", list(found), names)]
    out.show(
        output,
        plain=lambda: [feature_document(status) for status in chosen],
        names=lambda: [f"feature/{status.name}" for status in chosen],
        people=lambda: out.table(
            ("feature", "reach", "policies", "applied", "refused", "what it sets"),
            [
                (
                    status.name,
                    status.reach,
                    str(status.policies),
                    str(status.outcomes.get("applied", 0)),
                    str(status.outcomes.get("refused", 0)),
                    status.summary,
                )
                for status in chosen
            ],
            nothing="this build has no features",
        ),
    )


def _controls(host: Host, names: Sequence[str], output: str) -> None:
    found = {status.name: status for status in control_statuses(host)}
    chosen = [found[name] for name in _chosen("control", list(found), names)]
    out.show(
        output,
        plain=lambda: [control_document(status) for status in chosen],
        names=lambda: [f"control/{status.name}" for status in chosen],
        people=lambda: out.table(
            ("control", "state", "policies", "connections", "needs ECN", "build"),
            [
                (
                    status.name,
                    status.state,
                    str(status.policies),
                    "-" if status.connections is None else str(status.connections),
                    "yes" if status.needs_ecn else "no",
                    status.build,
                )
                for status in chosen
            ],
            nothing="this build has no congestion controls",
        ),
    )


def _sysctls(host: Host, names: Sequence[str], output: str) -> None:
    statuses = sysctl_statuses(host)
    wanted = _chosen("sysctl", [status.name for status in statuses], names)
    chosen = [status for status in statuses if status.name in wanted]
    out.show(
        output,
        plain=lambda: [sysctl_document(status) for status in chosen],
        names=lambda: [f"sysctl/{status.name}" for status in chosen],
        people=lambda: out.table(
            ("sysctl", "of", "state", "policy", "owner", "wanted", "found", "before"),
            [
                (
                    status.name,
                    status.place.removeprefix("of "),
                    status.state,
                    status.policy,
                    status.owner or "-",
                    status.wanted or "-",
                    status.found or "-",
                    status.before or "-",
                )
                for status in chosen
            ],
            nothing="no policy sets a sysctl",
        ),
    )


def _chosen(noun: str, known: Sequence[str], names: Sequence[str]) -> Sequence[str]:
    wanted = [name.removeprefix(f"{noun}/") for name in names]
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise PliantError(
            f"there is no {noun} {', '.join(repr(name) for name in unknown)}",
            remedy="leave the name out to see those there are",
        )
    return wanted or known
