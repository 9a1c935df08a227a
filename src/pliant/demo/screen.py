# SPDX-License-Identifier: Apache-2.0
"""What the demo shows: its story on standard output, what is going on in one line on standard error."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import click

REFRESH_S = 0.2


class Screen:
    """Tells the story, and keeps one line of progress with the time passed; use as a context manager.

    On a terminal the line is redrawn by a thread, elsewhere each stage is printed once. ``silent`` leaves the
    story out (for ``-o json``).
    """

    def __init__(self, *, silent: bool = False) -> None:
        self.silent = silent
        self.live = sys.stderr.isatty()
        self._started = time.monotonic()
        self._stage = ""
        self._count: Callable[[], str] | None = None
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._refresh, name="progress", daemon=True)

    def __enter__(self) -> Self:
        if self.live:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self.live:
            self._thread.join()
            self._clear()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    def doing(self, stage: str, count: Callable[[], str] | None = None) -> None:
        """Say what is going on; ``count`` tells how far it is ("40 of 200"), asked whenever the line is drawn."""
        with self._lock:
            self._stage, self._count = stage, count
        if self.live:
            self._draw()
        else:
            click.echo(f"{self.elapsed_s:5.1f} s  {stage}", err=True)

    def say(self, text: str = "") -> None:
        """Tell a part of the story."""
        if self.silent:
            return
        with self._lock:
            self._clear()
            click.echo(text)

    def heading(self, text: str) -> None:
        """Begin a chapter of the story."""
        self.say()
        self.say(click.style(text, bold=True))

    def _refresh(self) -> None:
        while not self._over.wait(REFRESH_S):
            self._draw()

    def _draw(self) -> None:
        with self._lock:
            so_far = f"  {self._count()}" if self._count else ""
            sys.stderr.write(f"\r\x1b[K{self.elapsed_s:5.1f} s  {self._stage}{so_far}"[:110])
            sys.stderr.flush()

    def _clear(self) -> None:
        if self.live:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
