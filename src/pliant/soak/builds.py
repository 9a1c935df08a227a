# SPDX-License-Identifier: Apache-2.0
"""Another build of Pliant, whose maps have another layout: what an upgrade brings, and a downgrade takes back."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pliant
from pliant.errors import PliantError

PACKAGE = Path(pliant.__file__).resolve().parent
CHECKOUT = PACKAGE.parents[1]
NEEDED = ("bpf", "hatch_build.py")
STRUCT = "\nstruct verdict {\n"
ANOTHER = "\t__u32 another_build;\n"


def is_possible() -> bool:
    """Whether this package can be built again: it runs from a checkout, and not from a wheel."""
    return all((CHECKOUT / name).exists() for name in NEEDED)


def make_other(directory: Path) -> Path:
    """Build Pliant with one more member in ``struct verdict``; where Python finds it. Raises PliantError."""
    for name in NEEDED:
        source = CHECKOUT / name
        copy = shutil.copytree if source.is_dir() else shutil.copyfile
        copy(source, directory / name)
    kept = shutil.ignore_patterns("objects", "__pycache__")
    shutil.copytree(PACKAGE, directory / "src" / "pliant", ignore=kept)
    header = directory / "bpf" / "include" / "pliant" / "scope.h"
    text = header.read_text()
    if text.count(STRUCT) != 1:
        raise PliantError(f"cannot make another layout: struct verdict in {header.name} is not as it was")
    header.write_text(text.replace(STRUCT, STRUCT + ANOTHER))
    done = subprocess.run(
        [sys.executable, "hatch_build.py"], cwd=directory, capture_output=True, text=True, env=os.environ
    )
    if done.returncode:
        raise PliantError(f"another build cannot be made: {done.stderr.strip()}")
    return directory / "src"
