# SPDX-License-Identifier: Apache-2.0
"""Differentiated services code point of what a connection sends (RFC 2474)."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

from pliant.features.feature import Feature, Reach
from pliant.kernel.sock_diag import OpenSocket
from pliant.policy.options import Option
from pliant.policy.problems import rejection

CODE_POINTS = (
    {"EF": 46, "VA": 44, "LE": 1}  # RFC 3246, 5865, 8622
    | {f"CS{n}": 8 * n for n in range(8)}  # RFC 2474
    | {f"AF{n}{drop}": 8 * n + 2 * drop for n in range(1, 5) for drop in range(1, 4)}  # RFC 2597
)
NAMES = {number: name for name, number in CODE_POINTS.items()}
REMEDY = "write a number from 0 to 63 or a name such as EF, AF41, CS1"


def read(typed: Any) -> int:
    """A code point from its number (0 to 63) or its name in the RFCs."""
    if isinstance(typed, str) and typed.upper() in CODE_POINTS:
        return CODE_POINTS[typed.upper()]
    if isinstance(typed, int) and not isinstance(typed, bool) and 0 <= typed <= 63:
        return typed
    raise rejection(f"{typed!r} is not a DSCP", REMEDY)


CodePoint = Annotated[
    int,
    PlainValidator(read),
    PlainSerializer(lambda number: NAMES.get(number, number), when_used="json"),
    WithJsonSchema(
        {
            "anyOf": [{"type": "integer", "minimum": 0, "maximum": 63}, {"enum": sorted(CODE_POINTS)}],
            "description": "A DSCP, by number or by its name in the RFCs.",
        }
    ),
]


def read_back(sock: OpenSocket) -> int | None:
    """The code point of what an open socket sends; an IPv6 socket sends IPv4 to a v4-mapped peer."""
    is_ipv6 = sock.tclass is not None and not sock.remote.startswith("::ffff:")
    octet = sock.tclass if is_ipv6 else sock.tos
    return None if octet is None else octet >> 2


FEATURE = Feature(
    option=Option(
        name="dscp",
        type=CodePoint,
        summary="The DSCP that a connection's packets carry; the ECN bits stay as they are.",
        example="AF41",
    ),
    reach=Reach.LIVE,
    encode=lambda code_point: {"code_point": code_point},
    source="IP_TOS, ip(7); IPV6_TCLASS, ipv6(7); RFC 2474",
    read=read_back,
)
