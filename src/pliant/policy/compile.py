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
from pliant.policy.fastpath import Wishes, wishes
from pliant.policy.model import HostPolicy, Policy
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

SPARE_CLASSES = 64  # kept, of services that were here before
MAX_RULE_POLICIES = 8  # MAX_RULE_POLICIES in scope.h
EVERY_PEER = ((0, 0),)

Prefix = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Compiled:
    """The result of a compilation.

    ``unmatched`` names the policies whose service no cgroup of this host has at present: they are kept ready, and
    nothing runs for them. ``conflicts`` is empty after a strict compilation.
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

    Policies of sysctls are numbered, and are no part of the result: which namespaces there are is not known here. What
    policies of the fast path ask for is, for whatever interfaces there are.

    What is ``off`` is left out, and numbered all the same; a strict compilation checks it with the rest, so that it
    can be switched on.

    Values and rules of a policy that waits for its service are part of the result: when it appears, only the cgroup has
    to be entered and attached to, and what was counted for the policy goes on.
    """
    return Compiler(policies, numbering, strict=strict, hooked=hooked, off=off).compile(cgroups)


@dataclass(frozen=True, slots=True)
class _Class:
    """What the policies of one service class come to, whichever cgroups are of it."""

    rules: Mapping[RuleKey, tuple[int, ...]]
    shapes: int
    options: frozenset[str]
    conflicts: tuple[Conflict, ...]


class Compiler:
    """Compiles one set of policies for a host again and again, while its services come and go.

    What does not depend on the cgroups is worked out once: compiling for another set of cgroups costs as much as there
    are cgroups, until service classes appear that were never seen. Parts of the result that are as they were are the
    same objects. Arguments and errors are those of :func:`compile_policies`.
    """

    def __init__(
        self,
        policies: Sequence[Policy],
        numbering: Numbering | None = None,
        *,
        strict: bool = True,
        hooked: frozenset[str] = frozenset(),
        off: Switches = ALL_ON,
    ) -> None:
        self.numbering = (numbering or Numbering()).extend(policies)
        self._strict, self._hooked, self._off = strict and not off, hooked, off
        self._all = Compiler(policies, self.numbering, hooked=hooked) if strict and off else None
        self._intents = [
            _intent(policy, self.numbering.numbers[policy.name].number)
            for policy in policies
            if not off.of_policy(policy.name) and not isinstance(policy, HostPolicy)
        ]
        self._wishes = wishes(policies, self.numbering, off)
        self._by_pattern: dict[str, list[_Intent]] = defaultdict(list)
        for intent in self._intents:
            self._by_pattern[intent.pattern].append(intent)
        self._versions = {intent.version.number: intent.version for intent in self._intents}
        self._options = frozenset(option for intent in self._intents for option in intent.version.settings)
        self._names = frozenset(
            (option, value)
            for intent in self._intents
            for option, value in intent.version.settings.items()
            if isinstance(value, str)
        )
        self._classes: dict[ServiceClass, _Class] = {}
        self._merged: tuple[frozenset[ServiceClass], Mapping[RuleKey, tuple[int, ...]]] = (frozenset(), {})

    @property
    def wishes(self) -> Wishes:
        """What policies of the fast path ask for."""
        return self._wishes

    @property
    def patterns(self) -> Collection[str]:
        """The services that policies name."""
        return self._by_pattern.keys()

    def compile(self, cgroups: Mapping[str, int]) -> Compiled:
        """Compile for a set of cgroups: paths from the root of the hierarchy, and ids."""
        if self._all:
            self._all.compile(cgroups)
        excluded = lying_within(self._off.services, cgroups)
        matched = matching_cgroups(self._by_pattern, cgroups)
        classes = classify({path: patterns for path, patterns in matched.items() if path not in excluded})
        seen = {pattern for c in classes.values() for pattern in c.patterns}
        standing = {ServiceClass.of(frozenset({pattern})) for pattern in self._by_pattern.keys() - seen}
        wanted = sorted(standing.union(classes.values()), key=lambda c: c.number)
        known = {c: self._class(c) for c in wanted}
        if len(self._classes) > SPARE_CLASSES + 2 * len(known):
            self._classes = dict(known)
        conflicts = tuple(sorted({conflict for c in known.values() for conflict in c.conflicts})[:20])
        if self._strict and conflicts:
            raise PolicyConflict(conflicts)
        shapes = {c.number: found.shapes for c, found in known.items()}
        options = {c.number: found.options for c, found in known.items()}
        desired = DesiredState(
            versions=self._versions,
            rules=self._rules(known),
            services=dict(_services(cgroups, classes | _exceptions(classes, excluded), shapes, options)),
            attachments=frozenset(_attachments(cgroups, classes, options, self._hooked)),
            options=self._options,
            names=self._names,
            fastpath=self._wishes,
        )
        unmatched = tuple(i.version.name for i in self._intents if i.pattern not in seen)
        return Compiled(desired, self.numbering, unmatched, conflicts)

    def _class(self, service_class: ServiceClass) -> _Class:
        found = self._classes.get(service_class)
        if found is None:
            found = self._classes[service_class] = self._compile_class(service_class)
        return found

    def _compile_class(self, service_class: ServiceClass) -> _Class:
        members = [
            intent for pattern in sorted(service_class.patterns) for intent in self._by_pattern[pattern]
        ]
        conflicts = _conflicts(members)
        rules: dict[RuleKey, tuple[int, ...]] = {}
        shapes = 0
        for key, versions in _rules(service_class.number, members):
            if self._strict and not conflicts:
                _refuse_crowd(versions)
            rules[key] = tuple(version.number for version in versions[:MAX_RULE_POLICIES])
            shapes |= 1 << key.shape
        options = frozenset(option for intent in members for option in intent.version.settings)
        return _Class(rules, shapes, options, conflicts)

    def _rules(self, known: Mapping[ServiceClass, _Class]) -> Mapping[RuleKey, tuple[int, ...]]:
        wanted = frozenset(known)
        if self._merged[0] != wanted:
            self._merged = (wanted, {key: to for c in known.values() for key, to in c.rules.items()})
        return self._merged[1]


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


def _conflicts(members: Sequence[_Intent]) -> tuple[Conflict, ...]:
    return tuple({conflict: None for role in Role for conflict in find_conflicts(_claims(members, role))})


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
