# SPDX-License-Identifier: Apache-2.0
"""``python -m pliant``."""

from pliant.cli.main import main

if __name__ == "__main__":
    main()
