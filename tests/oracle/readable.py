# SPDX-License-Identifier: Apache-2.0
"""Whether there is something to read, for processes with so many descriptors that select(2) takes not all of them."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterable
from typing import IO


def is_readable(files: Iterable[socket.socket | IO[bytes]], within_s: float = 0) -> bool:
    """Whether one of some files has something to read, now or within some time."""
    poll = select.poll()
    for file in files:
        poll.register(file, select.POLLIN)
    return bool(poll.poll(within_s * 1000))
