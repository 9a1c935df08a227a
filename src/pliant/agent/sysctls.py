# SPDX-License-Identifier: Apache-2.0
"""Which network namespaces policies of sysctls are for on this host, and what has become of the sysctls they set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pliant.errors import PliantError
from pliant.kernel import sysctls
from pliant.kernel.cgroups import processes
from pliant.kernel.errors import NotSupported
from pliant.kernel.namespaces import Namespaces
from pliant.observe.sysctls import SysctlState, read_sysctls
from pliant.policy.model import Policy
from pliant.policy.numbering import Numbering
from pliant.policy.services import lying_within, matching_cgroups
from pliant.policy.switches import Switches
from pliant.policy.sysctls import Claim, SysctlKey, SysctlPolicy, Wanted, settle_claims
from pliant.store.holdings import Holdings

if TYPE_CHECKING:
    from pliant.agent.host import Host

OF_HOST = "of this host"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The cgroups of the host, where they are mounted, and its network namespaces."""

    cgroups: Mapping[str, int]
    cgroup_root: Path
    namespaces: Namespaces

    def of_service(self, pattern: str, off: Switches) -> dict[int, str]:
        """The namespaces of the processes of services, but for the host's, each with a service's name."""
        excluded = lying_within(off.services, self.cgroups)
        found: dict[int, str] = {}
        for path in sorted(matching_cgroups({pattern}, self.cgroups)):
            if path not in excluded:
                place = f"of {path.rpartition('/')[2] or '/'}"
                found = dict.fromkeys(self._inside(path), place) | found
        found.pop(self.namespaces.own, None)
        return found

    def shares_the_hosts(self, pattern: str) -> bool:
        """Whether a process of such a service is in the host's namespace."""
        matched = matching_cgroups({pattern}, self.cgroups)
        return any(self.namespaces.own in self._inside(path) for path in matched)

    def _inside(self, path: str) -> frozenset[int]:
        top = self.cgroup_root / path.lstrip("/")
        return self.namespaces.of_processes(
            pid for group in (top, *top.rglob("*/")) for pid in processes(group)
        )


def sysctl_policies(policies: Iterable[Policy]) -> list[SysctlPolicy]:
    """Those of some policies that are for sysctls."""
    return [policy for policy in policies if isinstance(policy, SysctlPolicy)]


def wanted_sysctls(
    policies: Iterable[SysctlPolicy],
    numbering: Numbering,
    off: Switches,
    surroundings: Surroundings,
    *,
    strict: bool,
) -> dict[SysctlKey, Wanted]:
    """What the sysctls of this host's namespaces are to be; see :func:`settle_claims`."""
    claims: list[Claim] = []
    for policy in policies:
        if off.of_policy(policy.name):
            continue
        number = numbering.numbers[policy.name].number
        for cookie, place in _places(policy, off, surroundings).items():
            claims += (
                Claim(SysctlKey(cookie, name), value, policy.name, policy.priority, number, place)
                for name, value in policy.spec.sysctls.items()
            )
    return settle_claims(claims, strict=strict)


def _places(policy: SysctlPolicy, off: Switches, surroundings: Surroundings) -> dict[int, str]:
    if policy.service is None:
        return {surroundings.namespaces.own: OF_HOST}
    return surroundings.of_service(policy.service, off)


def check_sysctls(policies: Iterable[SysctlPolicy], surroundings: Surroundings) -> None:
    """Raise when this host cannot give policies the sysctls they set; every such policy is named."""
    missing, shared = [], []
    for policy in policies:
        if policy.service is None:
            missing += [f"policy '{policy.name}': {sentence}" for sentence in _missing(policy.spec.sysctls)]
        elif surroundings.shares_the_hosts(policy.service):
            shared.append(
                f"policy '{policy.name}': spec.match.service: processes of '{policy.service}' are in the host's "
                "network namespace, where every other process would have these sysctls too"
            )
    if shared:
        raise PliantError("\n".join(shared), remedy="leave match out to set them for the host")
    if missing:
        raise PliantError("\n".join(missing), remedy="leave them out")


def _missing(names: Iterable[str]) -> Iterator[str]:
    for name in names:
        try:
            sysctls.read(name)
        except NotSupported as error:
            yield error.message
        else:
            if not sysctls.can_be_written(name):
                yield f"the sysctl {name} cannot be set from this network namespace"


@dataclass(frozen=True, slots=True)
class SysctlStatus:
    """One sysctl that is ours or is to be.

    ``place`` says of which namespace; ``policy`` wants it to be ``wanted`` (None: none does any more), and ``owner``
    answers for that. ``found`` is what it is and ``before`` what it was before us; None where that is not known.
    ``state`` is ``set``, ``unset`` (the next change of the host mends that), ``foreign`` (somebody else has set it
    since, and it is left alone) or ``absent`` (the namespace has none of that name). ``since`` is when it became ours.
    """

    name: str
    namespace: int
    place: str
    policy: str
    owner: str
    wanted: str | None
    found: str | None
    before: str | None
    state: str
    since: float | None


def sysctl_statuses(host: Host) -> list[SysctlStatus]:
    """Every sysctl that is ours or is to be, by name and namespace."""
    policies = {policy.name: policy for policy in host.sysctl_policies().values()}
    surroundings = host.surroundings()
    numbering, off = host.journal.numbering(host.journal.current()), host.switches()
    wanted = wanted_sysctls(policies.values(), numbering, off, surroundings, strict=False)
    holdings = Holdings(host.places.state)
    held = holdings.held()
    states = read_sysctls(wanted, {key: one.holding for key, one in held.items()}, surroundings.namespaces)
    places = {
        cookie: place for p in policies.values() for cookie, place in _places(p, off, surroundings).items()
    }
    result = []
    for key, state in sorted(states.items(), key=lambda entry: (entry[0].name, entry[0].namespace)):
        want = wanted.get(key)
        policy = want.policy if want else state.holding.policy if state.holding else ""
        own = OF_HOST if key.namespace == surroundings.namespaces.own else "of a namespace without a policy"
        result.append(
            SysctlStatus(
                name=key.name,
                namespace=key.namespace,
                place=places.get(key.namespace, own),
                policy=policy,
                owner=(policies[policy].metadata.owner or "") if policy in policies else "",
                wanted=want.value if want else None,
                found=state.value,
                before=state.holding.before if state.holding else None,
                state=_state(state, want),
                since=held[key].since if key in held else None,
            )
        )
    return result


def _state(state: SysctlState, want: Wanted | None) -> str:
    if state.value is None:
        return "absent"
    if state.is_foreign and (want is None or state.value != want.value):
        return "foreign"
    return "set" if want and state.holding and state.value == want.value else "unset"


def said_of_foreign(status: SysctlStatus) -> str:
    """A sentence on a sysctl that somebody else has set."""
    return (
        f"somebody else has set the sysctl {status.name} {status.place} to {status.found}, where policy "
        f"'{status.policy}' asks for {status.wanted}: it is left alone"
    )
