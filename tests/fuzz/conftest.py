# SPDX-License-Identifier: Apache-2.0
"""Fuzzers: a few examples that are always the same in ``make test``, many new ones in ``make fuzz``."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, settings

from pliant.__main__ import main
from pliant.agent.places import Places
from pliant.lab import Host as LabHost
from pliant.lab import Lab, PrivateMounts
from tests.conftest import Pliant

EXAMPLES = int(os.environ.get("PLIANT_FUZZ", "0"))
"""How many examples each fuzzer tries; 0 for its own few."""


def fuzz(few: int) -> settings:
    """So many examples, always the same; or as many new ones as were asked for."""
    return settings(
        max_examples=EXAMPLES or few,
        derandomize=not EXAMPLES,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
    )


@dataclass(frozen=True)
class Done:
    """How a command has ended."""

    status: int
    output: str
    errors: str


Run = Callable[..., Done]


def run(*argv: str) -> Done:
    """Run a command in this process. What it does not tell as an error is raised."""
    output, errors = io.StringIO(), io.StringIO()
    before = sys.argv
    sys.argv = ["pliant", *argv]
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            main()
    except SystemExit as end:
        status = end.code
    finally:
        sys.argv = before
    assert isinstance(status, int)
    return Done(status, output.getvalue(), errors.getvalue())


@pytest.fixture(scope="module")
def host(mounts: PrivateMounts) -> Iterator[LabHost]:
    with Lab("fuzz") as lab:
        made = lab.host("server")
        made.service("web.service")
        yield made


@pytest.fixture(scope="module")
def fuzzed(mounts: PrivateMounts, host: LabHost) -> Iterator[Pliant]:
    """A Pliant that commands are about, on the services of the lab's host."""
    places = Places(mounts.state / "fuzz", mounts.bpffs / "fuzz", host.cgroup, mounts.run / "fuzz.sock")
    made = Pliant(places)
    named = {"STATE": places.state, "PINS": places.pins, "CGROUP_ROOT": host.cgroup, "SOCKET": places.socket}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_COLOR", "1")
        for name, path in named.items():
            patch.setenv(f"PLIANT_{name}", str(path))
        yield made
        made.rollback(0)
    assert not list(places.pins.rglob("*"))
