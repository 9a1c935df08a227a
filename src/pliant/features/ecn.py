# SPDX-License-Identifier: Apache-2.0
"""Whether a connection asks for explicit congestion notification (RFC 3168)."""

from __future__ import annotations

from typing import Literal

from pliant.features.feature import Callback, Feature, Reach
from pliant.policy.options import Option

FEATURE = Feature(
    option=Option(
        name="ecn",
        type=Literal[True],
        summary="Have the connection ask for explicit congestion notification, whatever "
        "net.ipv4.tcp_ecn says here.",
        example=True,
    ),
    reach=Reach.NEW_ONLY,
    encode=lambda is_on: {"is_on": int(is_on)},
    source="BPF_SOCK_OPS_NEEDS_ECN, include/uapi/linux/bpf.h; RFC 3168",
    callbacks=frozenset({Callback.NEEDS_ECN, Callback.ACTIVE_ESTABLISHED}),
)
