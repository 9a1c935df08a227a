# SPDX-License-Identifier: Apache-2.0
"""How much memory what is not acknowledged yet may take."""

from __future__ import annotations

from pliant.features.feature import Feature, HostFacts, Reach
from pliant.policy.options import Option, size
from pliant.policy.units import format_size


def check(size_bytes: int, facts: HostFacts) -> str | None:
    """Refuse a buffer larger than this host's kernel gives: it would be cut silently."""
    if facts.wmem_max is None or size_bytes <= 2 * facts.wmem_max:
        return None
    return (
        f"this host gives a socket at most {format_size(2 * facts.wmem_max)} of send buffer, "
        f"{format_size(size_bytes)} needs net.core.wmem_max = {-(-size_bytes // 2)} or more"
    )


FEATURE = Feature(
    option=Option(
        name="send_buffer",
        type=size("8KiB", "1GiB"),
        summary="The size of the send buffer as the kernel counts it; a fixed one, for the kernel "
        "stops fitting it to the path.",
        example="4MiB",
    ),
    reach=Reach.NEW_ONLY,  # a program cannot give the buffer back to the kernel's autotuning
    encode=lambda size_bytes: {"bytes": size_bytes},
    source="SO_SNDBUF, socket(7)",
    check=check,
    read=lambda sock: sock.sndbuf,
)
