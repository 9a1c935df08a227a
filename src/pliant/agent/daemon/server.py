# SPDX-License-Identifier: Apache-2.0
"""The agent's Unix socket: one JSON object a line, or an HTTP request for the metrics. See docs/agent-socket.md.

Who asks is known from the kernel (SO_PEERCRED): root may do everything, members of one group may read.
"""

from __future__ import annotations

import contextlib
import grp
import json
import os
import socket
import stat
import struct
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pliant.agent.daemon.loop import READ, WRITE, Loop
from pliant.errors import PliantError
from pliant.store.events import Event

VERSION = 1
MAX_REQUEST_BYTES = 16 << 20
MAX_UNREAD_BYTES = 16 << 20
MAX_CONNECTIONS = 64
_PEERCRED = struct.Struct("3i")
_SO_PEERGROUPS = 59
_MAX_GROUPS = 256  # what socket.getsockopt() has room for; of somebody in more only the first group counts


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end."""

    pid: int
    uid: int
    groups: frozenset[int]


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked and by whom; ``follow`` sends events from now on, after the number given."""

    peer: Peer
    params: Mapping[str, Any]
    follow: Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Method:
    """One thing that can be asked for; only root may where ``changes`` is set. Parameters by name, with their types."""

    name: str
    summary: str
    run: Callable[[Request], Any]
    params: Mapping[str, tuple[type, ...]]
    changes: bool = False


def peer_of(connection: socket.socket) -> Peer:
    """Who is at the other end of a Unix connection, as the kernel knows it from the moment of connecting."""
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size)
    pid, uid, gid = _PEERCRED.unpack(packed)
    try:
        groups = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4 * _MAX_GROUPS)
    except OSError:
        groups = b""
    return Peer(pid, uid, frozenset({gid, *struct.unpack(f"={len(groups) // 4}I", groups)}))


class Server:
    """Listens, reads requests, runs methods, writes what they return, and sends events to those who follow them."""

    def __init__(
        self,
        loop: Loop,
        methods: Mapping[str, Method],
        events_after: Callable[[int], list[Event]],
        metrics: Callable[[], str],
    ) -> None:
        self.loop = loop
        self.methods = methods
        self.events_after = events_after
        self.metrics = metrics
        self.readers: frozenset[int] = frozenset()
        self._connections: set[Connection] = set()
        self._listening: list[socket.socket] = []
        self._path: Path | None = None

    def listen(self, path: Path, group: str) -> None:
        """Listen on a Unix socket. Raises :class:`PliantError` when the path is somebody else's."""
        _make_way(path)
        listening = socket.socket(
            socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        )
        self._listening.append(listening)
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
            mask = os.umask(0o177)
            try:
                listening.bind(str(path))
            finally:
                os.umask(mask)
            self._path = path
            with contextlib.suppress(KeyError):
                number = grp.getgrnam(group).gr_gid
                os.chown(path, -1, number)
                path.chmod(0o660)
                self.readers = frozenset({number})
            listening.listen(MAX_CONNECTIONS)
        except OSError as error:
            raise PliantError(
                f"cannot listen on {path}: {(error.strerror or str(error)).lower()}",
                remedy="name another --socket",
            ) from error
        self.loop.watch(listening, lambda: self._accept(listening, trusted=False))

    def listen_tcp(self, address: str, port: int) -> int:
        """Serve the metrics over HTTP on a TCP address; the port, which was chosen where 0 was given."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        self._listening.append(listening)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((address, port))
            listening.listen(MAX_CONNECTIONS)
        except (OSError, OverflowError) as error:
            raise PliantError(
                f"cannot serve metrics on {address} port {port}: {str(error).lower()}",
                remedy="give another address with --metrics",
            ) from error
        self.loop.watch(listening, lambda: self._accept(listening, trusted=True))
        return int(listening.getsockname()[1])

    def _accept(self, listening: socket.socket, *, trusted: bool) -> None:
        """Take a connection; ``trusted`` ones are for metrics only, which whoever reaches the address may read."""
        with contextlib.suppress(OSError):
            sock, _ = listening.accept()
            if len(self._connections) >= MAX_CONNECTIONS:
                sock.close()
                return
            sock.setblocking(False)
            self._connections.add(Connection(self, sock, None if trusted else peer_of(sock)))

    def publish(self) -> None:
        """Send the events that are new to those who follow."""
        for connection in list(self._connections):
            connection.send_events()

    def forget(self, connection: Connection) -> None:
        """A connection has ended."""
        self._connections.discard(connection)

    def close(self) -> None:
        """End all connections, no longer listen and remove the socket's file."""
        for connection in list(self._connections):
            connection.close()
        for listening in self._listening:
            self.loop.forget(listening)
            listening.close()
        if self._path:
            self._path.unlink(missing_ok=True)


