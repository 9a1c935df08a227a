# SPDX-License-Identifier: Apache-2.0
"""What each policy, service and feature is doing on the host right now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pliant.agent.fastpath import interface_statuses
from pliant.agent.host import Host
from pliant.agent.sysctls import sysctl_statuses
from pliant.features import features
from pliant.features.controls import OPTION, shipped_controls
from pliant.features.layout import shipped_layout
from pliant.observe.controls import ControlPins, read_controls, read_flows
from pliant.observe.counters import Arms, read_arms, read_outcomes
from pliant.observe.state import HostState
from pliant.policy.desired import SCOPE
from pliant.policy.model import Policy
from pliant.policy.services import ancestors, lying_within, matching_cgroups
from pliant.policy.switches import Kind, Switch, Switched, Switches

TCP_LISTEN = 10  # include/net/tcp_states.h


@dataclass(frozen=True, slots=True)
class PolicyStatus:
    """One policy in force.

    ``state`` is ``active``, ``off`` (switched off: ``off`` says by whom, and where only some of its services are,
    ``state`` is ``active``), ``waiting`` (no such service here) or ``missing`` (not in the kernel, though it should be:
    the next change of the host mends it). ``services`` are those it is in force for, or would be were it not off.
    """

    policy: Policy
    number: int
    state: str
    services: tuple[str, ...]
    arms: Arms
    off: Switch | None = None


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """One cgroup: the policies that match its sockets, and our programs that run for its connections."""

    cgroup: str
    policies: tuple[str, ...]
    programs: tuple[str, ...]

    @property
    def name(self) -> str:
        """The last part of the path: a systemd unit's name."""
        return self.cgroup.rpartition("/")[2] or "/"


@dataclass(frozen=True, slots=True)
class FeatureStatus:
    """One feature: whether its program is loaded, how many policies in force set it, and what it has counted."""

    name: str
    reach: str
    summary: str
    loaded: bool
    policies: int
    outcomes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class ControlStatus:
    """One congestion control of ours.

    ``state`` is ``registered``, ``other-build`` (registered by another build of Pliant), ``broken`` (its pins are
    incomplete) or ``absent``. ``connections`` are the open ones that run it; None while it is not registered, for then
    nobody can list them.
    """

    name: str
    state: str
    build: str
    needs_ecn: bool
    policies: int
    connections: int | None = None


def policy_statuses(host: Host) -> list[PolicyStatus]:
    """The state of every transport policy in force, by name."""
    policies = host.policies()
    stored = host.journal.policies(host.journal.current())
    known = host.cgroups()
    by_pattern = _cgroups_by_pattern(policies, known)
    switches = host.switches()
    arms = read_arms(host.pins, shipped_layout().scope["policy"])
    found = host.observe(known)
    result = []
    for name, policy in sorted(policies.items()):
        services = tuple(by_pattern.get(policy.spec.match.service, ()))
        number = stored[name].number
        off, on = _off(name, services, switches)
        present = number in arms and all(_is_covered(path, known, found) for path in on)
        state = "off" if off and not on else ("active" if present else "missing") if services else "waiting"
        told = PolicyStatus(policy, number, state, on or services, arms.get(number, Arms()), off)
        result.append(told)
    return result


def all_policy_statuses(host: Host) -> list[PolicyStatus]:
    """The same, and that of policies about the host.

    One of sysctls is active when all is set but what somebody else has set since; one of the fast path when some
    interface is accelerated by it, and none lacks what it should run. Its services are these interfaces.
    """
    every = [*policy_statuses(host), *_of_sysctls(host), *_of_fastpaths(host)]
    return sorted(every, key=lambda status: status.policy.name)


def _of_sysctls(host: Host) -> list[PolicyStatus]:
    policies = host.sysctl_policies()
    if not policies:
        return []
    numbers, switches, known = (
        host.journal.numbering(host.journal.current()).numbers,
        host.switches(),
        host.cgroups(),
    )
    found = sysctl_statuses(host)
    result = []
    for name, policy in policies.items():
        services = tuple(sorted(matching_cgroups({policy.service}, known))) if policy.service else ()
        mine = [status for status in found if status.policy == name]
        off = switches.of_policy(name)
        done = all(status.state in ("set", "foreign") for status in mine)
        state = "off" if off else ("active" if done else "missing") if mine else "waiting"
        result.append(PolicyStatus(policy, numbers[name].number, state, services, Arms(), off))
    return result


