# SPDX-License-Identifier: Apache-2.0
"""A second build of Pliant, really built, and services that connect while one takes over from the other."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pliant.kernel.maps import Map
from pliant.lab import Process
from tests.agent.daemon.conftest import Ground, ground, lab_host

__all__ = ["ground", "lab_host"]

CHECKOUT = Path(__file__).parents[2]
LOAD = Path(__file__).with_name("load.py")
DROPPED = "cwnd_clamp"
"""A feature that the other build does not have: every option after it has another slot there."""


@pytest.fixture(scope="session")
def other_installation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another Pliant, to be put on PYTHONPATH: counters and verdicts lie elsewhere in it, and so do the options."""
    root = tmp_path_factory.mktemp("other")
    shutil.copytree(CHECKOUT / "bpf", root / "bpf")
    shutil.copytree(
        CHECKOUT / "src" / "pliant",
        root / "src" / "pliant",
        ignore=shutil.ignore_patterns("objects", "__pycache__"),
    )
    shutil.copy(CHECKOUT / "hatch_build.py", root)
    (root / "bpf" / f"{DROPPED}.bpf.c").unlink()
    (root / "src" / "pliant" / "features" / f"{DROPPED}.py").unlink()
    scope = root / "bpf" / "include" / "pliant" / "scope.h"
    text = scope.read_text()
    for name, place in (("policy", "__u64 treated;"), ("verdict", "__u32 won;")):
        start = text.index(place, text.index(f"struct {name} {{"))
        counter = "__u64 held_out;" if name == "policy" else "__u32 another[3];"
        if name == "policy":
            text = text.replace(counter, "", 1)
        text = f"{text[:start]}{counter}\n\t{text[start:]}"
    scope.write_text(text)
    subprocess.run([sys.executable, "hatch_build.py"], cwd=root, check=True, stdout=subprocess.DEVNULL)
    return root / "src"


@dataclass(frozen=True)
class Report:
    """What a service says: ends of connections by what they were given, and by what those that stay open have.

    ``resets`` has what TCP counted of connections that ended badly.
    """

    made: Counter[tuple[int, ...]] = field(default_factory=Counter)
    kept: Counter[tuple[int, ...]] = field(default_factory=Counter)
    resets: Counter[str] = field(default_factory=Counter)

    def __add__(self, other: Report) -> Report:
        """Both together."""
        return Report(self.made + other.made, self.kept + other.kept, self.resets + other.resets)


@dataclass(frozen=True)
class Service:
    """A service that connects all the time, until it is asked for its report for the first time."""

    process: Process

    def report(self) -> Report:
        """Have it try the connections that stay open, and say what it has seen."""
        stdin, stdout = self.process.popen.stdin, self.process.popen.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(b"report\n")
        stdin.flush()
        line = stdout.readline()
        assert line, self.process.output
        told = json.loads(line)
        made, kept = (Counter({tuple(what): count for what, count in told[key]}) for key in ("made", "kept"))
        return Report() + Report(made, kept, Counter(told["resets"]))  # adding leaves out what is zero


Loaded = Callable[[str, int], AbstractContextManager[Service]]


@pytest.fixture
def loaded(ground: Ground) -> Loaded:
    """Have a service of the ground keep so many connections to itself open, and make new ones."""

    @contextmanager
    def service(name: str, kept: int) -> Iterator[Service]:
        process = ground.lab.spawn(
            [sys.executable, str(LOAD), str(kept)],
            service=f"{ground.root.name}/{name}",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        stdin, stdout = process.popen.stdin, process.popen.stdout
        assert stdin is not None
        assert stdout is not None
        assert stdout.readline() == b"open\n", process.output
        yield Service(process)
        stdin.close()
        process.stop()

    return service


def counters(pins: Path) -> dict[int, tuple[int, int]]:
    """The connections that each policy has treated and held out, whatever build counts them."""
    [pin] = pins.glob("*/scope/policies")
    with Map.pinned(pin) as held:
        codec = held.value_codec
        assert codec is not None
        found = {int.from_bytes(key, sys.byteorder): codec.unpack(value) for key, value in held.items()}
    return {number: (policy["treated"], policy["held_out"]) for number, policy in found.items()}


def begun(pins: Path) -> dict[tuple[int, int], int]:
    """The connections that were judged by policy and arm, for those that are measured."""
    [pin] = pins.glob("*/scope/effects")
    with Map.pinned(pin) as held:
        keys, values = held.key_codec, held.value_codec
        assert keys is not None
        assert values is not None
        found = {(k := keys.unpack(key))["policy"]: k for key, _ in held.items()}
        assert found is not None
        return {
            (keys.unpack(key)["policy"], keys.unpack(key)["arm"]): values.unpack(value)["connections"]
            for key, value in held.items()
        }
