# SPDX-License-Identifier: Apache-2.0
"""How much an oracle is asked: a little in ``make test``, always the same; as much as is wanted in ``make oracle``.

``PLIANT_ORACLE_PACKETS`` makes it a long run, of other cases each time. There a case has more frames, since to make a
router takes as long as to send it some hundred; and the packets are in parts, which pytest-xdist hands out.
"""

from __future__ import annotations

import os

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

LONG = os.environ.get("PLIANT_ORACLE_PACKETS")
PACKETS = int(LONG or "20000")
_TIMES = 3 if LONG else 1
PACKETS_OF_A_CASE = 100 * _TIMES
"""About so many at least: its frames, twice and after each change."""
_PACKETS_OF_A_PART = 50_000


def parts(packets: int = PACKETS) -> list[int]:
    """So many packets, in parts in which still everything comes up that has to."""
    count = max(packets // _PACKETS_OF_A_PART, 1) if LONG else 1
    return [packets // count] * count


def frame_counts(fewest: int, most: int) -> SearchStrategy[int]:
    """How many frames a case has, given how many in ``make test``."""
    return st.integers(fewest * _TIMES, most * _TIMES)
