# SPDX-License-Identifier: Apache-2.0
"""From which retransmission timeout in a row on a connection takes another path."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pliant.features.feature import Callback, Feature, Reach
from pliant.policy.options import Option

FEATURE = Feature(
    option=Option(
        name="flow_rehash",
        type=Annotated[int, Field(ge=1, le=15)],
        summary="From which retransmission timeout in a row on the connection takes another path, by "
        "a new IPv6 flow label; the kernel's own is the first.",
        example=3,
    ),
    reach=Reach.NEW_ONLY,
    encode=lambda timeouts: {"timeouts": timeouts},
    source="sk_txhash of struct bpf_sock_ops, include/uapi/linux/bpf.h",
    callbacks=frozenset({Callback.RTO, Callback.RETRANS}),
)
