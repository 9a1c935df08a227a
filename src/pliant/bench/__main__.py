# SPDX-License-Identifier: Apache-2.0
"""``python -m pliant.bench``: the benchmarks without the rest of the command line."""

from __future__ import annotations

import sys

from pliant.bench.command import bench
from pliant.errors import PliantError


def main() -> None:
    """Run the command; errors are one sentence and a remedy, and end with the error's status."""
    try:
        bench(prog_name="python -m pliant.bench")
    except PliantError as error:
        print(f"error: {error.message}", file=sys.stderr)
        if error.remedy:
            print(f"remedy: {error.remedy}", file=sys.stderr)
        sys.exit(error.exit_status)


if __name__ == "__main__":
    main()
