# SPDX-License-Identifier: Apache-2.0
"""What a host should look like: the result of compiling policies, and nothing but data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple

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
    """The class of a cgroup's sockets and the port shapes (a bit each) that its rules use."""

    service_class: int
    shapes: int


class Attachment(NamedTuple):
    """The scope program on a cgroup, and with it on all cgroups below."""

    cgroup_id: int
    cgroup: str


@dataclass(frozen=True, slots=True)
class PolicyVersion:
    """One version of one policy, under a number that never names another.

    ``holdout_ppm`` is the share held out in parts per million; ``settings`` maps each option to its value, in the
    base units of :mod:`pliant.policy.units`.
    """

    number: int
    name: str
    priority: int
    holdout_ppm: int
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class DesiredState:
    """Everything the kernel must hold for a set of policies on one host."""

    versions: Mapping[int, PolicyVersion] = field(default_factory=dict)
    rules: Mapping[RuleKey, tuple[int, ...]] = field(default_factory=dict)
    services: Mapping[int, Service] = field(default_factory=dict)
    attachments: frozenset[Attachment] = frozenset()

    @property
    def programs(self) -> frozenset[str]:
        """The programs that must be loaded: scope, and a feature for each option that is set."""
        options = (option for version in self.versions.values() for option in version.settings)
        return frozenset((SCOPE, *options)) if self.attachments else frozenset()


NOTHING = DesiredState()
