# SPDX-License-Identifier: Apache-2.0
"""Strategies that are made once: to make one again for each draw takes longer than the draw."""

from __future__ import annotations

import functools
from typing import TypeVar

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

T = TypeVar("T")


def among(values: tuple[T, ...]) -> SearchStrategy[T]:
    """One of some values, as ``sampled_from``."""
    return _made(values)


@functools.cache
def _made(values: tuple[T, ...]) -> SearchStrategy[T]:
    return st.sampled_from(values)
