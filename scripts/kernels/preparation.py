# SPDX-License-Identifier: Apache-2.0
"""What a boot needs: Debian's user space with the wheel in it, a kernel with its modules, and the emulator."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kernels import image, machine
from kernels.failure import Failure, run
from kernels.packages import Suite

ROOT = Path(__file__).resolve().parent.parent.parent
WORK = ROOT / "build" / "kernels"
USER_SPACE_SUITE = "bookworm"


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Hold the working directory, which two runs cannot share."""
    if os.uname().machine != "x86_64":
        raise Failure("only kernels for amd64 are tried so far, and this machine is another")
    WORK.mkdir(parents=True, exist_ok=True)
    with (WORK / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Failure(f"another run is using {WORK}: wait for it, or end it") from error
        yield


def say(verb: str, what: str) -> None:
    """One line of progress."""
    print(f"  {verb.ljust(6)} {what}", flush=True)


def user_space(site: str) -> bytes:
    """The archive that all guests share: Debian's Python and tools, the wheel, and the checks."""
    say("APT", f"{USER_SPACE_SUITE}: {', '.join(image.USER_SPACE)}")
    suite = Suite(USER_SPACE_SUITE, site, WORK / "apt")
    suite.refresh()
    root = WORK / "root"
    image.make_root(suite.download(image.USER_SPACE), root)
    say("WHEEL", "built, and installed in the guest's file system")
    shutil.rmtree(WORK / "wheel", ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    run([*pip, "wheel", "--no-deps", "-w", WORK / "wheel", ROOT])
    [wheel] = (WORK / "wheel").glob("*.whl")
    image.install_wheel(wheel, root)
    shutil.rmtree(root / "opt/guest", ignore_errors=True)
    shutil.copytree(Path(__file__).parent / "guest", root / "opt/guest")
    shutil.copy(root / "opt/guest/init", root / "init")
    return image.pack(root)


def emulator(site: str) -> str:
    """The version of the emulator, which is installed when it is missing."""
    if not shutil.which(machine.PROGRAM):
        backports = Suite(f"{_codename()}-backports", site, WORK / "apt")
        try:  # a newer one when there is one: some kernels crash in the one of Debian 12
            backports.refresh()
        except Failure:
            backports = Suite(_codename(), site, WORK / "apt")
        say("APT", f"qemu-system-x86 from {backports.name}, on this machine")
        backports.install_on_this_machine("qemu-system-x86", _codename())
    return run([machine.PROGRAM, "--version"]).splitlines()[0].removeprefix("QEMU emulator version ")


def _codename() -> str:
    lines = Path("/etc/os-release").read_text().splitlines()
    return next(line.partition("=")[2].strip('"') for line in lines if line.startswith("VERSION_CODENAME="))


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel of a suite, fetched and unpacked."""

    suite: str
    package: str
    version: str
    release: str
    file: Path
    unpacked: Path


def fetch(site: str, name: str) -> Kernel:
    """Fetch the newest kernel of a suite and flavour ("trixie/cloud-amd64")."""
    suite_name, _, flavour = name.partition("/")
    suite = Suite(suite_name, site, WORK / "apt")
    suite.refresh()
    packages = suite.kernel(flavour)
    [package, version] = packages[0]
    say("APT", f"{suite_name}: {package} {version}")
    unpacked = WORK / "kernels" / f"{package}_{version.replace(':', '_')}"
    file, release = image.unpack_kernel((suite.download_alone(*each) for each in packages), unpacked)
    return Kernel(suite_name, package, version, release, file, unpacked)


def boot_of(kernel: Kernel, shared: bytes, words: str, *, counts: bool = False) -> machine.Boot:
    """What to boot: a kernel, the user space with its modules, and words for the guest."""
    image.choose_modules(kernel.unpacked, kernel.release, WORK / "root", WORK / "modules")
    archive = WORK / "root.cpio"
    archive.write_bytes(shared + image.pack(WORK / "modules"))
    console = WORK / "consoles" / f"{kernel.release}.log"
    return machine.Boot(kernel.file, archive, console, arguments=words, counts=counts)
