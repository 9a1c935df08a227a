# SPDX-License-Identifier: Apache-2.0
"""The initial window of a new connection, learned from open ones to the same network (RFC 9040)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pliant.features.feature import Callback, Feature, Reach
from pliant.policy.options import Option

FEATURE = Feature(
    option=Option(
        name="shared_window",
        type=Annotated[int, Field(ge=10, le=1000)],
        summary=(
            "Begin with the congestion window that open connections to the same network have found, paced where there "
            "is no room for it at once, and with at most so many segments; initial_cwnd holds while nothing is known."
        ),
        example=500,
    ),
    reach=Reach.NEW_ONLY,
    callbacks=frozenset({Callback.ACTIVE_ESTABLISHED, Callback.RTT, Callback.STATE, Callback.RETRANS}),
    encode=lambda segments: {"segments": segments},
    source="TCP_BPF_IW in bpf_sol_tcp_setsockopt(), net/core/filter.c; BPF_SOCK_OPS_RTT_CB; RFC 9040",
)
