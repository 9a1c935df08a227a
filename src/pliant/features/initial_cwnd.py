# SPDX-License-Identifier: Apache-2.0
"""Initial congestion window (RFC 6928): segments sent before the first acknowledgement."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pliant.features.feature import Callback, Feature, Reach
from pliant.policy.options import Option

FEATURE = Feature(
    option=Option(
        name="initial_cwnd",
        type=Annotated[int, Field(ge=1, le=1000)],
        summary="Segments a connection may send before the first acknowledgement; the kernel's default is 10.",
        example=40,
    ),
    reach=Reach.NEW_ONLY,
    callbacks=frozenset({Callback.ACTIVE_ESTABLISHED}),
    encode=lambda segments: {"segments": segments},
    source="TCP_BPF_IW in bpf_sol_tcp_setsockopt(), net/core/filter.c; RFC 6928",
)
