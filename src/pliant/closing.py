# SPDX-License-Identifier: Apache-2.0
"""What holds something until it is closed."""

from __future__ import annotations

from types import TracebackType
from typing import Self


class Closable:
    """Leaving the block it manages closes it."""

    __slots__ = ()

    def close(self) -> None:
        """Let go of what is held."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
