# SPDX-License-Identifier: Apache-2.0
"""The build of the BPF objects: the same bytes wherever the checkout lies."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def objects_in(checkout: Path) -> dict[str, bytes]:
    objects = checkout / "src" / "pliant" / "objects"
    return {str(path.relative_to(objects)): path.read_bytes() for path in objects.rglob("*.bpf.o")}


def test_objects_are_the_same_bytes_in_any_directory(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "bpf", tmp_path / "bpf")
    shutil.copy(ROOT / "hatch_build.py", tmp_path)
    subprocess.run([sys.executable, tmp_path / "hatch_build.py"], check=True, capture_output=True)
    built = objects_in(tmp_path)
    subprocess.run([sys.executable, ROOT / "hatch_build.py"], check=True, capture_output=True)
    assert built == objects_in(ROOT)


def test_source_that_does_not_compile_is_named(tmp_path: Path) -> None:
    (tmp_path / "bpf").mkdir()
    (tmp_path / "bpf" / "broken.bpf.c").write_text("int x = y;\n")
    shutil.copy(ROOT / "hatch_build.py", tmp_path)
    done = subprocess.run([sys.executable, tmp_path / "hatch_build.py"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "bpf/broken.bpf.c does not compile" in done.stderr
