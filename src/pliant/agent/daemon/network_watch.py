# SPDX-License-Identifier: Apache-2.0
"""The agent's eye on the configuration of the network, open while a policy of the fast path is in force."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from pliant.agent.daemon.loop import Loop
from pliant.errors import PliantError

if TYPE_CHECKING:
    from pliant.observe.network import Facts
    from pliant.observe.network_inspector import Inspector

AGAIN_S = 1.0


class NetworkWatch:
    """Keeps the facts of the network while somebody needs them, and calls ``changed`` when they have changed.

    A problem with reading them is handed to ``failed``; it is tried again.
    """

    def __init__(
        self, loop: Loop, changed: Callable[[], None], failed: Callable[[PliantError], None]
    ) -> None:
        self._loop, self._changed, self._failed = loop, changed, failed
        self._inspector: Inspector | None = None
        self.noticed: float | None = None
        """When the first change was heard of that has not been looked at."""

    def facts(self) -> Facts:
        """What is configured now. Raises :class:`KernelError`."""
        if self._inspector is None:
            from pliant.observe.network_inspector import Inspector

            self._inspector = Inspector()
            self._loop.watch(self._inspector, self._heard)
        return self._inspector.facts

    def wait(self, seconds: float) -> None:
        """Wait until the facts have changed, so many seconds at most."""
        if self._inspector is not None:
            self._inspector.wait(seconds)

    def close(self) -> None:
        """Look away: nobody needs the facts."""
        if self._inspector is not None:
            self._loop.forget(self._inspector)
            self._inspector.close()
            self._inspector = None

    def _heard(self) -> None:
        if self._inspector is None:
            return
        heard = time.monotonic()
        try:
            changed = self._inspector.update()
        except PliantError as error:
            self.close()
            self._failed(error)
            self._loop.after(AGAIN_S, self._changed)
            return
        if changed:
            self.noticed = self.noticed or heard
            self._changed()
