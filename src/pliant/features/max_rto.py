# SPDX-License-Identifier: Apache-2.0
"""The longest time between two retransmissions of the same segment."""

from __future__ import annotations

from pliant.features.feature import Feature, HostFacts, Reach
from pliant.policy.options import Option, duration


def check(microseconds: int, facts: HostFacts) -> str | None:
    """Refuse it where the kernel has no such option."""
    if facts.has_max_rto:
        return None
    return "this kernel has no limit of the timeout for a connection (TCP_RTO_MAX_MS came with Linux 6.15)"


FEATURE = Feature(
    option=Option(
        name="max_rto",
        type=duration("1s", "120s"),
        summary="The upper bound of the retransmission timeout, where backoff ends; the kernel's "
        "default is 120s.",
        example="10s",
    ),
    reach=Reach.LIVE,
    encode=lambda microseconds: {"milliseconds": -(-microseconds // 1000)},
    source="TCP_RTO_MAX_MS in do_tcp_setsockopt(), net/ipv4/tcp.c (Linux 6.15); RFC 6298",
    check=check,
)
