# SPDX-License-Identifier: Apache-2.0
"""Policies of the fast path: what people write, and what is asked for on each interface. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import combinations
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field

from pliant.policy.model import HostPolicy, Metadata, Policy, Written
from pliant.policy.numbering import Numbering
from pliant.policy.problems import rejection
from pliant.policy.switches import ALL_ON, Switches
from pliant.policy.units import quote

KIND = "FastPath"
LONGEST_NAME = 15  # IFNAMSIZ less the zero
GLOB = frozenset("*?[")

Module = Literal["route", "bridge", "filter", "nat", "overlay"]
MODULES: tuple[str, ...] = get_args(Module)
"""What a fast path can do, as people write it."""
Asked = Literal["auto", "native", "generic", "tc"]
"""How an interface is to run it; auto: in the driver or at tc, whichever makes nothing slower, or not at all."""

RuleCounters = Literal["kernel", "combined"]
"""Who counts for rules of nftables: the kernel alone, or the fast path as well."""


def _check_interface(name: str) -> str:
    example = "write for example eth0, or a glob such as eth*"
    if not name or "/" in name or name in (".", "..") or not name.isprintable() or " " in name:
        raise rejection(f"{quote(name)} is not the name of an interface", example)
    if len(name.encode()) > LONGEST_NAME and not is_glob(name):
        message = (
            f"{quote(name)} is longer than the {LONGEST_NAME} bytes that a name of an interface may have"
        )
        raise rejection(message, example)
    return name


def _check_each_once(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise rejection("the list is empty", "name some, or leave the field out to mean all")
    for index, name in enumerate(names):
        if name in names[:index]:
            raise rejection(f"{quote(name)} is in the list twice", "leave one of them out", at=(index,))
    return names


def is_glob(name: str) -> bool:
    """Whether a name stands for all that match it."""
    return not GLOB.isdisjoint(name)


class FastpathSpec(Written):
    """What is to be accelerated, and how."""

    interfaces: Annotated[
        tuple[Annotated[str, AfterValidator(_check_interface)], ...],
        Field(strict=False),
        AfterValidator(_check_each_once),
    ] = Field(
        ("*",),
        description="The interfaces whose packets are to be accelerated as they come in: names and globs; absent "
        "means all.",
        examples=[["eth0", "pod-*"]],
    )
    modules: Annotated[tuple[Module, ...], Field(strict=False), AfterValidator(_check_each_once)] | None = (
        Field(
            None,
            description="What may be done there; absent means all that can be.",
            examples=[["route", "filter"]],
        )
    )
    mode: Asked = Field(
        "auto",
        description="How: in the driver (native XDP), without its help (generic XDP), at tc, or whichever of native "
        "and tc makes nothing slower (auto). Where it cannot be as asked there is no fast path, never another one.",
    )
    ruleCounters: RuleCounters = Field(
        "kernel",
        description="Who counts for rules of nftables that count: the kernel alone, to which the fast path leaves all "
        "packets that come to such a rule (kernel), or each its own packets, so that the sum of both is right and nft "
        "and iptables show only the kernel's part (combined).",
    )
    priority: int = Field(
        100, ge=0, le=1_000_000, description="Which policy wins where two are for one interface: the higher."
    )


class FastpathPolicy(HostPolicy):
    """A policy of the fast path. It matches no connections, and tunes none."""

    kind: Literal["FastPath"] = Field(description="What the document is.", examples=[KIND])  # type: ignore[assignment]
    metadata: Metadata = Field(description="Who the policy belongs to and why it exists.")
    spec: FastpathSpec = Field(  # type: ignore[assignment]
        default_factory=FastpathSpec,
        description="What is to be accelerated, and how; absent means all that can be.",
    )


@dataclass(frozen=True, slots=True)
class Wish:
    """What a policy asks for on its interfaces; ``modules`` is None for all that can be.

    ``counts``: the fast path counts for rules of nftables that do.
    """

    policy: str
    priority: int
    number: int
    interfaces: tuple[str, ...]
    modules: frozenset[str] | None
    mode: Asked
    counts: bool = False

    def is_for(self, interface: str) -> bool:
        """Whether the policy is for an interface."""
        return any(fnmatchcase(interface, pattern) for pattern in self.interfaces)

    def names(self, interface: str) -> bool:
        """Whether it names the interface itself, and not by a glob."""
        return interface in self.interfaces

    def differs(self, other: Wish) -> bool:
        """Whether it asks for something else than another."""
        return (self.modules, self.mode, self.counts) != (other.modules, other.mode, other.counts)


@dataclass(frozen=True, slots=True)
class Wishes:
    """What all policies of the fast path ask for, that of the highest priority first."""

    all: tuple[Wish, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.all)

    def of(self, interface: str) -> Wish | None:
        """What is asked for on an interface; None where nothing is."""
        return next((wish for wish in self.all if wish.is_for(interface)), None)

    def counts(self, interface: str) -> bool:
        """Whether the fast path of an interface is to count for rules of nftables that do."""
        wish = self.of(interface)
        return wish is not None and wish.counts

    def draws(self, interfaces: Iterable[str]) -> Iterator[str]:
        """A sentence for each interface of which two policies of one priority want different things."""
        for name in interfaces:
            rivals = [wish for wish in self.all if wish.is_for(name)]
            best = [wish for wish in rivals if wish.priority == rivals[0].priority]
            for one, other in combinations(best, 2):
                if one.differs(other):
                    yield (
                        f"policies '{one.policy}' and '{other.policy}' are both for the interface {name}, with "
                        "different modules, modes or counters"
                    )


def wishes(policies: Iterable[Policy], numbering: Numbering, off: Switches = ALL_ON) -> Wishes:
    """What policies ask for, but for those that are off; of the same priority the lower number wins."""
    found = [
        Wish(
            policy=policy.name,
            priority=policy.priority,
            number=numbering.numbers[policy.name].number,
            interfaces=policy.spec.interfaces,
            modules=frozenset(policy.spec.modules) if policy.spec.modules else None,
            mode=policy.spec.mode,
            counts=policy.spec.ruleCounters == "combined",
        )
        for policy in fastpath_policies(policies)
        if not off.of_policy(policy.name)
    ]
    return Wishes(tuple(sorted(found, key=lambda wish: (-wish.priority, wish.number))))


def fastpath_policies(policies: Iterable[Policy]) -> Sequence[FastpathPolicy]:
    """Those of some policies that are for the fast path."""
    return [policy for policy in policies if isinstance(policy, FastpathPolicy)]
