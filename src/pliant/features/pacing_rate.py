# SPDX-License-Identifier: Apache-2.0
"""The fastest a connection may send."""

from __future__ import annotations

from pliant.features.feature import Feature, Reach
from pliant.policy.options import Option, rate

FEATURE = Feature(
    option=Option(
        name="pacing_rate",
        type=rate("8kbit", "34Gbit"),  # the kernel takes 32 bits of bytes a second from a program
        summary="The fastest a connection may send; TCP spreads its packets out, no qdisc is needed.",
        example="200Mbit",
    ),
    reach=Reach.LIVE,
    encode=lambda bits_per_second: {"bytes_per_second": bits_per_second // 8},
    source="SO_MAX_PACING_RATE, socket(7)",
)
