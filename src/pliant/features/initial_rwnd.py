# SPDX-License-Identifier: Apache-2.0
"""How many segments the peer may send before it hears from this end again."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pliant.features.feature import Callback, Feature, Reach
from pliant.policy.options import Option

FEATURE = Feature(
    option=Option(
        name="initial_rwnd",
        type=Annotated[int, Field(ge=1, le=1000)],
        summary="Segments the peer may send at first; the kernel's own is half the receive buffer, "
        "some 45 segments.",
        example=20,
    ),
    reach=Reach.NEW_ONLY,
    encode=lambda segments: {"segments": segments},
    source="BPF_SOCK_OPS_RWND_INIT, include/uapi/linux/bpf.h; RFC 9293",
    callbacks=frozenset({Callback.RWND_INIT}),
)
