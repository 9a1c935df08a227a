# SPDX-License-Identifier: Apache-2.0
"""Limits of the kernel that go by the clock and are not of a namespace: taken off while an oracle runs.

How many ICMP redirects and "unreachable" errors a source is sent depends on when it last got one, to the jiffy; and
each one that is sent may need a neighbour, which is then asked for. Two routers that get the same packets one after the
other are now and then on different sides of such a limit.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

_LIMITS = Path("/proc/sys/net/ipv4/route")
_NONE = {"error_cost": "0", "redirect_silence": "-1"}
"""Errors cost nothing; a source that was just sent a redirect has been silent long enough for the next."""

_PLACE = Path(tempfile.gettempdir())
_SAVED = _PLACE / "pliant-oracle-limits"


@contextlib.contextmanager
def without_limits() -> Iterator[None]:
    """Take the limits off; the last of all processes that do so at the same time puts back what there was.

    A process that is killed leaves that to the next. Where the process is in a network namespace of its own, the limits
    cannot be reached, and stay.
    """
    if not (_LIMITS / "error_cost").exists():
        yield
        return
    with _alone():
        saved = _SAVED.open("a+")
        found = {name: (_LIMITS / name).read_text().strip() for name in _NONE}
        if found != _NONE:
            saved.truncate(0)
            saved.write(json.dumps(found))
            saved.flush()
            _set(_NONE)
        fcntl.flock(saved, fcntl.LOCK_SH)
    try:
        yield
    finally:
        with _alone(), saved, contextlib.suppress(BlockingIOError):
            fcntl.flock(saved, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _set(json.loads(_SAVED.read_text()))
            _SAVED.unlink()


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    directory = os.open(_PLACE, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def _set(limits: dict[str, str]) -> None:
    for name, value in limits.items():
        (_LIMITS / name).write_text(value + "\n")
