# SPDX-License-Identifier: Apache-2.0
"""The most segments a connection may have in flight."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pliant.features.feature import Feature, Reach
from pliant.policy.options import Option

FEATURE = Feature(
    option=Option(
        name="cwnd_clamp",
        type=Annotated[int, Field(ge=2, le=1_000_000)],
        summary="The most segments a connection may have in flight, whatever its congestion control "
        "thinks; there is no such limit by default.",
        example=200,
    ),
    reach=Reach.LIVE,
    encode=lambda segments: {"segments": segments},
    source="TCP_BPF_SNDCWND_CLAMP in bpf_sol_tcp_setsockopt(), net/core/filter.c",
)
