# SPDX-License-Identifier: Apache-2.0
"""After how long without data a connection asks whether its peer is still there."""

from __future__ import annotations

from pliant.features.feature import Feature, Reach
from pliant.policy.options import Option, duration

FEATURE = Feature(
    option=Option(
        name="keepalive",
        type=duration("1s", "32767s"),
        summary="After how long without data the connection probes its peer, whether or not the "
        "application has asked for it; in whole seconds, rounded up.",
        example="60s",
    ),
    reach=Reach.LIVE,
    encode=lambda microseconds: {"is_on": 1, "idle_s": -(-microseconds // 1_000_000)},
    source="SO_KEEPALIVE, socket(7); TCP_KEEPIDLE, tcp(7); RFC 1122",
)
