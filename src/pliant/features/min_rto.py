# SPDX-License-Identifier: Apache-2.0
"""The shortest time after which an unacknowledged segment is sent again."""

from __future__ import annotations

from pliant.features.feature import Feature, Reach
from pliant.policy.options import Option, duration

FEATURE = Feature(
    option=Option(
        name="min_rto",
        type=duration(
            "5ms", "200ms"
        ),  # the kernel lets a program lower its 200 ms (TCP_RTO_MIN), not raise it
        summary="The lower bound of the retransmission timeout; lower than the kernel's 200ms, rounded up to jiffies.",
        example="50ms",
    ),
    reach=Reach.LIVE,
    encode=lambda microseconds: {"microseconds": microseconds},
    source="TCP_BPF_RTO_MIN in bpf_sol_tcp_setsockopt(), net/core/filter.c; RFC 6298",
)
