# SPDX-License-Identifier: Apache-2.0
"""How much may wait unsent in a socket before it stops being writable."""

from __future__ import annotations

from pliant.features.feature import Feature, Reach
from pliant.policy.options import Option, size

FEATURE = Feature(
    option=Option(
        name="notsent_lowat",
        type=size("1KiB", "1GiB"),
        summary="How much may wait unsent in the socket before it stops being writable; the kernel's "
        "default is no limit but the buffer.",
        example="128KiB",
    ),
    reach=Reach.LIVE,
    encode=lambda size_bytes: {"bytes": size_bytes},
    source="TCP_NOTSENT_LOWAT, tcp(7)",
)
