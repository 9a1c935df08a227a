# SPDX-License-Identifier: Apache-2.0
"""Which TCP socket options this kernel has."""

from __future__ import annotations

import socket

TCP_RTO_MAX_MS = 44  # linux/tcp.h; Linux 6.15


def has_tcp_option(name: int) -> bool:
    """Whether a TCP socket can be asked for an option, by its number in linux/tcp.h."""
    with socket.socket() as sock:
        try:
            sock.getsockopt(socket.IPPROTO_TCP, name)
        except OSError:
            return False
    return True
