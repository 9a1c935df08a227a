# SPDX-License-Identifier: Apache-2.0
"""The program ``pliant``, also as ``python -m pliant``."""

from __future__ import annotations

import sys


def main() -> None:
    """Import and run the command line; an interrupt while it is still being imported is told like any other."""
    try:
        from pliant.cli.main import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
