# SPDX-License-Identifier: Apache-2.0
"""Sysctls of a host that are set again and again: each has a file that stays open."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from pliant.lab import Host


class Settings:
    """Those of one network namespace."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._files: dict[str, int] = {}

    def set(self, settings: Iterable[tuple[str, str]]) -> str:
        """Set each, by name and value; returns a line for each that is not there.

        IPv6 leaves a port whose MTU is too small for it, and takes its settings along; they come back as other files.
        """
        absent = ""
        for name, value in settings:
            if not self._write(name, value):
                absent += f"{name} is not there\n"
        return absent

    def _write(self, name: str, value: str) -> bool:
        text = f"{value}\n".encode()
        file = self._files.get(name)
        if file is not None:
            try:
                os.pwrite(file, text, 0)
                return True
            except FileNotFoundError:
                os.close(self._files.pop(name))
        try:
            with self._host.inside():
                file = os.open(Path("/proc/sys", name.replace(".", "/")), os.O_WRONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        self._files[name] = file
        os.pwrite(file, text, 0)
        return True

    def close(self) -> None:
        """Close the files."""
        while self._files:
            os.close(self._files.popitem()[1])
