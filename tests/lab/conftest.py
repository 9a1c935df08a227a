# SPDX-License-Identifier: Apache-2.0
"""A lab for each test, and waiting for a condition with a deadline."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterator

import pytest

from pliant.lab import Host, Lab

Eventually = Callable[[Callable[[], bool]], None]


@pytest.fixture
def lab() -> Iterator[Lab]:
    if os.geteuid() != 0:
        pytest.skip("a lab needs root")
    with Lab("test") as lab:
        yield lab


@pytest.fixture
def server(lab: Lab) -> Host:
    return lab.host("server")


@pytest.fixture
def client(lab: Lab) -> Host:
    return lab.host("client")


@pytest.fixture
def eventually() -> Eventually:
    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline, "the condition did not come true in 10 s"
            select.select([], [], [], 0.005)

    return wait
