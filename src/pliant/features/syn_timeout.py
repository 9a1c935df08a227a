# SPDX-License-Identifier: Apache-2.0
"""After how long an unanswered SYN or SYN-ACK is sent again."""

from __future__ import annotations

from pliant.features.feature import Callback, Feature, Reach
from pliant.kernel.jiffies import jiffies
from pliant.policy.options import Option, duration

FEATURE = Feature(
    option=Option(
        name="syn_timeout",
        type=duration("10ms", "60s"),
        summary="After how long an unanswered SYN or SYN-ACK is sent again; the kernel's own is 1s; "
        "rounded up to jiffies.",
        example="200ms",
    ),
    reach=Reach.NEW_ONLY,
    encode=lambda microseconds: {"jiffies": jiffies(microseconds)},
    source="BPF_SOCK_OPS_TIMEOUT_INIT, include/uapi/linux/bpf.h; RFC 6298",
    callbacks=frozenset({Callback.TIMEOUT_INIT}),
)