def _of_fastpaths(host: Host) -> list[PolicyStatus]:
    policies = host.fastpath_policies()
    if not policies:
        return []
    numbers, switches = host.journal.numbering(host.journal.current()).numbers, host.switches()
    wishes = host.compile().desired.fastpath
    found = interface_statuses(host.fastpath, wishes, host.fastpath.arrangements(wishes))
    result = []
    for name, policy in policies.items():
        mine = [one for one in found if one.arranged.wish and one.arranged.wish.policy == name]
        accelerated = tuple(one.name for one in mine if one.state == "accelerated")
        off = switches.of_policy(name)
        state = "missing" if any(one.state == "pending" for one in mine) else "waiting"
        state = "off" if off else "active" if accelerated and state != "missing" else state
        result.append(PolicyStatus(policy, numbers[name].number, state, accelerated, Arms(), off))
    return result


def service_statuses(host: Host) -> list[ServiceStatus]:
    """Every cgroup of the host but the root, by path."""
    known = host.cgroups()
    policies = host.policies()
    switches = host.switches()
    excluded = lying_within(switches.services, known)
    policies = {name: policy for name, policy in policies.items() if not switches.of_policy(name)}
    matched = matching_cgroups({policy.spec.match.service for policy in policies.values()}, known)
    found = host.observe(known)
    result = []
    for path in sorted(known):
        line = (path, *ancestors(path))
        patterns = {pattern for cgroup in line for pattern in matched.get(cgroup, ())}
        if path in excluded:
            patterns = set()
        names = sorted(name for name, policy in policies.items() if policy.spec.match.service in patterns)
        programs = _programs(path, [policies[name] for name in names], known, found)
        if path != "/" or names or programs:
            result.append(ServiceStatus(path, tuple(names), programs))
    return result


def feature_statuses(host: Host) -> list[FeatureStatus]:
    """Every feature, by name."""
    found = host.observe()
    setting = Counter(option for policy in host.policies().values() for option in policy.tune_values)
    return [
        FeatureStatus(
            name,
            feature.reach.value,
            feature.option.summary,
            name in found.builds,
            setting[name],
            read_outcomes(host.pins, name),
        )
        for name, feature in features().items()
    ]


def _off(name: str, services: tuple[str, ...], switches: Switches) -> tuple[Switch | None, tuple[str, ...]]:
    """The switch that keeps a policy from all or some of its services, and the services that are left."""
    off = switches.of_policy(name)
    if off:
        return off, ()
    for pattern in sorted(switches.services):
        excluded = lying_within({pattern}, {above for path in services for above in (path, *ancestors(path))})
        if excluded & set(services):
            off = off or switches.get(Switched(Kind.SERVICE, pattern))
            services = tuple(path for path in services if path not in excluded)
    return off, services


def control_statuses(host: Host) -> list[ControlStatus]:
    """Every congestion control this installation brings, by name."""
    pins = ControlPins(host.places.pins)
    found = read_controls(pins)
    chosen = Counter(policy.tune_values.get(OPTION) for policy in host.policies().values())
    result = []
    for name, control in shipped_controls().items():
        held = found.registered.get(name)
        state = "broken" if name in found.partial else "absent"
        connections = None
        if held:
            state = "registered" if held == control.build else "other-build"
            connections = sum(flow.tcp_state != TCP_LISTEN for flow in read_flows(pins, name, held))
        build = held or control.build
        result.append(ControlStatus(name, state, build, control.needs_ecn, chosen[name], connections))
    return result


def _cgroups_by_pattern(policies: Mapping[str, Policy], known: Mapping[str, int]) -> dict[str, list[str]]:
    patterns = {policy.spec.match.service for policy in policies.values()}
    result: dict[str, list[str]] = {}
    for path, found in sorted(matching_cgroups(patterns, known).items()):
        for pattern in found:
            result.setdefault(pattern, []).append(path)
    return result


def _is_covered(path: str, known: Mapping[str, int], found: HostState) -> bool:
    on_scope = {hook.cgroup_id for hook in found.attachments if hook.program == SCOPE}
    return any(known.get(cgroup) in on_scope for cgroup in (path, *ancestors(path)))


def _programs(
    path: str, policies: Iterable[Policy], known: Mapping[str, int], found: HostState
) -> tuple[str, ...]:
    if not _is_covered(path, known, found):
        return ()
    options = {option for policy in policies for option in policy.tune_values}
    return (SCOPE, *sorted(options & found.builds.keys()))
