# SPDX-License-Identifier: Apache-2.0
"""Whatever is in our tables: connections are made, commands tell, doctor sees it and repair puts it right."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pliant.features import features
from pliant.features.feature import Reach
from pliant.kernel.errors import KernelError
from pliant.kernel.maps import Map
from pliant.kernel.programs import Program
from pliant.kernel.uapi import MapType
from pliant.lab import Host as LabHost
from pliant.lab import TcpClient, TcpServer
from tests.conftest import policy
from tests.fuzz.conftest import EXAMPLES, run

if TYPE_CHECKING:
    from tests.conftest import Pliant

pytestmark = pytest.mark.root

FEW = 12
SEEDS = (
    [int(os.environ["PLIANT_SEED"])]
    if "PLIANT_SEED" in os.environ
    else random.SystemRandom().sample(range(1 << 32), EXAMPLES)
    if EXAMPLES
    else range(FEW)
)
MOST_CHANGES = 6
STATUSES = {0, 1, 2}
READERS = (
    "get policies",
    "get policies -o json",
    "get services",
    "get features",
    "get connections",
    "get connections -o json",
    "describe all-new",
    "effect",
    "effect all-new -o json",
    "top --once",
    "diff -f {file}",
    "history",
)
EXPLAINED = "explain --connection {connection}"
NOT_WRITABLE = {MapType.SK_STORAGE, MapType.PROG_ARRAY}


@pytest.fixture(scope="module")
def connecting(host: LabHost, fuzzed: Pliant) -> Iterator[TcpClient]:
    """A service that connects to itself, with every feature there is."""

    def tune(*reaches: Reach) -> dict[str, object]:
        return {
            name: feature.option.example for name, feature in features().items() if feature.reach in reaches
        }

    fuzzed.apply(
        policy("all-new", "/web.service", tune(Reach.NEW_ONLY, Reach.LIVE), holdout="20%"),
        policy("all-live", "/web.service", tune(Reach.LIVE, Reach.LIVE_ONLY), apply_to="live", priority=50),
    )
    with (
        TcpServer(host, ["[::]:80"], service="web.service"),
        TcpClient(host, service="web.service") as client,
    ):
        yield client


def spoil(pins: Path, draw: random.Random) -> None:
    """Change something in one of our tables that somebody else might, or some bit by itself."""
    with Map.pinned(draw.choice(tables(pins))) as held:
        key = draw.choice(list(held.keys()) or [draw.randbytes(held.key_size)])
        value = bytearray(held.get(key) or bytes(held.value_size))
        with contextlib.suppress(KernelError):  # what the kernel does not take is no trouble
            match draw.choice(["bit", "bit", "bytes", "ones", "new", "delete", "delete"]):
                case "bit":
                    value[draw.randrange(len(value))] ^= 1 << draw.randrange(8)
                    held.put(key, bytes(value))
                case "bytes":
                    held.put(key, draw.randbytes(len(value)))
                case "ones":
                    held.put(key, b"\xff" * len(value))
                case "new":
                    held.put(draw.randbytes(held.key_size), draw.randbytes(len(value)))
                case _:
                    held.delete(key)


def tables(pins: Path) -> list[Path]:
    """The pins of all tables that user space can write."""
    found = []
    for path in sorted(pins.rglob("*")):
        with contextlib.suppress(KernelError, IsADirectoryError), Map.pinned(path) as held:
            if held.type not in NOT_WRITABLE:
                found.append(path)
    return found


def mix_programs(pins: Path, draw: random.Random) -> None:
    """Have scope call a program for another's option, or none."""
    [path] = pins.glob("*/scope/features")
    programs = sorted(pins.glob("*/*/program_*"))
    with Map.pinned(path) as called, contextlib.suppress(KernelError):
        key = draw.choice(list(called.keys()) or [bytes(4)])
        if draw.random() < 0.5:
            called.delete(key)
            return
        with Program.pinned(draw.choice(programs)) as program:
            called.put(key, program.fileno().to_bytes(4, "little"))


@pytest.mark.parametrize("seed", SEEDS)
def test_spoiled_tables_hurt_nobody_and_are_seen_and_put_right(
    fuzzed: Pliant, host: LabHost, connecting: TcpClient, tmp_path: Path, seed: int
) -> None:
    connecting.disconnect()
    draw = random.Random(seed)
    assert run("repair").status == 0  # what a failure before has left
    before = fuzzed.listing()
    for _ in range(draw.randint(1, MOST_CHANGES)):
        (mix_programs if draw.random() < 0.15 else spoil)(fuzzed.places.pins, draw)
    spoiled = fuzzed.listing()
    changed = {name for name in before if spoiled.get(name) != before[name]}

    for address in ("127.0.0.1", "::1"):
        [mine] = connecting.connect(address, 80)
        assert mine.state == "established"
        connecting.disconnect()
    [mine] = connecting.connect("::1", 80)
    connection = f"[::1]:{mine.local_port}-[::1]:80"
    file = tmp_path / "same.yaml"
    file.write_text(run("get", "policies", "-o", "yaml").output)
    for words in (*READERS, EXPLAINED):
        argv = [word.format(file=file, connection=connection) for word in words.split()]
        done = run(*argv)
        assert done.status in STATUSES, (argv, done)
    found = run("doctor")
    assert ("the kernel differs from the journal" in found.output) == bool(changed), changed
    assert found.status == (1 if changed else 0), found.output

    assert run("repair").status == 0
    assert fuzzed.listing() == before
    found = run("doctor")
    assert found.status == 0, found.output
