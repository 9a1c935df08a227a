# SPDX-License-Identifier: Apache-2.0
"""Matches of iptables in rules of nftables, as far as they can be said in words of nftables."""

from __future__ import annotations

import struct
from typing import NamedTuple

from pliant.kernel.nftables_expressions import Other

COMMENT, CONNECTION = "match:comment", "match:conntrack"
"""A match that always applies, and that of connections."""
_CONNECTION_FLAGS = struct.Struct("=146xHHH")  # struct xt_conntrack_mtinfo3, from match_flags on
_CONNECTION_REVISIONS = (2, 3)
_BY_STATE, _STATE_ALIAS = 1, 1 << 13  # XT_CONNTRACK_STATE, and that it was written "-m state"
_STATES = 0x4F
"""What XT_CONNTRACK_STATE_BIT() gives, as ``ct state`` has it: INVALID, ESTABLISHED, RELATED, NEW, UNTRACKED.

SNAT and DNAT, which are not states of a connection, are not among them.
"""


class States(NamedTuple):
    """The connection's state is to be one of these, as bits of ``ct state``; ``is_inverted``: none of them."""

    states: int
    is_inverted: bool


def asked_states(expression: Other) -> States | None:
    """What a match of connections asks for, where that is states and nothing else."""
    if expression.name != CONNECTION or expression.revision not in _CONNECTION_REVISIONS:
        return None
    if len(expression.info) < _CONNECTION_FLAGS.size:
        return None
    asks, inverts, states = _CONNECTION_FLAGS.unpack_from(expression.info)
    if asks & ~_STATE_ALIAS != _BY_STATE or states & ~_STATES:
        return None
    return States(states, bool(inverts & _BY_STATE))
