# SPDX-License-Identifier: Apache-2.0
"""Congestion controls this network namespace can use."""

from __future__ import annotations

from pliant.kernel import sysctls


def congestion_controls() -> frozenset[str]:
    """Return the names of the available congestion controls, in the calling thread's network namespace.

    Some kernels load others as modules when they are first asked for; those are not among them yet.
    """
    return frozenset(sysctls.read("net.ipv4.tcp_available_congestion_control").split())
