# SPDX-License-Identifier: Apache-2.0
"""What is checked before anything is changed, each with a sentence and a remedy."""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from pliant.agent.actuator.attachments import attach_type
from pliant.agent.actuator.controls import taken
from pliant.agent.places import Places
from pliant.errors import PliantError
from pliant.features import features
from pliant.features.controls import OPTION, shipped_controls
from pliant.features.feature import HostFacts, Reach
from pliant.kernel import btf, sysctls
from pliant.kernel.cgroup_query import exclusive_owner
from pliant.kernel.congestion_controls import congestion_controls
from pliant.kernel.errors import NotSupported
from pliant.kernel.jiffies import jiffy_us
from pliant.kernel.pins import PinDirectory
from pliant.kernel.probes import probe
from pliant.kernel.tcp_options import TCP_RTO_MAX_MS, has_tcp_option
from pliant.plan.controls import RegisterControl
from pliant.plan.steps import Attach, Step
from pliant.policy.model import Policy
from pliant.policy.services import matching_cgroups
from pliant.policy.switches import Kind, Switched, Switches


def check_host(places: Places) -> None:
    """Raise :class:`PliantError` when this process or this kernel cannot do what Pliant is for."""
    if os.geteuid() != 0:
        raise PliantError("changing a host needs root", remedy="run it with sudo, or as root")
    if not btf.VMLINUX.exists():
        raise PliantError(
            f"this kernel has no type information ({btf.VMLINUX} is missing), which loading programs needs",
            remedy="use a kernel built with CONFIG_DEBUG_INFO_BTF=y, as Debian's are",
        )
    PinDirectory(places.pins).require()


def check_values(policies: Iterable[Policy]) -> None:
    """Raise when this host cannot give a policy what it asks for; every such policy is named."""
    policies = list(policies)
    facts = HostFacts(
        congestion_controls=congestion_controls(),
        shipped_controls=frozenset(shipped_controls()),
        controls_missing=_controls_missing(policies),
        rmem_max=_memory("net.core.rmem_max"),
        wmem_max=_memory("net.core.wmem_max"),
        jiffy_us=jiffy_us(),
        has_max_rto=has_tcp_option(TCP_RTO_MAX_MS),
    )
    complaints = [
        f"policy '{policy.name}': spec.tune.{option}: {complaint}"
        for policy in policies
        for option, value in policy.tune_values.items()
        if (complaint := features()[option].check(value, facts))
    ]
    if complaints:
        raise PliantError("\n".join(complaints), remedy="choose a value this host offers")


def _controls_missing(policies: Iterable[Policy]) -> str:
    """Why no congestion control of ours can be registered, if any policy wants one."""
    if any(policy.tune_values.get(OPTION) in shipped_controls() for policy in policies):
        support = probe("struct_ops_link").support
        return "" if support else support.reason
    return ""


def check_controls(plan: Sequence[Step]) -> None:
    """Raise when somebody else has registered a congestion control under a name that ours needs."""
    for step in plan:
        if isinstance(step, RegisterControl) and step.control in congestion_controls():
            raise taken(step.control)


def check_reach(policies: Iterable[Policy]) -> None:
    """Raise for policies that are for open connections, and set nothing that an open connection can be given.

    Where some of the options can be set on new connections only, these are. Raise for those that are for new
    connections, and set what all share.
    """
    policies = tuple(policies)
    shared = [
        f"policy '{policy.name}': spec.applyTo: {option} is shared by all connections, open ones too"
        for policy in policies
        for option in policy.tune_values
        if not policy.is_live and features()[option].reach is Reach.LIVE_ONLY
    ]
    if shared:
        raise PliantError("\n".join(shared), remedy="write applyTo: live")
    complaints = [
        f"policy '{policy.name}': spec.applyTo: {', '.join(policy.tune_values)} can be set on new connections only"
        for policy in policies
        if policy.is_live and all(features()[o].reach is Reach.NEW_ONLY for o in policy.tune_values)
    ]
    if complaints:
        raise PliantError("\n".join(complaints), remedy="write applyTo: new, or leave it out")


def _memory(name: str) -> int | None:
    try:
        return int(sysctls.read(name))
    except NotSupported:
        return None


def check_services(policies: Iterable[Policy], cgroups: Mapping[str, int]) -> None:
    """Raise when a policy's service matches no cgroup of this host."""
    wanted = {policy.spec.match.service: policy.name for policy in policies if policy.spec.match}
    found = {pattern for patterns in matching_cgroups(wanted, cgroups).values() for pattern in patterns}
    missing = sorted(wanted.keys() - found)
    if not missing:
        return
    names = {path.rpartition("/")[2] for path in cgroups} | set(cgroups)
    near = difflib.get_close_matches(missing[0], names, n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    raise PliantError(
        "\n".join(f"policy '{wanted[service]}': no service '{service}' on this host" for service in missing),
        remedy=f"{hint}'pliant get services' lists what there is; --allow-waiting keeps the policy until it appears",
    )


def check_switched_off(
    things: Iterable[Switched], off: Switches, stored: Collection[str], cgroups: Iterable[str]
) -> None:
    """Raise when something to be switched off is not there: a slip of the pen would leave on what was meant."""
    known = list(cgroups)
    for what in things:
        if off.get(what):
            continue
        if what.kind is Kind.POLICY and what.name not in stored:
            near = difflib.get_close_matches(what.name, stored, n=1)
            hint = f"did you mean '{near[0]}'? " if near else ""
            raise PliantError(
                f"there is no policy '{what.name}'", remedy=f"{hint}'pliant get' lists those there are"
            )
        if what.kind is Kind.SERVICE and not matching_cgroups({what.name}, known):
            near = difflib.get_close_matches(what.name, {path.rpartition("/")[2] for path in known}, n=1)
            hint = f"did you mean '{near[0]}'? " if near else ""
            raise PliantError(
                f"no service '{what.name}' on this host",
                remedy=f"{hint}'pliant get services' lists what there is; a policy can be switched off without it",
            )


def check_switched_on(things: Iterable[Switched], off: Switches) -> None:
    """Raise when a policy or a service to be switched on is not off."""
    for what in things:
        if what.kind is not Kind.HOST and not off.get(what):
            others = ", ".join(str(switch.what) for switch in off.off) or "nothing"
            raise PliantError(f"{what} is not off", remedy=f"off on this host: {others}")


def check_hooks(plan: Sequence[Step], cgroup_root: Path) -> None:
    """Raise when a cgroup's hook belongs to a program that lets no other beside it."""
    wanted = {(step.cgroup, attach_type(step.hook.program)) for step in plan if isinstance(step, Attach)}
    for path, hook in sorted(wanted):
        owner = exclusive_owner(cgroup_root / path.lstrip("/"), hook)
        if owner:
            raise PliantError(
                f"another program ('{owner.name}', id {owner.program_id}) holds the {hook.spoken} hook of {path} "
                "or of a cgroup above it, and lets no other program beside it",
                remedy="have its owner attach it with BPF_F_ALLOW_MULTI; Pliant touches nothing it did not attach",
            )
