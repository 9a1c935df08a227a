# SPDX-License-Identifier: Apache-2.0
"""Which connections a policy holds out: what ``is_held_out()`` in scope.bpf.c decides, a second time."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

from pliant.policy.desired import V4_MAPPED
from pliant.policy.units import WHOLE_SHARE_PPM

_WORD = 2**64 - 1
_HALF = 2**32 - 1


def threshold(holdout_ppm: int) -> int:
    """The share of connections held out as a number of 32 bits: those whose hash is below it. 0 holds nobody out."""
    return min(holdout_ppm * 2**32 // WHOLE_SHARE_PPM, _HALF)


def hash_connection(key: int, peer: IPv4Address | IPv6Address, local_port: int, remote_port: int) -> int:
    """The hash of a connection under the host's secret key; an IPv4 peer counts as its v4-mapped address."""
    number = V4_MAPPED | int(peer) if isinstance(peer, IPv4Address) else int(peer)
    first, second, third, fourth = struct.unpack("=4I", number.to_bytes(16, "big"))  # the machine's words
    network, host = first << 32 | second, third << 32 | fourth
    return _mix(_mix(network ^ key) ^ host ^ (local_port << 16 | remote_port))


def is_held_out(holdout_ppm: int, number: int, connection: int) -> bool:
    """Whether the policy of this number holds out the connection of this hash."""
    return _mix(connection ^ number) & _HALF < threshold(holdout_ppm)


def _mix(value: int) -> int:
    """The finaliser of MurmurHash3."""
    value ^= value >> 33
    value = value * 0xFF51AFD7ED558CCD & _WORD
    value ^= value >> 33
    value = value * 0xC4CEB9FE1A85EC53 & _WORD
    return value ^ value >> 33
