# SPDX-License-Identifier: Apache-2.0
"""How much the peer may have in flight towards this end of a connection."""

from __future__ import annotations

from pliant.features.feature import Feature, HostFacts, Reach
from pliant.policy.options import Option, size
from pliant.policy.units import format_size


def check(limit_bytes: int, facts: HostFacts) -> str | None:
    """Refuse a limit that needs a larger receive buffer than this host's kernel gives: it would be cut silently."""
    if facts.rmem_max is None or limit_bytes <= 2 * facts.rmem_max:
        return None
    return (
        f"this host gives a socket at most {format_size(2 * facts.rmem_max)} of receive buffer, "
        f"{format_size(limit_bytes)} needs net.core.rmem_max = {-(-limit_bytes // 2)} or more"
    )


FEATURE = Feature(
    option=Option(
        name="receive_window_max",
        type=size("4KiB", "1GiB"),
        summary="The largest receive window that a connection advertises; what it offers stays below it by the share "
        "of memory that packets take beside their payload.",
        example="256KiB",
    ),
    reach=Reach.NEW_ONLY,  # a program cannot give the buffer back to the kernel's autotuning
    encode=lambda size_bytes: {"bytes": size_bytes},
    source="SO_RCVBUF, socket(7)",
    check=check,
    read=lambda sock: sock.rcvbuf,
)
