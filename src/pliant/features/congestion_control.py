# SPDX-License-Identifier: Apache-2.0
"""Which congestion control algorithm a connection runs."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pliant.features.controls import needs_ecn
from pliant.features.feature import Callback, Feature, HostFacts, Reach
from pliant.policy.options import Option

TCP_CA_NAME_MAX = 16  # include/net/tcp.h, the closing NUL included


def check(name: str, facts: HostFacts) -> str | None:
    """Refuse an algorithm that this host's kernel does not offer, and that Pliant cannot bring."""
    if name in facts.shipped_controls:
        if not facts.controls_missing:
            return None
        return f"this kernel cannot take the congestion control '{name}' from Pliant: it {facts.controls_missing}"
    if name in facts.congestion_controls:
        return None
    ours = frozenset() if facts.controls_missing else facts.shipped_controls
    offered = ", ".join(sorted(facts.congestion_controls | ours))
    return f"this kernel has no congestion control '{name}'; it has {offered}"


FEATURE = Feature(
    option=Option(
        name="congestion_control",
        type=Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,15}$")],
        summary="The congestion control algorithm: one of the kernel's, by the name in "
        "net.ipv4.tcp_available_congestion_control, or pliant_dctcp or pliant_cubic, which Pliant brings.",
        example="bbr",
    ),
    reach=Reach.LIVE,
    encode=lambda name: {
        "name": name.encode().ljust(TCP_CA_NAME_MAX, b"\0"),
        "needs_ecn": int(needs_ecn(name)),
    },
    source="TCP_CONGESTION, tcp(7)",
    check=check,
    callbacks=frozenset({Callback.NEEDS_ECN}),
    asks_about_syn=needs_ecn,
    read=lambda sock: sock.congestion_control or None,
)
