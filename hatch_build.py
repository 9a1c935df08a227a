# SPDX-License-Identifier: Apache-2.0
"""Compiles ``bpf/**/*.bpf.c`` into the objects the package ships.

Run by hatchling when a wheel or an editable install is built, and by ``make bpf`` as a script. Objects are
compiled once, here, never on the host that loads them: kernel types come from ``bpf/include/pliant/kernel.h``
(relocated at load time, CO-RE), so the result does not depend on the build machine's kernel.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run as a script, without hatchling
    BuildHookInterface = object

ROOT = Path(__file__).resolve().parent
SOURCES = ROOT / "bpf"
OBJECTS = ROOT / "src" / "pliant" / "objects"
COMPILERS = ("clang-19", "clang-20", "clang-21", "clang")
FLAGS = ("-target", "bpf", "-mcpu=v3", "-g", "-O2", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter")


def compiler() -> str:
    """The clang to build with: ``$PLIANT_CLANG``, else the first of clang-19, newer ones, clang."""
    named = os.environ.get("PLIANT_CLANG")
    for name in (named,) if named else COMPILERS:
        found = shutil.which(name)
        if found:
            return found
    raise SystemExit("no clang found to compile the BPF objects; install clang-19 (make setup does)")


def multiarch_include() -> Path:
    """Debian's directory of architecture-specific kernel headers (``asm/types.h``), which a BPF target lacks."""
    machine = os.uname().machine
    return Path(f"/usr/include/{machine}-linux-gnu")


def stale(source: Path, target: Path) -> bool:
    """Whether ``target`` is missing or older than ``source`` or any header or this script."""
    if not target.exists():
        return True
    inputs = [source, Path(__file__), *SOURCES.glob("include/**/*.h")]
    return max(path.stat().st_mtime for path in inputs) > target.stat().st_mtime


def compile_object(source: Path, target: Path) -> None:
    """Compile one source; paths are made relative so that the object is the same in any checkout."""
    command = [
        compiler(),
        *FLAGS,
        f"-ffile-prefix-map={ROOT}=.",
        "-fdebug-compilation-dir=.",
        "-Ibpf/include",
        f"-I{multiarch_include()}",
        "-c",
        str(source.relative_to(ROOT)),
        "-o",
        str(target),
    ]
    line = " ".join(command) if os.environ.get("V") == "1" else f"  BPF  {target.name}"
    target.parent.mkdir(exist_ok=True)
    sys.stdout.write(line + "\n")  # in one piece: others write at the same time
    result = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    if result.returncode:
        raise SystemExit(f"{source.relative_to(ROOT)} does not compile:\n{result.stderr}")


def compile_all() -> None:
    """Compile every source that is newer than its object; drop objects whose source is gone."""
    OBJECTS.mkdir(parents=True, exist_ok=True)
    wanted = {
        OBJECTS / source.relative_to(SOURCES).with_suffix(".o"): source
        for source in sorted(SOURCES.glob("**/*.bpf.c"))
    }
    for orphan in set(OBJECTS.glob("**/*.bpf.o")) - set(wanted):
        orphan.unlink()
    jobs = [(source, target) for target, source in wanted.items() if stale(source, target)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda job: compile_object(*job), jobs))


class CustomBuildHook(BuildHookInterface):  # type: ignore[misc, unused-ignore]
    """Hatchling's entry point: compile before the wheel is put together."""

    def initialize(self, version: str, build_data: dict[str, object]) -> None:
        """Compile the objects; in a source tree without ``bpf/`` keep the shipped ones."""
        if SOURCES.is_dir():
            compile_all()


if __name__ == "__main__":
    compile_all()
