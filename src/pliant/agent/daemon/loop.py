# SPDX-License-Identifier: Apache-2.0
"""Waiting for descriptors, times and signals, in one thread."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import selectors
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
Callback = Callable[[], None]


class HasDescriptor(Protocol):
    """A thing that select takes."""

    def fileno(self) -> int:
        """Its descriptor."""


@dataclass(order=True)
class Timer:
    """A call at a time of the monotonic clock; :meth:`cancel` may come at any moment."""

    at: float
    number: int
    callback: Callback = field(compare=False)
    cancelled: bool = field(default=False, compare=False)

    def cancel(self) -> None:
        """Have it not happen."""
        self.cancelled = True


class Loop:
    """Calls back when a descriptor is ready, a time has come or a signal has arrived, until it is stopped."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: list[Timer] = []
        self._numbers = itertools.count()
        self._stopped = False

    def close(self) -> None:
        """Let go of the selector."""
        self._selector.close()

    def watch(self, thing: HasDescriptor, callback: Callback, events: int = READ) -> None:
        """Call back whenever a descriptor is ready; replaces what was asked for it before."""
        try:
            self._selector.modify(thing, events, callback)
        except KeyError:
            self._selector.register(thing, events, callback)

    def forget(self, thing: HasDescriptor) -> None:
        """No longer look at a descriptor."""
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(thing)

    def after(self, seconds: float, callback: Callback) -> Timer:
        """Call back once."""
        timer = Timer(time.monotonic() + seconds, next(self._numbers), callback)
        heapq.heappush(self._timers, timer)
        return timer

    def every(self, seconds: float, callback: Callback) -> None:
        """Call back again and again, the first time after ``seconds``."""

        def again() -> None:
            self.after(seconds, again)
            callback()

        self.after(seconds, again)

    def stop(self) -> None:
        """Return from :meth:`run` when the callback that runs now has returned."""
        self._stopped = True

    def run(self) -> None:
        """Wait and call back until stopped."""
        while not self._stopped:
            for key, _ in self._selector.select(self._until_next()):
                if not self._stopped and self._is_watched(key):
                    key.data()
            self._run_timers()

    def _is_watched(self, key: selectors.SelectorKey) -> bool:
        """Whether nobody has forgotten or replaced it since select returned."""
        return self._selector.get_map().get(key.fd) is key

    def _until_next(self) -> float | None:
        while self._timers and self._timers[0].cancelled:
            heapq.heappop(self._timers)
        return max(0.0, self._timers[0].at - time.monotonic()) if self._timers else None

    def _run_timers(self) -> None:
        now = time.monotonic()
        due = []
        while self._timers and self._timers[0].at <= now:
            due.append(heapq.heappop(self._timers))
        for timer in due:
            if not timer.cancelled and not self._stopped:
                timer.callback()

    @contextlib.contextmanager
    def signals(self, callbacks: dict[signal.Signals, Callback]) -> Iterator[None]:
        """Call back for signals, in the loop and never in between, while the block runs. Main thread only."""
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        handlers = {number: signal.signal(number, lambda *_: None) for number in callbacks}

        def arrived() -> None:
            for number in os.read(reader, 64):
                callbacks[signal.Signals(number)]()

        pipe = _Descriptor(reader)
        self.watch(pipe, arrived)
        try:
            yield
        finally:
            self.forget(pipe)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(before)
            os.close(reader)
            os.close(writer)


@dataclass(frozen=True)
class _Descriptor:
    number: int

    def fileno(self) -> int:
        return self.number
