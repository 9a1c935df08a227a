# SPDX-License-Identifier: Apache-2.0
"""The open connections of services that have policies: which policies each has, and what the kernel shows of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address
from typing import Any

from pliant.agent.host import Host
from pliant.errors import PliantError
from pliant.features import features
from pliant.features.feature import Reach
from pliant.kernel.cgroups import processes
from pliant.kernel.errors import KernelError
from pliant.kernel.namespaces import NetworkNamespace, network_namespaces
from pliant.kernel.sock_diag import Address, OpenSocket, find_socket
from pliant.observe.connections import OpenConnection, Survey, age, listening_ports, role_of, survey
from pliant.policy.candidates import Candidates
from pliant.policy.explain import Connection, Judged, explain
from pliant.policy.holdout import hash_connection, is_held_out
from pliant.policy.model import Policy
from pliant.policy.services import ancestors, matching_cgroups

AT_MOST = 1000
"""Connections that are read and judged unless more are asked for; the rest is counted."""


class Agreement(Enum):
    """How what the kernel shows of an option compares to what a policy asked for."""

    SAME = "the kernel has it"
    OLDER = "differs: the connection is older than the policy"
    APPLICATION = "differs: the application has set it"
    OTHER = "differs: the application has set it, or the connection is older than the policy"
    HIDDEN = "not visible: the kernel does not show it of an open connection"


@dataclass(frozen=True, slots=True)
class OptionState:
    """One option that a policy has won on a connection: asked for and shown, as people write them."""

    option: str
    policy: str
    asked: Any
    shown: Any
    agreement: Agreement


@dataclass(frozen=True, slots=True)
class Seen:
    """An open connection and what each policy makes of it, as :func:`pliant.policy.explain.explain` orders them."""

    connection: OpenConnection
    judged: tuple[Judged, ...]

    @property
    def winners(self) -> tuple[str, ...]:
        """The policies that have won an option."""
        return tuple(judged.policy for judged in self.judged if judged.won)


class Judge:
    """What the policies in force make of open connections; good for as long as the generation is in force."""

    def __init__(self, host: Host) -> None:
        self.generation = host.journal.current()
        stored = host.journal.policies(self.generation)
        self._numbers = {name: policy.number for name, policy in stored.items()}
        self._key = host.journal.holdout_key
        self.off = host.switches()
        self._since = host.journal.in_force_since(self.generation)
        # Among equals the older policy wins, which for explain() is the last.
        self.policies = tuple(sorted(host.policies().values(), key=lambda p: -self._numbers[p.name]))
        self._candidates = Candidates(self.policies)
        self._live = {policy.name: policy.is_live for policy in self.policies}

    def __call__(self, connection: OpenConnection, *, whole: bool = False) -> Seen:
        """Judge one connection: by the policies that match it, or by all there are, with why the others do not."""
        sock = connection.socket
        ends = Connection(
            connection.cgroup, connection.role, sock.local_port, ip_address(sock.remote), sock.remote_port
        )
        policies = self.policies if whole else self._candidates.of(ends)
        judged = explain(policies, ends, self.held_out(policies, ends), self.off)
        return Seen(connection, tuple(j for j in judged if whole or j.reason.matches))

    def held_out(self, policies: Iterable[Policy], ends: Connection) -> frozenset[str]:
        """Those of the policies that hold a connection out, whether they match it or not."""
        hashed = hash_connection(self._key, ends.peer, ends.local_port, ends.remote_port)
        return frozenset(
            policy.name
            for policy in policies
            if policy.holdout_ppm and is_held_out(policy.holdout_ppm, self._numbers[policy.name], hashed)
        )

    def options(self, seen: Seen) -> list[OptionState]:
        """Each option that was won on a connection, beside what the kernel shows of it now."""
        return [
            self._compare(seen.connection.socket, judged.policy, option, asked)
            for judged in seen.judged
            for option, asked in judged.won.items()
        ]

    def _compare(self, sock: OpenSocket, policy: str, name: str, asked: Any) -> OptionState:
        feature = features()[name]
        spelled = feature.option.spell(asked)
        shown = feature.read(sock) if feature.read else None
        if shown is None:
            return OptionState(name, policy, spelled, None, Agreement.HIDDEN)
        if type(shown) is type(asked) and feature.encode(shown) == feature.encode(asked):
            return OptionState(name, policy, spelled, spelled, Agreement.SAME)
        word = isinstance(shown, str) and not isinstance(asked, str)
        is_live = feature.reach is not Reach.NEW_ONLY and self._live[policy]
        agreement = Agreement.APPLICATION if is_live else self._since_when(sock, policy)
        return OptionState(name, policy, spelled, shown if word else feature.option.spell(shown), agreement)

    def _since_when(self, sock: OpenSocket, policy: str) -> Agreement:
        """Why a connection may differ from what a policy asks, by which of the two was there first."""
        known = age(sock)
        if known is not None and sock.read_at - known.seconds < self._since[policy]:
            return Agreement.OLDER
        return Agreement.APPLICATION if known is not None and known.is_exact else Agreement.OTHER


def connections(
    host: Host,
    judge: Judge,
    *,
    policy: str | None = None,
    service: str | None = None,
    at_most: int = AT_MOST,
) -> tuple[list[Seen], Survey]:
    """The open connections of services that have policies, or of one policy's or of one service; and the survey.

    Raises :class:`PliantError` when there is no such policy or service.
    """
    known = host.cgroups()
    chosen = _chosen(judge.policies, policy)
    matched = matching_cgroups({p.spec.match.service for p in chosen}, known)
    if service is not None:
        wanted = set(matching_cgroups({service}, known))
        if not wanted:
            raise PliantError(
                f"--service: '{service}' is on this host under no such name",
                remedy="'pliant get services' lists the cgroups' paths",
            )
    paths = {
        path for path in known if _is_below(path, matched) and (service is None or _is_below(path, wanted))
    }
    found = survey({known[path]: path for path in paths}, namespaces_of(host, paths), at_most)
    seen = [judge(connection) for connection in found.connections]
    if policy is not None:
        seen = [s for s in seen if any(j.policy == policy and j.reason.matches for j in s.judged)]
    return seen, found


def _chosen(policies: Iterable[Policy], name: str | None) -> list[Policy]:
    chosen = [policy for policy in policies if name in (None, policy.name)]
    if name is not None and not chosen:
        raise PliantError(f"there is no policy '{name}'", remedy="'pliant get' lists those there are")
    return chosen


def _is_below(path: str, cgroups: Iterable[str] | Mapping[str, Any]) -> bool:
    return any(cgroup in cgroups for cgroup in (path, *ancestors(path)))


def namespaces_of(host: Host, paths: Iterable[str]) -> list[NetworkNamespace]:
    """The network namespaces of the processes in cgroups, after this process's own."""
    return network_namespaces(
        pid for path in sorted(paths) for pid in processes(host.cgroup_root / path.lstrip("/"))
    )


