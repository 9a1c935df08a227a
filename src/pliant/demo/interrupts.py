# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C and SIGTERM: held back while things are being put up or taken down, and heeded once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

TERMINATED = 143
HEEDED = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Takes the two signals over from the main thread until the process ends; ``heeded`` when one has ended it."""

    def __init__(self) -> None:
        self.heeded = False
        self._held = False
        self._pending: int | None = None
        for number in HEEDED:
            signal.signal(number, self._arrived)

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if self._held:
            self._pending = number
        else:
            self._heed(number)

    def _heed(self, number: int) -> None:
        self.heeded = True
        for other in HEEDED:
            signal.signal(other, signal.SIG_IGN)  # taking everything down must not be interrupted again
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(TERMINATED)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold signals back for the block; one that came is heeded at its end."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self._pending is not None:
            number, self._pending = self._pending, None
            self._heed(number)