class Connection:
    """One connection: lines in, lines out; cut off when it asks too much or reads too little."""

    def __init__(self, server: Server, sock: socket.socket, peer: Peer | None) -> None:
        self.server = server
        self.peer = peer
        self._socket = sock
        self._in = bytearray()
        self._out = bytearray()
        self._ending = False
        self._followed: tuple[Any, int] | None = None
        server.loop.watch(sock, self._ready)

    def close(self) -> None:
        """End it."""
        self._followed = None
        self.server.loop.forget(self._socket)
        self._socket.close()
        self.server.forget(self)

    def _ready(self) -> None:
        try:
            if self._out:
                self._flush()
            data = self._socket.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if not data:
            self.close()
            return
        self._in += data
        if self._in.startswith(b"GET "):
            if b"\r\n\r\n" in self._in or len(self._in) > 1 << 14:
                self._answer_http()
        elif self.peer is None or len(self._in) > MAX_REQUEST_BYTES:
            self.close()
        else:
            self._take_lines()

    def _take_lines(self) -> None:
        while not self._ending and (end := self._in.find(b"\n")) >= 0:
            line = bytes(self._in[:end])
            del self._in[: end + 1]
            if line.strip():
                self._answer(line)

    def _answer(self, line: bytes) -> None:
        number = None
        try:
            request = _parsed(line)
            number = request.get("id")
            self._send({"id": number, "result": self._call(request, number)})
            self.send_events()
        except PliantError as error:
            told = {"message": error.message, "remedy": error.remedy, "status": error.exit_status}
            self._send({"id": number, "error": told})
        except Exception as error:  # a request must not end the agent, whatever is wrong with it or with us
            traceback.print_exc()
            what = f"{type(error).__name__}: {error}"
            told = {
                "message": f"the agent failed at this request: {what}",
                "remedy": "see its log",
                "status": 2,
            }
            self._send({"id": number, "error": told})

    def _call(self, request: Mapping[str, Any], number: Any) -> Any:
        assert self.peer is not None
        method = self.server.methods.get(request["method"])
        if method is None:
            known = ", ".join(self.server.methods)
            raise PliantError(f"there is no method '{request['method']}'", remedy=f"those there are: {known}")
        self._authorise(self.peer, method)
        params = request.get("params", {})
        _check(method, params)

        def follow(after: int) -> None:
            self._followed = (number, after)

        return method.run(Request(self.peer, params, follow))

    def _authorise(self, peer: Peer, method: Method) -> None:
        if peer.uid == 0:
            return
        if method.changes or not peer.groups & self.server.readers:
            what = "change this host" if method.changes else "read"
            raise PliantError(
                f"user {peer.uid} may not {what} through the agent", remedy="use sudo, or have root do it"
            )

    def send_events(self) -> None:
        """Send what has happened since, when that was asked for."""
        while self._followed is not None:
            number, after = self._followed
            events = self.server.events_after(after)
            if not events:
                return
            self._followed = (number, events[-1].id)
            for event in events:
                self._send({"id": number, "event": event.to_document()})

    def _answer_http(self) -> None:
        path = self._in.split(b" ", 2)[1]
        self._ending = True
        self._in.clear()
        may = self.peer is None or self.peer.uid == 0 or self.peer.groups & self.server.readers
        if path.partition(b"?")[0] != b"/metrics":
            status, body = "404 Not Found", "metrics are at /metrics\n"
        elif not may:
            status, body = "403 Forbidden", "root or the agent's group may read this\n"
        else:
            status, body = "200 OK", self.server.metrics()
        encoded = body.encode()
        head = (
            f"HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
            f"Content-Length: {len(encoded)}\r\nConnection: close\r\n\r\n"
        )
        self._write(head.encode() + encoded)

    def _send(self, message: Mapping[str, Any]) -> None:
        self._write(json.dumps({"version": VERSION, **message}, ensure_ascii=False).encode() + b"\n")

    def _write(self, data: bytes) -> None:
        self._out += data
        try:
            self._flush()
        except OSError:
            self.close()
            return
        if len(self._out) > MAX_UNREAD_BYTES:
            self.close()

    def _flush(self) -> None:
        with contextlib.suppress(BlockingIOError):
            del self._out[: self._socket.send(self._out)]
        if self._out:
            self.server.loop.watch(self._socket, self._ready, READ | WRITE)
        elif self._ending:
            self.close()
        else:
            self.server.loop.watch(self._socket, self._ready)


def _parsed(line: bytes) -> Mapping[str, Any]:
    try:
        request = json.loads(line)
    except ValueError as error:
        raise PliantError(f"a request is one JSON object a line: {error}") from error
    if not isinstance(request, dict) or not isinstance(request.get("method"), str):
        raise PliantError('a request is an object with a "method", which is a string')
    if request.get("version", VERSION) != VERSION:
        raise PliantError(
            f"this agent speaks version {VERSION} of the protocol, not {request['version']}",
            remedy="use the pliant that the agent is from",
        )
    return request


def _check(method: Method, params: object) -> None:
    if not isinstance(params, dict):
        raise PliantError('"params" is an object')
    for name, value in params.items():
        if name not in method.params:
            known = ", ".join(method.params) or "none"
            raise PliantError(f"{method.name} has no parameter '{name}'", remedy=f"those there are: {known}")
        if not isinstance(value, method.params[name]) or (
            isinstance(value, bool) and bool not in method.params[name]
        ):
            types = " or ".join(kind.__name__ for kind in method.params[name])
            raise PliantError(f"{method.name}: '{name}' is of type {types}")


def _make_way(path: Path) -> None:
    """Remove the socket of an agent that was killed; raise for anything else that is in the way."""
    try:
        mode = path.stat(follow_symlinks=False).st_mode
    except OSError:
        return
    if not stat.S_ISSOCK(mode):
        raise PliantError(f"{path} is there and no socket", remedy="name another --socket")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink(missing_ok=True)
            return
    raise PliantError(f"another agent listens on {path}", remedy="stop that one, or name another --socket")