def _socket_in(
    namespace: NetworkNamespace, local: tuple[Address, int], peer: tuple[Address, int]
) -> OpenSocket | None:
    try:
        return find_socket(*local, *peer, netns=namespace.path)
    except KernelError:
        if namespace.path is None or namespace.path.exists():
            raise
        return None  # the process that it was found by has ended


def find_connection(
    host: Host,
    local: tuple[Address, int],
    peer: tuple[Address, int],
    namespaces: Iterable[NetworkNamespace],
    role: str | None = None,
) -> OpenConnection:
    """Find one open connection of this host by its ends. Raises :class:`PliantError` where there is no one such."""
    found = [
        (sock, namespace)
        for namespace in namespaces
        if (sock := _socket_in(namespace, local, peer)) is not None
    ]
    if not found:
        raise PliantError(
            "there is no such connection in any network namespace of this host's processes",
            remedy="ss -tn lists those there are; with --service the answer is worked out for one that is not there",
        )
    if len(found) > 1:
        names = ", ".join(namespace.name for _, namespace in found)
        raise PliantError(
            f"several network namespaces have such a connection: {names}", remedy="name one with --netns"
        )
    [(sock, namespace)] = found
    paths = {number: path for path, number in host.cgroups().items()}
    if sock.cgroup_id not in paths:
        raise PliantError(
            f"the connection is {sock.state}, and the kernel "
            + (
                f"names cgroup {sock.cgroup_id} for it, which is gone"
                if sock.cgroup_id
                else "names no cgroup for it"
            ),
            remedy="name its service with --service",
        )
    return OpenConnection(
        sock, paths[sock.cgroup_id], role or role_of(sock, listening_ports(namespace)), namespace
    )
