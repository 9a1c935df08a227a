# SPDX-License-Identifier: Apache-2.0
"""Where benchmarks change things: places of their own, on control groups of a lab, never the host's services."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pliant.agent.host import Host
from pliant.agent.places import Places
from pliant.features import catalogue
from pliant.kernel import cgroups
from pliant.lab import Host as LabHost
from pliant.lab import PrivateMounts, isolate
from pliant.policy.documents import policy_from_document
from pliant.policy.model import Policy

ACTOR = "bench"


@cache
def private_mounts() -> PrivateMounts:
    """The private mounts of this process; what is pinned there goes when it ends, however it ends."""
    return isolate()


def private_places(label: str, *, cgroup_root: Path | None = None, socket: Path | None = None) -> Places:
    """Places that nobody else uses; the same label gives the same ones."""
    mounts = private_mounts()
    listening = socket or mounts.run / f"{label}.sock"
    return Places(mounts.state / label, mounts.bpffs / label, cgroup_root, listening)


def service_path(host: LabHost, service: str) -> str:
    """A lab service as policies name it: by its whole path, for a unit of that name may be on the real host too."""
    return f"/{host.service(service).relative_to(cgroups.find_root())}"


def policy(name: str, service: str, tune: Mapping[str, Any]) -> Policy:
    """A policy for what a service (named by its path) accepts."""
    document = {
        "apiVersion": "pliant/v1",
        "kind": "TransportPolicy",
        "metadata": {"name": name},
        "spec": {"match": {"service": service, "role": "server"}, "tune": dict(tune)},
    }
    return policy_from_document(document, f"benchmark policy {name}", catalogue())


def apply(host: Host, policies: Iterable[Policy]) -> None:
    """Bring policies into force, as ``pliant apply --allow-waiting`` does."""
    with host.exclusively():
        host.carry_out(host.change_to_apply(policies, allow_waiting=True), actor=ACTOR)


def clear(host: Host) -> None:
    """Take away every policy, and with them everything in the kernel."""
    with host.exclusively():
        if names := list(host.policies()):
            host.carry_out(host.change_to_delete(names), actor=ACTOR)
