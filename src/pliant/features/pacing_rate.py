# SPDX-License-Identifier: Apache-2.0
"""The fastest a connection may send."""

from __future__ import annotations

from pliant.features.feature import Feature, Reach
from pliant.kernel.sock_diag import OpenSocket
from pliant.policy.options import Option, rate

NO_LIMIT = 2**64 - 1
NO_LIMIT_32 = 2**32 - 1  # what a program writes for it


def read_back(sock: OpenSocket) -> int | str | None:
    """The fastest an open socket may send, in bits a second."""
    limit: int | None = sock.info.get("max_pacing_rate")
    if limit is None:
        return None
    return "no limit" if limit in (NO_LIMIT, NO_LIMIT_32) else limit * 8


FEATURE = Feature(
    option=Option(
        name="pacing_rate",
        type=rate("8kbit", "34Gbit"),  # the kernel takes 32 bits of bytes a second from a program
        summary="The fastest a connection may send; TCP spreads its packets out, no qdisc is needed.",
        example="200Mbit",
    ),
    reach=Reach.LIVE,
    encode=lambda bits_per_second: {"bytes_per_second": bits_per_second // 8},
    source="SO_MAX_PACING_RATE, socket(7)",
    read=read_back,
)
