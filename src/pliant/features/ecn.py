# SPDX-License-Identifier: Apache-2.0
"""Whether a connection asks for explicit congestion notification (RFC 3168)."""

from __future__ import annotations

from typing import Literal

from pliant.features.feature import Callback, Feature, Reach
from pliant.kernel.sock_diag import OpenSocket
from pliant.policy.options import Option

OPTION_ECN = 8  # TCPI_OPT_ECN, linux/tcp.h


def read_back(sock: OpenSocket) -> bool | str | None:
    """Whether both ends of an open connection have agreed to it."""
    options: int | None = sock.info.get("options")
    if options is None:
        return None
    return True if options & OPTION_ECN else "not agreed"


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
    read=read_back,
    callbacks=frozenset({Callback.NEEDS_ECN, Callback.ACTIVE_ESTABLISHED}),
)
