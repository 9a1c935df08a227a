# SPDX-License-Identifier: Apache-2.0
"""The agent's log: the events it records, a line each. For people on a terminal, JSON otherwise."""

from __future__ import annotations

import json
import sys
import time

from pliant.store.events import Event

_WIDTH = 18  # of the kind; the longest common ones


def log(event: Event) -> None:
    """Write an event to standard error."""
    if sys.stderr.isatty():
        clock = time.strftime("%H:%M:%S", time.localtime(event.at))
        line = f"{clock} {event.kind:<{_WIDTH}} {event.sentence}"
    else:
        line = json.dumps(event.to_document(), ensure_ascii=False)
    try:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
    except OSError:  # whoever read it is gone; the journal has it
        pass
