# SPDX-License-Identifier: Apache-2.0
"""Telling systemd how we are: sd_notify(3), the protocol being a datagram of lines."""

from __future__ import annotations

import os
import socket

WATCHDOG_SHARE = 3  # how often within the watchdog's time


def notify(*states: str) -> bool:
    """Send states (``READY=1``, ``STATUS=...``, ``STOPPING=1``, ``WATCHDOG=1``); whether anybody was told."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.connect(address)
            sender.sendall("\n".join(states).encode())
    except OSError:
        return False
    return True


def watchdog_interval_s() -> float | None:
    """How often ``WATCHDOG=1`` is to be sent by this process, in seconds; None when nobody waits for it."""
    pid = os.environ.get("WATCHDOG_PID")
    if pid and pid != str(os.getpid()):
        return None
    try:
        return int(os.environ.get("WATCHDOG_USEC", "")) / 1e6 / WATCHDOG_SHARE
    except ValueError:
        return None
