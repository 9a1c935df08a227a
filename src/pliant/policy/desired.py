# SPDX-License-Identifier: Apache-2.0
"""What a host should look like: the result of compiling policies, and nothing but data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple

from pliant.policy.fastpath import Wishes
from pliant.policy.sysctls import SysctlKey, Wanted

ANY_PORT = 0
SCOPE = "scope"
V4_MAPPED = 0xFFFF << 32
"""The address bits that turn an IPv4 address into its v4-mapped IPv6 one (RFC 4291 2.5.5.2)."""


class Role(IntEnum):
    """Which end of the connection the service is; the numbers are those of ``enum role`` in scope.h."""

    SERVER = 1
    CLIENT = 2


class RuleKey(NamedTuple):
    """Which connections a rule is for: all fields equal, and the peer within the prefix.

    ``peer`` is an address of 128 bits, IPv4 as v4-mapped IPv6 (RFC 4291 2.5.5.2), ``peer_bits`` the prefix length
    in 0..128. A port of 0 stands for every port.
    """

    service_class: int
    role: Role
    local_port: int
    remote_port: int
    peer: int
    peer_bits: int

    @property
    def shape(self) -> int:
        """Which ports the key carries: ``enum shape`` in scope.h."""
        return (self.local_port != ANY_PORT) | (self.remote_port != ANY_PORT) << 1


class Service(NamedTuple):
    """The class of a cgroup's sockets, the port shapes (a bit each) its rules use and the options its policies set."""

    service_class: int
    shapes: int
    options: frozenset[str] = frozenset()


class Attachment(NamedTuple):
    """A program on a cgroup, and with it on all cgroups below: scope, or that of a feature with a hook of its own."""

    cgroup_id: int
    cgroup: str
    program: str = SCOPE


@dataclass(frozen=True, slots=True)
class PolicyVersion:
    """One version of one policy, under a number that never names another.

    ``holdout_ppm`` is the share held out in parts per million; ``settings`` maps each option to its value, in the
    base units of :mod:`pliant.policy.units`. ``live`` says that it is for connections that are open already, too;
    ``measured`` that what becomes of its connections is recorded.
    """

    number: int
    name: str
    priority: int
    holdout_ppm: int
    settings: Mapping[str, Any]
    live: bool = False
    measured: bool = False


@dataclass(frozen=True, slots=True)
class DesiredState:
    """Everything the kernel must hold for a set of policies on one host.

    ``options`` are those that any policy sets, also one that waits for its service: their programs are loaded, so that
    a service that appears only has to be attached to. ``names`` are the values of theirs that are words. ``sysctls``
    are those of network namespaces that policies set; ``fastpath`` is what is to be accelerated.
    """

    versions: Mapping[int, PolicyVersion] = field(default_factory=dict)
    rules: Mapping[RuleKey, tuple[int, ...]] = field(default_factory=dict)
    services: Mapping[int, Service] = field(default_factory=dict)
    attachments: frozenset[Attachment] = frozenset()
    options: frozenset[str] = frozenset()
    names: frozenset[tuple[str, str]] = frozenset()
    sysctls: Mapping[SysctlKey, Wanted] = field(default_factory=dict)
    fastpath: Wishes = field(default_factory=Wishes)

    @property
    def programs(self) -> frozenset[str]:
        """The programs that must be loaded: scope, and a feature for each option that is set."""
        return self.options | {SCOPE} if self.options else frozenset()


NOTHING = DesiredState()
