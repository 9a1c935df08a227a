# SPDX-License-Identifier: Apache-2.0
"""How long sent data may stay unacknowledged before a connection is given up (RFC 5482)."""

from __future__ import annotations

from pliant.features.feature import Feature, Reach
from pliant.policy.options import Option, duration

FEATURE = Feature(
    option=Option(
        name="user_timeout",
        type=duration("10ms", "1440m"),
        summary="How long sent data may stay unacknowledged before the connection is given up; the "
        "kernel's own depends on tcp_retries2, some 15 minutes.",
        example="30s",
    ),
    reach=Reach.LIVE,
    encode=lambda microseconds: {"milliseconds": -(-microseconds // 1000)},
    source="TCP_USER_TIMEOUT, tcp(7); RFC 5482",
)
