# SPDX-License-Identifier: Apache-2.0
"""The longest time for which an acknowledgement is held back."""

from __future__ import annotations

from pliant.features.feature import Feature, HostFacts, Reach
from pliant.policy.options import Option, duration
from pliant.policy.units import format_duration

TIMER_MIN_JIFFIES = 2  # TCP_TIMEOUT_MIN in include/net/tcp.h


def check(microseconds: int, facts: HostFacts) -> str | None:
    """Refuse a delay that is shorter than this kernel's timers can have."""
    if -(-microseconds // facts.jiffy_us) >= TIMER_MIN_JIFFIES:
        return None
    shortest = format_duration(facts.jiffy_us + 1)
    return f"the timers of this kernel tick every {format_duration(facts.jiffy_us)}, the shortest delay is {shortest}"


FEATURE = Feature(
    option=Option(
        name="delayed_ack_max",
        type=duration("5ms", "200ms"),
        summary="The longest delay of an acknowledgement; lower than the kernel's 200ms, rounded up "
        "to jiffies.",
        example="20ms",
    ),
    reach=Reach.LIVE,
    encode=lambda microseconds: {"microseconds": microseconds},
    source="TCP_BPF_DELACK_MAX in bpf_sol_tcp_setsockopt(), net/core/filter.c; RFC 1122",
    check=check,
)
