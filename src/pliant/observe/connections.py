# SPDX-License-Identifier: Apache-2.0
"""The open TCP connections of services, in every network namespace that their processes are in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pliant.kernel.errors import KernelError
from pliant.kernel.namespaces import NetworkNamespace
from pliant.kernel.sock_diag import OpenSocket, list_sockets


class Age(NamedTuple):
    """How long a connection has been established, in seconds; a lower bound where it is not exact."""

    seconds: float
    is_exact: bool


@dataclass(frozen=True, slots=True)
class OpenConnection:
    """One open connection of a service; ``cgroup`` is its path from the root of the hierarchy."""

    socket: OpenSocket
    cgroup: str
    role: str
    namespace: NetworkNamespace


@dataclass(frozen=True, slots=True)
class Survey:
    """Open connections, at most as many as were asked for, and how many there are.

    ``is_complete`` is False where even counting was given up; ``unseen`` says which namespaces could not be looked
    into, and why.
    """

    connections: tuple[OpenConnection, ...]
    total: int
    is_complete: bool = True
    unseen: tuple[str, ...] = ()


def survey(cgroups: Mapping[int, str], namespaces: Sequence[NetworkNamespace], at_most: int) -> Survey:
    """Look at the open connections of cgroups, given by id with their paths."""
    found: list[OpenConnection] = []
    total, complete, unseen = 0, True, []
    share = max(at_most // max(len(namespaces), 1), 1)
    for position, namespace in enumerate(namespaces):
        left = at_most - len(found) - share * (len(namespaces) - position - 1)
        try:
            listing = list_sockets(cgroups=cgroups, at_most=max(left, share), netns=namespace.path)
            listening = listening_ports(namespace) if listing.sockets else frozenset()
        except KernelError as error:
            unseen.append(f"{namespace.name}: {error.message}")
            continue
        total += listing.total
        complete &= listing.is_complete
        found += [
            OpenConnection(s, cgroups[s.cgroup_id], role_of(s, listening), namespace)
            for s in listing.sockets
            if s.cgroup_id is not None
        ]
    return Survey(tuple(found[:at_most]), total, complete, tuple(unseen))


def listening_ports(namespace: NetworkNamespace) -> frozenset[int]:
    """The local ports that sockets of a namespace listen on."""
    return frozenset(s.local_port for s in list_sockets(states=("listen",), netns=namespace.path).sockets)


def role_of(found: OpenSocket, listening: frozenset[int]) -> str:
    """``server`` for a socket that has the port of a listening one, else ``client``.

    The kernel does not tell who began a connection. This is wrong for an accepted connection whose listener has been
    closed since.
    """
    return "server" if found.local_port in listening else "client"


def age(found: OpenSocket) -> Age | None:
    """How long a connection has been established; None for one that is not, or that the kernel tells nothing of.

    tcp_info has no such field, but it says how long ago data was last sent and received, counted from the handshake
    where there was none.
    """
    info = found.info
    if not info or found.state == "syn_sent":
        return None
    if not info["bytes_received"]:
        return Age(info["last_data_recv"] / 1e3, True)
    if not info["data_segs_out"]:
        return Age(info["last_data_sent"] / 1e3, True)
    least_ms = max(info["last_data_sent"], info["last_data_recv"], info["busy_time"] / 1e3)
    return Age(least_ms / 1e3, False)
