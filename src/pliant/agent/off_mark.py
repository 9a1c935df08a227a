# SPDX-License-Identifier: Apache-2.0
"""That everything is off, where the journal cannot keep it: a file ``off`` beside it in the state directory."""

from __future__ import annotations

import json
import os
from pathlib import Path

from pliant.policy.switches import HOST, Switch, Switches

NAME = "off"


def read_mark(state: Path) -> Switch | None:
    """What the file says; a file that cannot be read says that everything is off, and no more."""
    path = state / NAME
    try:
        said = json.loads(path.read_bytes())
        return Switch(HOST, str(said["because"]), str(said["by"]), float(said["since"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return Switch(HOST, f"{path} is there", "", 0.0)


def write_mark(state: Path, switch: Switch) -> None:
    """Write the file, on disk before this returns. Raises OSError."""
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    made = state / f"{NAME}.new"
    with made.open("w") as file:
        json.dump(switch.as_data(), file)
        file.flush()
        os.fsync(file.fileno())
    made.rename(state / NAME)


def clear_mark(state: Path) -> None:
    """Remove the file, if it is there."""
    (state / NAME).unlink(missing_ok=True)


def with_mark(switches: Switches, state: Path) -> Switches:
    """What is off by the journal, and by the file."""
    mark = None if switches.host else read_mark(state)
    return switches.turned_off([mark]) if mark else switches
