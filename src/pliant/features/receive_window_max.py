# SPDX-License-Identifier: Apache-2.0
"""How much the peer may have in flight towards this end of a connection."""

from __future__ import annotations

from pliant.features.feature import Feature, Reach
from pliant.policy.options import Option, size

FEATURE = Feature(
    option=Option(
        name="receive_window_max",
        type=size("4KiB", "1GiB"),
        summary="The largest receive window that a connection advertises.",
        example="256KiB",
    ),
    reach=Reach.LIVE,
    encode=lambda size_bytes: {"bytes": size_bytes},
    source="TCP_WINDOW_CLAMP, tcp(7)",
)
