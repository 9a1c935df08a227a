# SPDX-License-Identifier: Apache-2.0
"""What people write for a link ("100Mbit", "40ms", "0.5%", "2BDP"), read into plain numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pliant.errors import PliantError

_NUMBER = re.compile(r"\s*(?P<value>\d+(?:\.\d+)?)\s*(?P<unit>[A-Za-z%]*)\s*")
_RATES = {"bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9}
_TIMES_NS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9}
_BYTES = {"": 1, "b": 1, "bytes": 1, "kb": 1000, "kib": 1024, "mb": 10**6, "mib": 1024**2}


@dataclass(frozen=True, slots=True)
class Depth:
    """How much a queue may hold, or holds when marking begins: bytes or packets, one of the two."""

    bytes: int | None = None
    packets: int | None = None


def _split(text: str, what: str) -> tuple[float, str]:
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise PliantError(f"{text!r} is not a {what}")
    return float(match["value"]), match["unit"].lower()


def _scaled(text: str, what: str, units: dict[str, int], example: str) -> float:
    value, unit = _split(text, what)
    if unit not in units:
        raise PliantError(f"{text!r} is not a {what}", remedy=f"write it like {example!r}")
    return value * units[unit]


def rate_bits_per_s(text: str) -> int:
    """Read a rate such as "100Mbit" (decimal, as tc(8) does)."""
    rate = int(_scaled(text, "rate", _RATES, "100Mbit"))
    if rate <= 0:
        raise PliantError("a link's rate must be above zero", remedy="leave it out for no limit")
    return rate


def time_ns(text: str) -> int:
    """Read a time such as "40ms"."""
    return int(_scaled(text, "time", _TIMES_NS, "40ms"))


def share(text: str) -> float:
    """Read a share such as "1%" into 0..1."""
    value, unit = _split(text, "share")
    if unit != "%" or value > 100:
        raise PliantError(f"{text!r} is not a share", remedy="write it like '1%'")
    return value / 100


def depth(text: str, *, rate: int | None = None, rtt_ns: int = 0) -> Depth:
    """Read a depth such as "30 packets", "64KiB" or "1BDP" (bandwidth times round trip)."""
    value, unit = _split(text, "queue depth")
    if unit in ("packets", "packet"):
        return Depth(packets=int(value))
    if unit == "bdp":
        if rate is None or rtt_ns == 0:
            raise PliantError(
                f"a queue of {text!r} needs a link with both a rate and a delay",
                remedy="give both, or write the queue in bytes or packets",
            )
        return Depth(bytes=int(value * rate / 8 * rtt_ns / 1e9))
    if unit not in _BYTES:
        raise PliantError(f"{text!r} is not a queue depth", remedy="write '1BDP', '64KiB' or '100 packets'")
    return Depth(bytes=int(value * _BYTES[unit]))
