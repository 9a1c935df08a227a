# SPDX-License-Identifier: Apache-2.0
"""What ends the run with a sentence."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


class Failure(Exception):
    """Something without which the kernels cannot be booted; the message says what, and what to do."""


def run(argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None) -> str:
    """Run a program and return what it printed; raises :class:`Failure` with the last words of one that fails."""
    try:
        done = subprocess.run(
            [str(word) for word in argv], env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError as error:
        raise Failure(f"{argv[0]} is not installed; this needs a Debian system") from error
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines()[-5:]
        raise Failure(f"{argv[0]} {argv[1] if len(argv) > 1 else ''} failed:\n" + "\n".join(words))
    return done.stdout
