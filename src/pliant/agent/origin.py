# SPDX-License-Identifier: Apache-2.0
"""Who asks for a change: a person behind a process, or behind a connection to the agent."""

from __future__ import annotations

import contextlib
import os
import pwd
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

NO_LOGIN = 2**32 - 1  # loginuid of a process that nobody logged in to start
LONGEST_COMMAND = 2000


@dataclass(frozen=True, slots=True)
class Origin:
    """What is known of a process that asks: everything but ``sudo_user``, which it says itself, is from the kernel.

    ``login`` is who logged in, whatever user they became since (loginuid, which only root can change); ``via`` is
    ``process``, or ``socket`` for one that asked the agent.
    """

    via: str
    pid: int
    uid: int
    user: str
    login: str
    sudo_user: str
    command: str

    @classmethod
    def of_this_process(cls) -> Origin:
        """This process."""
        return cls._of("process", os.getpid(), os.getuid(), os.environ.get("SUDO_USER", ""))

    @classmethod
    def of_peer(cls, pid: int, uid: int) -> Origin:
        """The peer of a Unix socket, by its credentials (SO_PEERCRED, unix(7))."""
        return cls._of("socket", pid, uid, "")

    @classmethod
    def _of(cls, via: str, pid: int, uid: int, sudo_user: str) -> Origin:
        login = _read(pid, "loginuid")
        login_uid = int(login) if login.isdigit() else NO_LOGIN
        words = _read(pid, "cmdline").split("\0")[:-1]
        return cls(
            via=via,
            pid=pid,
            uid=uid,
            user=_name(uid),
            login="" if login_uid == NO_LOGIN else _name(login_uid),
            sudo_user=sudo_user,
            command=shlex.join(words)[:LONGEST_COMMAND],
        )

    def as_data(self) -> dict[str, Any]:
        """As plain data, without what is not known."""
        return {name: value for name, value in asdict(self).items() if value != ""}


def _read(pid: int, name: str) -> str:
    with contextlib.suppress(OSError):
        return os.fsdecode(Path(f"/proc/{pid}/{name}").read_bytes())
    return ""


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
