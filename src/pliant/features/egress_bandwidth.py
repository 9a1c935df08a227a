# SPDX-License-Identifier: Apache-2.0
"""How fast the connections of a service may send together."""

from __future__ import annotations

from pliant.features.feature import Callback, Feature, Fields, Reach
from pliant.kernel.uapi import AttachType
from pliant.policy.options import Option, rate

NS_PER_S = 1_000_000_000
LARGEST_PACKET = 64 * 1024  # of those that a network card cuts up
MARK_NS, DROP_NS, INTERVAL_NS = 10_000_000, 50_000_000, 20_000_000


def encode(bits_per_second: int) -> Fields:
    """The rate, and lengths of the queue in ns: times, but no less than a few of the largest packets take."""
    bytes_per_second = bits_per_second // 8
    packet_ns = LARGEST_PACKET * NS_PER_S // bytes_per_second
    return {
        "bytes_per_second": bytes_per_second,
        "mark_ns": max(MARK_NS, 2 * packet_ns),
        "drop_ns": max(DROP_NS, 8 * packet_ns),
        "interval_ns": max(INTERVAL_NS, 4 * packet_ns),
    }


FEATURE = Feature(
    option=Option(
        name="egress_bandwidth",
        type=rate("1Mbit", "30Gbit"),
        summary="How fast the connections of a service that the policy matches may send together, in fair shares; "
        "for policies with applyTo: live.",
        example="500Mbit",
    ),
    reach=Reach.LIVE_ONLY,
    encode=encode,
    source="BPF_CGROUP_INET_EGRESS; RFC 3168; SO_MAX_PACING_RATE, socket(7)",
    callbacks=frozenset({Callback.RTT}),
    hook=AttachType.CGROUP_INET_EGRESS,
)
