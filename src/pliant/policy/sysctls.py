# SPDX-License-Identifier: Apache-2.0
"""Policies of sysctls: what people write, and which value each sysctl of each network namespace is to have. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import AfterValidator, Field, PlainValidator, WithJsonSchema, model_validator

from pliant.errors import PliantError
from pliant.policy.model import HostPolicy, Metadata, Written, check_service
from pliant.policy.problems import rejection
from pliant.policy.sysctl_keys import SYSCTLS, parse_sysctls

KIND = "SysctlPolicy"


class SysctlMatch(Written):
    """Whose network namespaces a policy of sysctls is for."""

    service: Annotated[str, AfterValidator(check_service)] = Field(
        description="A systemd unit, a cgroup path starting with '/', or a glob of either, whose processes have "
        "network namespaces of their own.",
        examples=["nginx.service", "/system.slice/nginx.service"],
    )


def _schema() -> dict[str, Any]:
    number = {"type": "integer"}
    return {
        "type": "object",
        "minProperties": 1,
        "additionalProperties": False,
        "properties": {
            name: {
                "description": f"{kind.summary} Takes {kind.takes}.",
                **(
                    {"type": "string"}
                    if not kind.bounds
                    else {"anyOf": [number, {"type": "string"}, {"type": "array", "items": number}]}
                ),
            }
            for name, kind in SYSCTLS.items()
        },
    }


class SysctlSpec(Written):
    """What a policy of sysctls sets, and where."""

    match: SysctlMatch | None = Field(
        None,
        description="Whose network namespaces; absent means that of the host, which most services share.",
    )
    sysctls: Annotated[dict[str, str], PlainValidator(parse_sysctls), WithJsonSchema(_schema())] = Field(
        description="The sysctls by name, each with its value; several numbers as a list, or as sysctl(8) takes them.",
        examples=[{"net.ipv4.tcp_rmem": "4096 131072 33554432"}],
    )
    priority: int = Field(
        100, ge=0, le=1_000_000, description="Which policy wins where two set the same sysctl: the higher."
    )

    @model_validator(mode="after")
    def _sets_what_services_have(self) -> Self:
        of_machine = [name for name in self.sysctls if SYSCTLS[name].per_machine] if self.match else []
        if of_machine:
            message = "there is one for the whole machine, and none in a service's network namespace"
            raise rejection(message, "leave match out", at=("sysctls", of_machine[0]))
        return self


class SysctlPolicy(HostPolicy):
    """A policy of sysctls in network namespaces. It matches no connections, and tunes none."""

    kind: Literal["SysctlPolicy"] = Field(description="What the document is.", examples=[KIND])  # type: ignore[assignment]
    metadata: Metadata = Field(description="Who the policy belongs to and why it exists.")
    spec: SysctlSpec = Field(description="What the policy sets, and where.")  # type: ignore[assignment]

    @property
    def service(self) -> str | None:
        """Whose network namespaces it is for; None for the host's."""
        return self.spec.match.service if self.spec.match else None


class SysctlKey(NamedTuple):
    """A sysctl of a network namespace, which is told by its cookie (``SO_NETNS_COOKIE``)."""

    namespace: int
    name: str


class Wanted(NamedTuple):
    """The value a sysctl is to have, as the kernel shows it, and the policy that says so."""

    value: str
    policy: str


class Claim(NamedTuple):
    """A policy of a priority sets a sysctl of a namespace; ``place`` says in words of which."""

    key: SysctlKey
    value: str
    policy: str
    priority: int
    number: int
    place: str


def settle_claims(claims: Iterable[Claim], *, strict: bool) -> dict[SysctlKey, Wanted]:
    """What each sysctl is to have: what the policy of highest priority says.

    Raises :class:`PliantError` when two of the same priority say different things; if not ``strict``, that of the lower
    number wins.
    """
    by_key: dict[SysctlKey, list[Claim]] = defaultdict(list)
    for claim in claims:
        by_key[claim.key].append(claim)
    found, complaints = {}, []
    for key, rivals in sorted(by_key.items()):
        rivals.sort(key=lambda claim: (-claim.priority, claim.number))
        best = rivals[0]
        found[key] = Wanted(best.value, best.policy)
        complaints += [
            f"policies '{best.policy}' and '{other.policy}' both set {key.name} {best.place}, "
            f"to {best.value} and to {other.value}"
            for other in rivals[1:]
            if other.priority == best.priority and other.value != best.value
        ]
    if strict and complaints:
        raise PliantError("\n".join(complaints), remedy="give one of them a higher spec.priority")
    return found
