# SPDX-License-Identifier: Apache-2.0
"""The largest segments a connection that the service opens sends and accepts."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pliant.features.feature import Feature, Reach
from pliant.policy.options import Option

FEATURE = Feature(
    option=Option(
        name="mss",
        type=Annotated[int, Field(ge=88, le=32767)],
        summary="The largest segment, in bytes, of connections that the service opens: offered to "
        "the peer, and sent.",
        example=1400,
    ),
    reach=Reach.NEW_ONLY,
    encode=lambda size_bytes: {"bytes": size_bytes},
    source="TCP_MAXSEG, tcp(7); RFC 9293",
)
