# SPDX-License-Identifier: Apache-2.0
"""What policies, services and features are doing, as plain data: what is printed and what is sent."""

from __future__ import annotations

from typing import Any

from pliant.agent.status import ControlStatus, FeatureStatus, PolicyStatus, ServiceStatus
from pliant.agent.sysctls import SysctlStatus


def policy_document(status: PolicyStatus) -> dict[str, Any]:
    """A policy as it was written, with a ``status``: reading it back with apply changes nothing."""
    arms = status.arms
    return status.policy.to_document() | {
        "status": {
            "state": status.state,
            "number": status.number,
            "services": list(status.services),
            "treated": arms.treated,
            "heldOut": arms.held_out,
        }
        | ({"off": status.off.as_data()} if status.off else {})
    }


def service_document(status: ServiceStatus) -> dict[str, Any]:
    """A cgroup, the policies for it and the programs that run for its connections."""
    return {
        "service": status.name,
        "cgroup": status.cgroup,
        "policies": list(status.policies),
        "programs": list(status.programs),
    }


def control_document(status: ControlStatus) -> dict[str, Any]:
    """A congestion control of ours, and how many connections run it."""
    return {
        "control": status.name,
        "state": status.state,
        "build": status.build,
        "needsEcn": status.needs_ecn,
        "policies": status.policies,
        "connections": status.connections,
    }


def feature_document(status: FeatureStatus) -> dict[str, Any]:
    """A feature and what it has counted."""
    return {
        "feature": status.name,
        "reach": status.reach,
        "summary": status.summary,
        "loaded": status.loaded,
        "policies": status.policies,
        "outcomes": dict(status.outcomes),
    }


def sysctl_document(status: SysctlStatus) -> dict[str, Any]:
    """A sysctl that is ours or is to be."""
    return {
        "sysctl": status.name,
        "namespace": status.namespace,
        "place": status.place,
        "state": status.state,
        "policy": status.policy,
        "owner": status.owner,
        "wanted": status.wanted,
        "found": status.found,
        "before": status.before,
        "since": status.since,
    }
