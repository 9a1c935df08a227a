# SPDX-License-Identifier: Apache-2.0
"""One boot of an emulated machine, followed until its guest has said its last word."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernels.failure import Failure

PROGRAM = "qemu-system-x86_64"
FIRST_WORD_S = {"kvm": 60.0, "tcg": 900.0}
"""How long a guest may take until its first event; one that takes longer is dead."""

Event = dict[str, Any]


class Died(Failure):
    """The machine ended, or fell silent, before the guest was done; ``spoke`` says whether the guest ever began."""

    def __init__(self, message: str, *, spoke: bool) -> None:
        super().__init__(message)
        self.spoke = spoke


@dataclass(frozen=True, slots=True)
class Boot:
    """What to boot: a kernel, its root file system, and where the console is written.

    With ``counts`` the machine has one processor, on which every instruction takes a nanosecond, and nothing that could
    make two boots differ: its clock counts instructions.
    """

    kernel: Path
    root: Path
    console: Path
    memory_mb: int = 1536
    arguments: str = ""
    counts: bool = False


def accelerators() -> tuple[str, ...]:
    """The ways to run a guest here, the quickest first."""
    return ("kvm", "tcg") if os.access("/dev/kvm", os.R_OK | os.W_OK) else ("tcg",)


def follow(boot: Boot, accelerator: str, silence_s: float, on_event: Callable[[Event], None]) -> None:
    """Boot and hand over each event of the guest; return when it says that it is done.

    Raises :class:`Died` when the guest ends early, or says nothing for ``silence_s``. The emulator is gone when this
    returns or raises, and when this process dies, however it does.
    """
    boot.console.parent.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", *_command(boot, accelerator)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C comes to us alone
    )
    spoke = False
    try:
        for event in _events(process, FIRST_WORD_S[accelerator], silence_s):
            if event["event"] == "end" and spoke:
                return
            spoke = True
            on_event(event)
        process.wait(10)
        assert process.stderr is not None
        words = process.stderr.read().decode(errors="replace").strip().splitlines()[-1:] or [
            _last_line(boot.console)
        ]
        raise Died(f"the machine ended before the guest was done: {words[0]}", spoke=spoke)
    except TimeoutError as error:
        raise Died(f"{error}; its console ends with: {_last_line(boot.console)}", spoke=spoke) from error
    finally:
        process.kill()
        process.wait()


def _command(boot: Boot, accelerator: str) -> list[str]:
    arguments = f"console=ttyS0 panic=-1 loglevel=4 rdinit=/init {boot.arguments}"
    if boot.counts:
        arguments += " nokaslr clocksource=tsc tsc=reliable"
        processor = ["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off", "-smp", "1"]
        processor += ["-cpu", "max,-rdrand,-rdseed", "-rtc", "base=2026-01-01,clock=vm"]
    elif accelerator == "tcg":
        processor = ["-accel", "tcg,thread=multi", "-smp", "2", "-cpu", "max"]
    else:
        processor = ["-accel", accelerator, "-smp", "2", "-cpu", "host"]
    return [
        *(PROGRAM, *processor, "-m", f"{boot.memory_mb}M", "-nodefaults", "-no-user-config", "-no-reboot"),
        *("-display", "none", "-kernel", str(boot.kernel), "-initrd", str(boot.root), "-append", arguments),
        *("-serial", f"file:{boot.console}", "-serial", "stdio"),
    ]


def _events(process: subprocess.Popen[bytes], first_s: float, silence_s: float) -> Iterator[Event]:
    assert process.stdout is not None
    descriptor, rest = process.stdout.fileno(), b""
    deadline = time.monotonic() + first_s
    while True:
        if not select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise TimeoutError("the guest fell silent")
        data = os.read(descriptor, 1 << 16)
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"{"):
                yield json.loads(line)
                deadline = time.monotonic() + silence_s


def _last_line(console: Path) -> str:
    text = console.read_bytes().decode(errors="replace") if console.exists() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "(nothing)"
