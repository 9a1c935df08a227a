# SPDX-License-Identifier: Apache-2.0
"""Asking the agent of this host, over its socket."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pliant.errors import PliantError

VERSION = 1
ANSWER_TIMEOUT_S = 30.0


class NoAgent(PliantError):
    """Nobody listens."""


def ask(path: Path, method: str, **params: Any) -> Any:
    """Ask for something and return the answer.

    Raises :class:`NoAgent` when no agent listens there, and :class:`PliantError` with the agent's own sentence when it
    refuses.
    """
    with _connected(path) as connection, connection.makefile("rwb") as stream:
        return _asked(path, stream, method, params)["result"]


def follow_events(path: Path, **params: Any) -> Iterator[Mapping[str, Any]]:
    """Events as documents: those asked for, then those to come, until the agent ends."""
    with _connected(path) as connection, connection.makefile("rwb") as stream:
        yield from _asked(path, stream, "events", {**params, "follow": True})["result"]
        connection.settimeout(None)
        for line in stream:
            yield json.loads(line)["event"]


def _connected(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    connection.settimeout(ANSWER_TIMEOUT_S)
    try:
        connection.connect(str(path))
    except PermissionError as error:
        connection.close()
        raise NoAgent(
            f"this user may not ask the agent at {path}", remedy="use sudo, or join the agent's group"
        ) from error
    except OSError as error:
        connection.close()
        raise NoAgent(
            f"no agent listens on {path}", remedy="start one: systemctl start pliant, or 'pliant agent'"
        ) from error
    return connection


def _asked(path: Path, stream: Any, method: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
    request = {"version": VERSION, "id": 1, "method": method, "params": params}
    try:
        stream.write(json.dumps(request).encode() + b"\n")
        stream.flush()
        line = stream.readline()
    except OSError as error:
        raise PliantError(f"the agent at {path} does not answer: {error}") from error
    if not line:
        raise PliantError(f"the agent at {path} has ended the connection without an answer")
    answer: Mapping[str, Any] = json.loads(line)
    if "error" in answer:
        raise PliantError(answer["error"]["message"], remedy=answer["error"]["remedy"])
    return answer
