# SPDX-License-Identifier: Apache-2.0
"""Policies in numbers: spread over services and prefixes of peers, as files hold them."""

from __future__ import annotations

from collections.abc import Sequence

MOST_PREFIXES = 1 << 16
FIRST_WINDOW = 11  # segments; the kernel's own 10 would not show

_DOCUMENT = """\
apiVersion: pliant/v1
kind: TransportPolicy
metadata:
  name: bench-{number}
  owner: bench
  reason: one of many, to see what many cost
spec:
  match:
    service: {service}
    role: server
    peers: [{peer}]
  tune:
    initial_cwnd: {initial_cwnd}
    pacing_rate: {pacing_mbit}Mbit
    min_rto: {min_rto_ms}ms
"""


def policies_text(count: int, services: Sequence[str], *, variant: int = 0) -> str:
    """YAML of policies, dealt out to the services (paths of cgroups) in turn, each with the next prefix.

    No two match the same connection. All set three options; those of another ``variant`` have the same names and
    other initial windows.
    """
    return "---\n".join(policy_text(number, services, variant=variant) for number in range(count))


def policy_text(number: int, services: Sequence[str], *, variant: int = 0) -> str:
    """YAML of one of these policies."""
    prefix, service = divmod(number, len(services))
    if prefix >= MOST_PREFIXES:
        raise ValueError(f"there is no prefix number {prefix}")
    return _DOCUMENT.format(
        number=number,
        service=services[service],
        peer=f"10.{prefix // 256}.{prefix % 256}.0/24",
        initial_cwnd=initial_cwnd(number, variant),
        pacing_mbit=100 + 10 * (number % 100),
        min_rto_ms=20 + number % 180,
    )


def initial_cwnd(number: int, variant: int) -> int:
    """The initial window that a policy sets, in segments."""
    return FIRST_WINDOW + (number + variant) % 80
