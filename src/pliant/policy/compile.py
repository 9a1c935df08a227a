# SPDX-License-Identifier: Apache-2.0
"""Compiles policies and a host's cgroups to the state the kernel should be in. Pure: no I/O, no clock, no chance."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from itertools import product

from pliant.errors import PliantError
from pliant.policy.conflicts import Claim, Conflict, PolicyConflict, contains, find_conflicts
from pliant.policy.desired import (
    ANY_PORT,
    V4_MAPPED,
    Attachment,
    DesiredState,
    PolicyVersion,
    Role,
    RuleKey,
    Service,
)
from pliant.policy.model import Policy
from pliant.policy.numbering import Numbering
from pliant.policy.services import (
    NO_CLASS,
    ServiceClass,
    ancestors,
    classify,
    lying_within,
    matching_cgroups,
)
from pliant.policy.switches import ALL_ON, Switches

MAX_RULE_POLICIES = 8  # MAX_RULE_POLICIES in scope.h
EVERY_PEER = ((0, 0),)

Prefix = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Compiled:
    """The result of a compilation.

    ``unmatched`` names the policies whose service no cgroup of this host has at present: they are kept, and
    nothing is done for them. ``conflicts`` is empty after a strict compilation.
    """

    desired: DesiredState
    numbering: Numbering
    unmatched: tuple[str, ...]
    conflicts: tuple[Conflict, ...] = ()


@dataclass(frozen=True, slots=True)
class _Intent:
    """A policy, as far as rules are concerned."""

    version: PolicyVersion
    pattern: str
    roles: tuple[Role, ...]
    ports: tuple[tuple[int, int], ...]
    peers: tuple[Prefix, ...]


def compile_policies(
    policies: Sequence[Policy],
    cgroups: Mapping[str, int],
    numbering: Numbering | None = None,
    *,
    strict: bool = True,
    hooked: frozenset[str] = frozenset(),
    off: Switches = ALL_ON,
) -> Compiled:
    """Compile policies for a host.

    ``cgroups`` maps each cgroup's path from the root of the hierarchy to its id; ``numbering`` is that of the
    policies in force before; ``hooked`` names the options whose feature has a hook of its own on the service's
    cgroup. A strict compilation raises :class:`PolicyConflict` with every conflicting pair (up to
    twenty), and :class:`PliantError` when more than eight policies match one connection. One that is not is for
    policies accepted earlier: a service that has appeared since may have made two of them meet. It reports the
    conflicts, in which the policy with the lower number wins, and leaves out of a rule what is beyond eight.

    What is ``off`` is left out, and numbered all the same; a strict compilation checks it with the rest, so that it
    can be switched on.
    """
    numbers = (numbering or Numbering()).extend(policies)
    if not off:
        return _compile(policies, cgroups, numbers, strict, hooked, frozenset())
    if strict:
        _compile(policies, cgroups, numbers, strict, hooked, frozenset())
    on = [policy for policy in policies if not off.of_policy(policy.name)]
    return _compile(on, cgroups, numbers, False, hooked, off.services)


def _compile(
    policies: Sequence[Policy],
    cgroups: Mapping[str, int],
    numbers: Numbering,
    strict: bool,
    hooked: frozenset[str],
    off_services: frozenset[str],
) -> Compiled:
    intents = [_intent(policy, numbers.numbers[policy.name].number) for policy in policies]
    matched = matching_cgroups({intent.pattern for intent in intents}, cgroups)
    excluded = lying_within(off_services, cgroups)
    classes = classify({path: patterns for path, patterns in matched.items() if path not in excluded})
    by_pattern: dict[str, list[_Intent]] = defaultdict(list)
    for intent in intents:
        by_pattern[intent.pattern].append(intent)
    by_class = {
        c: [intent for pattern in sorted(c.patterns) for intent in by_pattern[pattern]]
        for c in sorted(set(classes.values()), key=lambda c: c.number)
    }
    seen_patterns = {pattern for c in classes.values() for pattern in c.patterns}
    waiting = [members for pattern, members in by_pattern.items() if pattern not in seen_patterns]
    conflicts = _conflicts([*by_class.values(), *waiting])
    if strict and conflicts:
        raise PolicyConflict(conflicts)

    rules: dict[RuleKey, tuple[int, ...]] = {}
    shapes: dict[int, int] = defaultdict(int)
    for service_class, members in by_class.items():
        for key, versions in _rules(service_class.number, members):
            if strict:
                _refuse_crowd(versions)
            rules[key] = tuple(version.number for version in versions[:MAX_RULE_POLICIES])
            shapes[key.service_class] |= 1 << key.shape
    options = {
        c.number: frozenset(option for intent in members for option in intent.version.settings)
        for c, members in by_class.items()
    }
    desired = DesiredState(
        versions={i.version.number: i.version for i in intents if i.pattern in seen_patterns},
        rules=rules,
        services=dict(_services(cgroups, classes | _exceptions(classes, excluded), shapes, options)),
        attachments=frozenset(_attachments(cgroups, classes, options, hooked)),
        options=frozenset(option for intent in intents for option in intent.version.settings),
        names=frozenset(
            (option, value)
            for intent in intents
            for option, value in intent.version.settings.items()
            if isinstance(value, str)
        ),
    )
    unmatched = tuple(i.version.name for i in intents if i.pattern not in seen_patterns)
    return Compiled(desired, numbers, unmatched, conflicts)


def _intent(policy: Policy, number: int) -> _Intent:
    version = PolicyVersion(
        number,
        policy.name,
        policy.priority,
        policy.holdout_ppm,
        policy.tune_values,
        live=policy.is_live,
        measured=policy.is_measured,
    )
    return _Intent(
        version=version,
        pattern=policy.spec.match.service,
        roles=tuple(Role[role.upper()] for role in policy.roles),
        ports=tuple(product(policy.local_ports or (ANY_PORT,), policy.remote_ports or (ANY_PORT,))),
        peers=tuple(mapped_prefix(prefix) for prefix in policy.prefixes) or EVERY_PEER,
    )


def mapped_prefix(prefix: IPv4Network | IPv6Network) -> Prefix:
    """A prefix as (address, length) of 128 bits, IPv4 as v4-mapped IPv6 (RFC 4291 2.5.5.2)."""
    if prefix.version == 4:
        return V4_MAPPED | int(prefix.network_address), 96 + prefix.prefixlen
    return int(prefix.network_address), prefix.prefixlen


def _conflicts(groups: Iterable[Sequence[_Intent]]) -> tuple[Conflict, ...]:
    found: dict[Conflict, None] = {}
    for members in groups:
        for role in Role:
            found.update(dict.fromkeys(find_conflicts(_claims(members, role))))
    return tuple(sorted(found)[:20])


def _claims(members: Iterable[_Intent], role: Role) -> Iterator[Claim]:
    for intent in members:
        if role not in intent.roles:
            continue
        version = intent.version
        options = tuple(version.settings)
        for (peer, bits), (local_port, remote_port) in product(intent.peers, intent.ports):
            yield Claim(peer, bits, local_port, remote_port, version.name, version.priority, options)


def _rules(service_class: int, members: Iterable[_Intent]) -> Iterator[tuple[RuleKey, list[PolicyVersion]]]:
    """The rules of one class: each prefix names its own policies and those of every prefix around it.

    A prefix comes before those around it: written in this order, no connection is without a policy that moves inwards.
    """
    grouped: dict[tuple[Role, int, int], dict[Prefix, list[PolicyVersion]]] = {}
    for intent in members:
        for role, (local_port, remote_port) in product(intent.roles, intent.ports):
            prefixes = grouped.setdefault((role, local_port, remote_port), {})
            for prefix in intent.peers:
                prefixes.setdefault(prefix, []).append(intent.version)
    for (role, local_port, remote_port), prefixes in grouped.items():
        for (peer, bits), versions in reversed(list(_merged(prefixes))):
            yield RuleKey(service_class, role, local_port, remote_port, peer, bits), versions


def _merged(prefixes: Mapping[Prefix, list[PolicyVersion]]) -> Iterator[tuple[Prefix, list[PolicyVersion]]]:
    path: list[tuple[Prefix, list[PolicyVersion]]] = []
    for prefix in sorted(prefixes):
        while path and not contains(*path[-1][0], *prefix):
            path.pop()
        inherited = path[-1][1] if path else []
        path.append((prefix, _effective(prefixes[prefix] + inherited)))
        yield path[-1]


def _effective(versions: list[PolicyVersion]) -> list[PolicyVersion]:
    """The versions in order of priority, without those that could never win any option."""
    if len(versions) == 1:
        return versions
    kept: list[PolicyVersion] = []
    taken: set[str] = set()
    ordered = sorted({v.number: v for v in versions}.values(), key=lambda v: (-v.priority, v.number))
    for version in ordered:
        if taken.issuperset(version.settings):
            continue
        kept.append(version)
        if not version.holdout_ppm:  # a connection it holds out goes to the next
            taken.update(version.settings)
    return kept


def _refuse_crowd(versions: Sequence[PolicyVersion]) -> None:
    if len(versions) > MAX_RULE_POLICIES:
        names = ", ".join(f"'{version.name}'" for version in versions)
        raise PliantError(
            f"{len(versions)} policies match the same connections: {names}; at most {MAX_RULE_POLICIES} can",
            remedy="merge some of them, or narrow their spec.match",
        )


def _services(
    cgroups: Mapping[str, int],
    classes: Mapping[str, ServiceClass],
    shapes: Mapping[int, int],
    options: Mapping[int, frozenset[str]],
) -> Iterator[tuple[int, Service]]:
    """The entries of the cgroups whose class is another than that of the cgroups above: scope looks upwards.

    A cgroup comes before those above it, for the reason that a prefix does.
    """
    for path, service_class in sorted(classes.items(), reverse=True, key=lambda found: found[0]):
        above = next((classes[a] for a in ancestors(path) if a in classes), None)
        if service_class != above:
            number = service_class.number
            yield cgroups[path], Service(number, shapes.get(number, 0), options.get(number, frozenset()))


def _exceptions(classes: Mapping[str, ServiceClass], excluded: Collection[str]) -> dict[str, ServiceClass]:
    """The class without rules, for cgroups that would otherwise be found to belong to the class of one above."""
    below = (path for path in _topmost(excluded) if any(above in classes for above in ancestors(path)))
    return dict.fromkeys(below, NO_CLASS)


def _attachments(
    cgroups: Mapping[str, int],
    classes: Mapping[str, ServiceClass],
    options: Mapping[int, frozenset[str]],
    hooked: frozenset[str],
) -> Iterator[Attachment]:
    """Where programs go: one runs for the sockets of all cgroups below, so the topmost ones that need it do."""
    for path in _topmost(classes):
        yield Attachment(cgroups[path], path)
    for option in sorted(hooked):
        for path in _topmost({p for p, c in classes.items() if option in options[c.number]}):
            yield Attachment(cgroups[path], path, option)


def _topmost(paths: Collection[str]) -> list[str]:
    return [path for path in paths if not any(above in paths for above in ancestors(path))]
